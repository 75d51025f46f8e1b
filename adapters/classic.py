"""The gatekeeper under the names of the program that Pointsman grew from: synchronous, one object, plain dictionaries.

For scripts and notebooks. A service uses `Gatekeeper`, which does not block the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from pointsman.adapters.bundle import Bundle
from pointsman.adapters.engine import TorchEngine
from pointsman.adapters.store import shipped_bundle
from pointsman.router import Conversation, ConversationLike, Label, Scores, Window

__all__ = ["Classification", "LoRAQuestionClassifier"]


class Classification(TypedDict):
    """What is said about one question."""

    category: str
    """The label's name for people: 数据平台相关, 通用对话 or 无关问题."""
    label: str
    """The label's name: data_platform, general_chat or irrelevant."""
    label_id: int
    """The label's number, 0, 1 or 2."""
    confidence: float
    """The calibrated probability of `label`."""
    probabilities: dict[str, float]
    """By label name; they sum to 1."""


class LoRAQuestionClassifier:
    """Classifies questions with a bundle. Every call blocks until the model has answered."""

    def __init__(
        self,
        base_model_path: str | Path | None = None,
        lora_path: str | Path | None = None,
        *,
        device: str = "cpu",
        language: str = "zh",
    ) -> None:
        """Load a bundle.

        Args:
            base_model_path: folder of the base weights; by default they are looked for as `find_base` says.
            lora_path: folder of the bundle, as `LoRAQuestionClassifierTrainer.save_lora_weights` writes it; by default
                the one that comes with Pointsman.
            device: `cpu`, `cuda` or `cuda:N`.
            language: of the category names.

        Raises:
            BundleNotFoundError: there is no bundle in `lora_path`.
            BundleCorruptError: it is damaged, or does not fit the base.
            BaseModelError: the base is not found or has other weights than the bundle was trained on.
        """
        self.bundle = shipped_bundle() if lora_path is None else Bundle.open(Path(lora_path))
        self._engine = TorchEngine.load(
            self.bundle, base=None if base_model_path is None else str(base_model_path), device=device
        )
        self._labels = self.bundle.manifest.policy().labels
        self._language = language

    def classify_question(self, question: ConversationLike) -> Classification:
        """Return what a question is about; of a list of messages, its latest user message, read in context.

        Raises:
            InputError: `question` is neither a text nor a list of messages.
        """
        return self.classify_batch([question])[0]

    def classify_batch(self, questions: Sequence[ConversationLike]) -> list[Classification]:
        """Return one classification a question, in order.

        Raises:
            InputError: one of them is neither a text nor a list of messages.
        """
        windows = [Window.of(Conversation.of(question)) for question in questions]
        return [self._classification(scores) for scores in self._engine.run(windows)]

    def _classification(self, scores: Scores) -> Classification:
        number = next(number for number, label in enumerate(self._labels) if label.name == scores.label)
        return Classification(
            category=self._name_for_people(self._labels[number]),
            label=scores.label,
            label_id=number,
            confidence=scores.confidence,
            probabilities=dict(scores.probabilities),
        )

    def _name_for_people(self, label: Label) -> str:
        return label.display.get(self._language) or label.display.get("en") or label.name
