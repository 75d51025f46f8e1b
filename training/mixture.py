"""What one epoch is made of: capped sources, equal say for every label and language, context on and off, and noise.

The priors of a mixture of corpora are accidents of what was available; they must not become the model's.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pointsman.router import ConfigurationError, Window
from pointsman.router.checks import check_at_least
from pointsman.training.augment import perturb
from pointsman.training.examples import Example

__all__ = ["MixtureSettings", "epoch_examples", "example_weights"]

SELF_CONTAINED = frozenset({"switch_to_offtopic", "switch_to_data", "thanks_or_talk"})
"""Kinds of last messages that mean the same without their context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSettings:
    """How an epoch is drawn."""

    cap: int = 1200
    """Most examples of one source and label in an epoch; another sample is drawn for each epoch."""
    drop_context: float = 0.3
    """Share of self-contained messages read without their context."""
    add_context: float = 0.15
    """Share of single messages with a topic read after an unrelated turn."""
    perturb: float = 0.25
    """Share of messages with typos, other case, a greeting in front, a log behind and the like."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "cap")
        for name in ("drop_context", "add_context", "perturb"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"`{name}` must lie in 0..1, got {getattr(self, name)}")


def epoch_examples(examples: Sequence[Example], settings: MixtureSettings, *, seed: int) -> list[Example]:
    """Return the examples of one epoch in random order; the same seed gives the same epoch."""
    rng = random.Random(seed)  # noqa: S311 -- sampling, not secrets
    strata: defaultdict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        strata[example.source, example.label].append(example)
    chosen: list[Example] = []
    for members in strata.values():
        chosen += members if len(members) <= settings.cap else rng.sample(members, settings.cap)
    rng.shuffle(chosen)
    turns = [e.window for e in chosen if e.window.previous_reply] or [e.window for e in chosen]
    return [_varied(example, settings, rng, turns) for example in chosen]


def example_weights(examples: Sequence[Example]) -> list[float]:
    """Return loss weights with mean 1, such that each label has the same total, and within it each language.

    A label that a language lacks gives its share to the other languages.
    """
    cells = Counter((example.label, example.language) for example in examples)
    languages = Counter(label for label, _ in cells)
    labels = len(languages)
    return [
        len(examples) / (labels * languages[example.label] * cells[example.label, example.language])
        for example in examples
    ]


def _varied(example: Example, settings: MixtureSettings, rng: random.Random, turns: Sequence[Window]) -> Example:
    window = example.window
    if not window.alone and example.kind in SELF_CONTAINED and rng.random() < settings.drop_context:
        window = Window(message=window.message)
    elif window.alone and example.label != "general_chat" and rng.random() < settings.add_context:
        other = rng.choice(turns)
        window = replace(
            window, previous_user=other.previous_user or other.message, previous_reply=other.previous_reply
        )
    if rng.random() < settings.perturb:
        window = replace(window, message=perturb(window.message, rng))
    return replace(example, window=window)
