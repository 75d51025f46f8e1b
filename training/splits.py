"""Splits by group: a conversation, its twin and its near-duplicates never sit on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pointsman.router import ConfigurationError
from pointsman.training.examples import Example

__all__ = ["Split", "near_duplicates_across", "split_examples"]

_OTHERS = ("validation", "calibration", "heldout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Examples to learn from, to stop on, to calibrate on, and to report on; none serves two of these."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    calibration: tuple[Example, ...]
    heldout: tuple[Example, ...]


def split_examples(
    examples: Sequence[Example],
    *,
    validation: float = 0.04,
    calibration: float = 0.12,
    heldout: float = 0.10,
    seed: int = 0,
) -> Split:
    """Split by group; which side a group falls on depends on its name and the seed alone, not on its neighbours.

    So a message that was held out once stays held out when more data come.

    Raises:
        ConfigurationError: the shares do not leave anything to train on.
    """
    shares = {"heldout": heldout, "calibration": calibration, "validation": validation}
    if min(shares.values()) < 0 or sum(shares.values()) >= 1:
        raise ConfigurationError(f"shares must not be negative and must sum below 1, got {shares}")
    sides: dict[str, list[Example]] = {side: [] for side in (*shares, "train")}
    for example in examples:
        place = int.from_bytes(hashlib.sha256(f"{seed}:{example.group}".encode()).digest()[:8]) / 2**64
        for side, share in (*shares.items(), ("train", 1.0)):
            if place < share:
                sides[side].append(example)
                break
            place -= share
    return Split(**{side: tuple(members) for side, members in sides.items()})


def near_duplicates_across(split: Split, pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return how many single messages of each side but `train` nearly repeat one of `train`, by `pairs` of messages."""
    side_of: dict[str, str] = {}
    for side in ("train", *_OTHERS):
        for example in getattr(split, side):
            if example.window.alone:
                side_of.setdefault(example.window.message, side)
    close = {
        message
        for first, second in pairs
        for message, other in ((first, second), (second, first))
        if side_of.get(message) in _OTHERS and side_of.get(other) == "train"
    }
    return {side: sum(side_of[message] == side for message in close) for side in _OTHERS}
