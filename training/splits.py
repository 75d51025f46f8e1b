"""Splits by group: a conversation, its twin and its near-duplicates never sit on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pointsman.router import ConfigurationError
from pointsman.training.examples import Example

__all__ = ["Split", "near_duplicates_across", "split_examples"]


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


def near_duplicates_across(split: Split) -> dict[str, int]:
    """Return how many single messages of each side but `train` nearly repeat one of `train`; see `similar`."""
    from pointsman.training.similar import near_duplicates  # a program of its own, which `python -m` must load first

    sides = ("train", "validation", "calibration", "heldout")
    texts, side_of = [], []
    for side in sides:
        for example in getattr(split, side):
            if example.window.alone:
                texts.append(example.window.message)
                side_of.append(side)
    close = {place for pair in near_duplicates(texts) for place in _apart(pair.first, pair.second, side_of)}
    return {side: sum(side_of[place] == side for place in close) for side in sides[1:]}


def _apart(first: int, second: int, side_of: Sequence[str]) -> list[int]:
    """Return the one of the two that is not in `train` where the other one is."""
    kept = [place for place in (first, second) if side_of[place] != "train"]
    return kept if len(kept) == 1 else []
