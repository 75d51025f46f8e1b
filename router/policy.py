"""From probabilities to a route. Pure: no model, no clock, no state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pointsman.router.decision import DEFAULT_LABELS, Label, Reason, Scores
from pointsman.router.errors import ConfigurationError

__all__ = ["Choice", "Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A route and why it was taken."""

    route: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Follow the most probable label where that is safe enough, else take `unsure_route`.

    Safety is the probability that the message does *not* belong to the unsure route: 1 - P(data_platform) by default.
    A label is followed where safety reaches the label's threshold; a label without a threshold is always followed. The
    unsure route is the knowledge base by default and never the refusal: refusing a real question is the worst error.
    """

    labels: Sequence[Label] = DEFAULT_LABELS
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Lowest safety at which a label is followed, by label name."""
    unsure_route: str = "knowledge_base"

    def __post_init__(self) -> None:
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names) or not names:
            raise ConfigurationError(f"label names must be unique and at least one, got {names!r}")
        for name, threshold in self.thresholds.items():
            if name not in names:
                raise ConfigurationError(f"threshold for an unknown label {name!r}; the labels are {', '.join(names)}")
            if not 0 <= threshold <= 1:
                raise ConfigurationError(f"the threshold of {name!r} must lie in 0..1, got {threshold!r}")
        if self.unsure_route == "refusal":
            raise ConfigurationError(
                "`unsure_route` must not be the refusal; use the knowledge base or the general LLM"
            )

    def choose(self, scores: Scores) -> Choice:
        """Return where a message with these scores goes.

        Raises:
            ConfigurationError: the scores name a label that the policy does not know.
        """
        label = next((label for label in self.labels if label.name == scores.label), None)
        if label is None:
            known = ", ".join(label.name for label in self.labels)
            raise ConfigurationError(f"the gatekeeper said {scores.label!r}; the policy knows {known}")
        if self.safety(scores) < self.thresholds.get(label.name, 0.0):
            return Choice(route=self.unsure_route, reason=Reason.UNSURE)
        return Choice(route=label.route, reason=Reason.CONFIDENT)

    def safety(self, scores: Scores) -> float:
        """Return the probability that the message belongs to another route than the unsure one, 0 to 1."""
        protected = (label.name for label in self.labels if label.route == self.unsure_route)
        return 1.0 - sum(scores.probabilities.get(name, 0.0) for name in protected)
