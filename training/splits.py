"""Splits by group: a conversation, its twin and its near-duplicates never sit on both sides."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pointsman.router import ConfigurationError
from pointsman.training.examples import Example

__all__ = ["Split", "near_duplicate_groups", "split_examples"]

_WORD = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")


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
    for example, group in zip(examples, near_duplicate_groups(examples), strict=True):
        place = int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8]) / 2**64
        for side, share in (*shares.items(), ("train", 1.0)):
            if place < share:
                sides[side].append(example)
                break
            place -= share
    return Split(**{side: tuple(members) for side, members in sides.items()})


def near_duplicate_groups(examples: Sequence[Example]) -> list[str]:
    """Return a group name an example.

    Single messages with the same set of words (Chinese: characters) are one group, whatever their order, case and
    punctuation; conversations keep the groups they carry. A name depends on nothing but its example.
    """
    return [example.group if example.window.previous_user else _words_hash(example) for example in examples]


def _words_hash(example: Example) -> str:
    words = sorted(set(_WORD.findall(example.window.message.lower()))) or [example.window.message]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()
