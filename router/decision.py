"""What the gatekeeper says about a message, and where the router therefore sends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType

from pointsman.router.errors import ConfigurationError

__all__ = ["DEFAULT_LABELS", "Decision", "Label", "Reason", "Scores"]

_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One class of messages. Labels are data: a bundle carries its own list, in the order of the model's outputs."""

    name: str
    route: str
    description: str = ""
    display: Mapping[str, str] = field(default_factory=dict)
    """Names for people, by language code."""

    def __post_init__(self) -> None:
        for what, value in (("name", self.name), ("route", self.route)):
            if not value or value != value.strip():
                raise ConfigurationError(f"a label's `{what}` must be a text without outer spaces, got {value!r}")


DEFAULT_LABELS = (
    Label(
        name="data_platform",
        route="knowledge_base",
        description="needs knowledge of data work or of the data platform",
        display=MappingProxyType({"en": "data platform", "zh": "数据平台相关"}),
    ),
    Label(
        name="general_chat",
        route="general_llm",
        description="has no topic of its own: talk, or talk about the talk",
        display=MappingProxyType({"en": "general chat", "zh": "通用对话"}),
    ),
    Label(
        name="irrelevant",
        route="refusal",
        description="has a topic, and that topic is not the data platform",
        display=MappingProxyType({"en": "irrelevant", "zh": "无关问题"}),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Calibrated probability per label; they sum to 1."""

    probabilities: Mapping[str, float]
    truncated: bool = False
    """Whether the message or its context was too long to be read whole."""

    def __post_init__(self) -> None:
        total = sum(self.probabilities.values())
        if not self.probabilities or not abs(total - 1) <= _ROUNDING:  # so that NaN is refused too
            raise ConfigurationError(f"probabilities must sum to 1, got {dict(self.probabilities)!r}")

    @property
    def label(self) -> str:
        """The most probable label; of equals, the first."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """The probability of `label`."""
        return self.probabilities[self.label]

    @property
    def margin(self) -> float:
        """How far `label` is ahead of the runner-up, in probability."""
        first, second = sorted((*self.probabilities.values(), 0.0), reverse=True)[:2]
        return first - second


class Reason(StrEnum):
    """Why a message took its route."""

    CONFIDENT = "confident"
    UNSURE = "unsure"
    """Following the label would be less safe than its threshold demands; see `Policy`."""
    GATEKEEPER_FAILED = "gatekeeper_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where one message goes, and everything needed to say why."""

    id: str
    label: str
    route: str
    probabilities: Mapping[str, float]
    confidence: float
    margin: float
    reason: Reason
    bundle: str
    truncated: bool
    seconds: float
    """From the call to the decision, waiting included."""

    def as_dict(self) -> dict[str, object]:
        """Return the decision as plain values, ready for JSON."""
        return {**asdict(self), "probabilities": dict(self.probabilities), "reason": str(self.reason)}
