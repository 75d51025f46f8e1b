"""Training under the names of the program that Pointsman grew from: one object, integers for labels.

Everything is done by `training.train`; this only speaks the older words. New code takes a `Recipe` and `train`.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from pointsman.adapters import DEFAULT_BASE, Bundle, LoraSettings, Template, TorchEngine
from pointsman.adapters.manifest import LabelEntry
from pointsman.router import DEFAULT_LABELS, BundleError, ConfigurationError, GatekeeperOutOfMemory, Label
from pointsman.training.evaluate import Evaluation, evaluate
from pointsman.training.examples import Findings, read_examples
from pointsman.training.fit import FitResult, FitSettings, Progress
from pointsman.training.recipe import GlossarySettings, Recipe, SplitSettings
from pointsman.training.train import Trained, train

__all__ = ["LoRAQuestionClassifierTrainer"]

logger = logging.getLogger(__name__)

_AUTHORED = Path(__file__).parent / "data"
_FEW = 300
"""Examples; of fewer none are kept from training, and neither temperature nor thresholds are fitted."""
_SHOWN = 10


class LoRAQuestionClassifierTrainer:
    """Trains a bundle. Override `prepare_training_data` to train on your own messages.

    Progress goes to the logger `pointsman.training`: epochs at INFO, steps at DEBUG.
    """

    def __init__(
        self,
        model_path: str | Path = DEFAULT_BASE,
        save_dir: str | Path = "./lora_models",
        lora_rank: int = 16,
        lora_alpha: float = 32,
        lora_dropout: float = 0.1,
        *,
        labels: Sequence[Label] = DEFAULT_LABELS,
        template: Template | None = None,
        glossary_words: int | None = None,
    ) -> None:
        """Take the settings; nothing is loaded yet.

        Args:
            model_path: folder or hub id of any BERT-like base, such as `bert-base-chinese`.
            save_dir: folder that gets the trained bundles.
            lora_rank: r of the adapter's matrices.
            lora_alpha: the adapter is scaled by alpha / r.
            lora_dropout: on the adapter's inputs.
            labels: in the order of the numbers that `prepare_training_data` returns; add a `Label` to add a class.
            template: how many tokens are read.
            glossary_words: most frequent Chinese words to teach the base; by default 25,000 for the default base, which
                is English, and none for another one.

        Raises:
            ConfigurationError: a setting is out of range.
        """
        self.model_path = str(model_path)
        self.save_dir = Path(save_dir)
        self.labels = tuple(labels)
        self._lora = LoraSettings(rank=lora_rank, alpha=lora_alpha, dropout=lora_dropout)
        self._template = template or Template()
        if glossary_words is None:
            glossary_words = GlossarySettings().words if self.model_path == DEFAULT_BASE else 0
        self._glossary_words = glossary_words
        self._trained: Trained | None = None

    def prepare_training_data(self) -> tuple[list[str], list[int]]:
        """Return texts and the number of the label of each: the single messages that come with Pointsman.

        Override it to train on your own.
        """
        numbers = {label.name: number for number, label in enumerate(self.labels)}
        examples = read_examples(sorted(_AUTHORED.glob("*.jsonl")), labels=list(numbers))
        alone = [example for example in examples if example.window.alone]
        return [example.window.message for example in alone], [numbers[example.label] for example in alone]

    def train(self, epochs: int = 5, batch_size: int = 8, learning_rate: float = 1e-4) -> FitResult:
        """Train on what `prepare_training_data` returns; `save_lora_weights` keeps the result.

        Raises:
            ConfigurationError: texts and labels do not match, or a label has no examples.
            BaseModelError: the base is not found or not usable.
            GatekeeperOutOfMemory: a batch did not fit; the message says what to lower.
        """
        folder = Path(tempfile.mkdtemp(prefix="pointsman-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        count = self._write_examples(folder / "training_data.jsonl")
        nothing_kept = SplitSettings(validation=0, calibration=0, heldout=0)
        recipe = Recipe(
            data=(folder / "training_data.jsonl",),
            base=self.model_path,
            labels=tuple(LabelEntry.of(label) for label in self.labels),
            unsure_route=next((label.route for label in self.labels if label.route != "refusal"), "knowledge_base"),
            glossary=GlossarySettings(words=self._glossary_words),
            template=self._template,
            lora=self._lora,
            fit=FitSettings(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, patience=0),
            split=nothing_kept if count < _FEW else SplitSettings(),
        )
        try:
            trained = train(recipe, folder / "bundles", on_findings=_log_findings, on_progress=_log_progress)
        except GatekeeperOutOfMemory as error:
            raise GatekeeperOutOfMemory(
                f"{error}. Here: call train(batch_size={max(1, batch_size // 2)}), or pass a template with fewer "
                "max_tokens; a smaller lora_rank saves little. On CUDA, nvidia-smi shows what else holds memory; set "
                "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, or train on the CPU with CUDA_VISIBLE_DEVICES=''"
            ) from error
        self._trained = trained
        share = trained.fit.trainable / trained.fit.total
        logger.info("trained %d of %d parameters (%.2f %%)", trained.fit.trainable, trained.fit.total, 100 * share)
        return trained.fit

    def save_lora_weights(self, name: str = "final_model") -> Bundle:
        """Write the trained bundle to `save_dir/name`, in place of an earlier bundle there, and return it.

        Raises:
            ConfigurationError: nothing was trained yet.
            BundleError: the disk is full, the folder is not writable, or holds something else than a bundle.
        """
        target = self.save_dir / name
        bundle = self._bundle()
        if not (target / "manifest.json").is_file():
            return bundle.copy_to(target)
        try:
            with tempfile.TemporaryDirectory(prefix=".replacing-", dir=self.save_dir) as aside:
                new = bundle.copy_to(Path(aside) / "new")
                target.rename(Path(aside) / "old")
                new.path.rename(target)
        except OSError as error:
            raise BundleError(f"the bundle in {target} was not replaced: {error}") from error
        return Bundle(path=target, manifest=bundle.manifest)

    def evaluate(self, path: str | Path) -> Evaluation:
        """Return the figures of the trained bundle on a labelled JSONL or CSV file.

        Raises:
            ConfigurationError: nothing was trained yet.
            DataError: the file cannot be used; the message names the lines.
        """
        bundle = self._bundle()
        examples = read_examples([Path(path)], labels=[label.name for label in self.labels])
        engine = TorchEngine.load(bundle, base=self.model_path)
        return evaluate(engine, examples, policy=bundle.manifest.policy(), bundle=bundle.id)

    def test(self, path: str | Path) -> Evaluation:
        """Like `evaluate`, and log the figures and the surest mistakes at INFO."""
        found = self.evaluate(path)
        logger.info("%d messages: accuracy %.3f, macro-F1 %.3f", found.n, found.accuracy, found.macro_f1)
        for mistake in found.mistakes[:_SHOWN]:
            said = f"{mistake.predicted} ({mistake.confidence:.2f})"
            logger.info("mistake: %r is %s, the model says %s", mistake.text[:80], mistake.truth, said)
        return found

    def _bundle(self) -> Bundle:
        if self._trained is None:
            raise ConfigurationError("nothing was trained yet; call train() first")
        return self._trained.bundle

    def _write_examples(self, path: Path) -> int:
        texts, numbers = self.prepare_training_data()
        if len(texts) != len(numbers):
            raise ConfigurationError(f"prepare_training_data returned {len(texts)} texts and {len(numbers)} labels")
        with path.open("w", encoding="utf-8") as file:
            for text, number in zip(texts, numbers, strict=True):
                if not 0 <= number < len(self.labels):
                    raise ConfigurationError(
                        f"the label of {text[:60]!r} is {number!r}; there are {len(self.labels)} labels, so it must "
                        f"lie in 0..{len(self.labels) - 1}; pass `labels` to add one"
                    )
                file.write(json.dumps({"text": text, "label": self.labels[number].name}) + "\n")
        return len(texts)


def _log_findings(findings: Findings) -> None:
    logger.info("training on %d messages: %s", findings.n, dict(findings.per_label))
    for warning in findings.warnings():
        logger.warning("%s", warning)


def _log_progress(progress: Progress) -> None:
    logger.debug("epoch %d, step %d of %d: loss %.4f", progress.epoch + 1, progress.step, progress.total, progress.loss)
    if progress.validation is not None:
        logger.info("epoch %d: validation macro-F1 %.3f", progress.epoch + 1, progress.validation)
