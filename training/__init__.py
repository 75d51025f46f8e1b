"""Examples, fit, calibration, evaluation. torch, peft, accelerate and scipy are imported inside functions only."""

if __name__ != "pointsman.training":
    raise ImportError(f"import pointsman.training, not {__name__}: a second copy of every class would be made")

from pointsman.training.classic import LoRAQuestionClassifierTrainer
from pointsman.training.evaluate import Evaluation, evaluate
from pointsman.training.examples import Example, Findings, inspect_examples, read_examples
from pointsman.training.fit import FitResult, FitSettings, Progress, fit
from pointsman.training.mixture import MixtureSettings
from pointsman.training.recipe import Recipe
from pointsman.training.splits import Split, split_examples
from pointsman.training.train import Trained, train

__all__ = [
    "Evaluation",
    "Example",
    "Findings",
    "FitResult",
    "FitSettings",
    "LoRAQuestionClassifierTrainer",
    "MixtureSettings",
    "Progress",
    "Recipe",
    "Split",
    "Trained",
    "evaluate",
    "fit",
    "inspect_examples",
    "read_examples",
    "split_examples",
    "train",
]
