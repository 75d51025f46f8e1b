"""Splits by group: a conversation, its twin and its near-duplicates never sit on both sides."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
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
    """Return a group name an example: its own group, joined with those of messages that have the same words.

    Single messages are near-duplicates when their sets of words (Chinese: characters) are equal, whatever the order,
    case and punctuation. Conversations keep the groups they carry.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for members in _buckets((_words(e), e.group) for e in examples if not e.window.previous_user):
        first, *others = sorted({find(group) for group in members})
        for other in others:
            parent[other] = first
    return [find(example.group) for example in examples]


def _words(example: Example) -> frozenset[str]:
    words = frozenset(_WORD.findall(example.window.message.lower()))
    return words or frozenset([example.window.message])


def _buckets(pairs: Iterable[tuple[Hashable, str]]) -> Iterable[list[str]]:
    buckets: defaultdict[Hashable, list[str]] = defaultdict(list)
    for key, value in pairs:
        buckets[key].append(value)
    return buckets.values()
