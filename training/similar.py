"""Find messages that say nearly the same: near-duplicates in one language, and twin conversations in two.

`python -m pointsman.training.similar FILE...` reports both; `--write` gives the rows of conversations that belong
together a `group`, so that a split keeps them on one side; groups that are there already are joined, never split.
Everything here is lexical and runs without a model.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.adapters import Glossary
from pointsman.adapters.files import write_atomically
from pointsman.router import Conversation, MissingDependencyError, PointsmanError, detect_language, normalise

__all__ = ["NEAR", "TWIN", "Pair", "glossed", "near_duplicates", "twins"]

NEAR = 0.7
"""Jaccard similarity of character shingles from which two messages are near-duplicates; see docs/data.md."""

TWIN = 0.08
"""Similarity from which two conversations in two languages are twins; low on purpose: a pair that was missed lets a
split leak, a pair too many makes two small groups one. docs/data.md has the precision."""

_LAST_TURN = 1 / 3
"""Weight of the last message against the whole conversation in the similarity of twins."""
_GLOSSARY_WORDS = 60_000
_JARGON = Path(__file__).parent / "data" / "jargon.tsv"

_BANDS = 20
_ROWS = 4
"""Hashes in a band: two texts are compared when they agree in all hashes of one band."""

_TOKEN = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")
_WORD = re.compile(r"[a-z0-9_]{2,}")
_CHINESE = re.compile(r"[\u3400-\u9fff]+")
_LONGEST_WORD = 8
_ENDINGS = ("ings", "ing", "ies", "es", "ed", "s")
_SHORTEST_STEM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two places in what was compared, and how alike they are, 0 to 1."""

    first: int
    second: int
    similarity: float


def near_duplicates(texts: Sequence[str], *, threshold: float = NEAR) -> list[Pair]:
    """Return the pairs of different texts whose shingles have a Jaccard similarity of at least `threshold`.

    Shingles are three characters long, over Chinese two; case, punctuation and spacing do not count. A text that occurs
    twice is compared once, where it comes first. Candidates come from MinHash with bands (Broder 1997; Leskovec et al.,
    "Mining of Massive Datasets", 3.4) and are then compared exactly, so no pair is wrong, and of those with a
    similarity of 0.7 one in 240 is missed, of those with 0.8 one in 37,000.
    """
    first_at: dict[str, int] = {}
    for place, text in enumerate(texts):
        first_at.setdefault(text, place)
    places = list(first_at.values())
    numbers: dict[str, int] = {}
    sets = [frozenset(numbers.setdefault(s, len(numbers)) for s in _shingles(text)) for text in first_at]
    pairs: list[Pair] = []
    for one, other in _candidates(sets):
        shared = len(sets[one] & sets[other])
        similarity = shared / (len(sets[one]) + len(sets[other]) - shared)
        if similarity >= threshold:
            pairs.append(Pair(first=places[one], second=places[other], similarity=similarity))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def glossed(text: str, glossary: Mapping[str, str]) -> str:
    """Return `text` with its Chinese words replaced by their glosses, longest words first; unknown ones are dropped."""
    return _CHINESE.sub(lambda run: " ".join(("", *_glosses(run[0], glossary), "")), text)


def twins(
    english: Sequence[Conversation],
    chinese: Sequence[Conversation],
    *,
    glossary: Mapping[str, str],
    kinds: tuple[Sequence[str], Sequence[str]] | None = None,
    threshold: float = TWIN,
) -> list[Pair]:
    """Return the conversations of two languages that tell the same scenario, at most one partner each.

    The similarity is a weighted mean of two TF-IDF cosines over glossed text: of the whole conversation (two thirds)
    and of its last message (one third). Partners are assigned so that their similarities have the highest sum.

    Args:
        english: the first of a pair.
        chinese: the second of a pair.
        glossary: word -> English gloss.
        kinds: what sort each conversation is; only those of one sort are paired.
        threshold: lowest similarity of a pair.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingDependencyError(f"finding twins needs {error.name}: pip install 'pointsman[train]'") from error

    if not english or not chinese:
        return []
    both = (english, chinese)
    whole = [[glossed(_spoken(item), glossary) for item in side] for side in both]
    last = [[glossed(normalise(item.last_user_message), glossary) for item in side] for side in both]
    similarity = (1 - _LAST_TURN) * _cosines(*whole) + _LAST_TURN * _cosines(*last)
    if kinds is not None:
        similarity[np.array(kinds[0])[:, None] != np.array(kinds[1])[None, :]] = 0.0
    rows, columns = linear_sum_assignment(-similarity)
    found = [
        Pair(first=int(row), second=int(column), similarity=float(similarity[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if similarity[row, column] >= threshold
    ]
    return sorted(found, key=lambda pair: -pair.similarity)


def _shingles(text: str) -> frozenset[str]:
    tokens = _TOKEN.findall(text.lower())
    chinese = detect_language(text) == "zh"
    joined, size = ("".join(("^", *tokens, "$")), 2) if chinese else (f" {' '.join(tokens)} ", 3)
    if not tokens:
        return frozenset([text])
    return frozenset(joined[at : at + size] for at in range(max(1, len(joined) - size + 1)))


def _candidates(sets: Sequence[frozenset[int]]) -> set[tuple[int, int]]:
    """Return the pairs of sets that agree in all rows of some band of their MinHash signatures, lower number first."""
    if not sets:
        return set()
    members = np.fromiter((number for numbers in sets for number in numbers), dtype=np.uint64)
    starts = np.cumsum([0, *(len(numbers) for numbers in sets[:-1])])
    rng = np.random.default_rng(0)
    found: set[tuple[int, int]] = set()
    for _ in range(_BANDS):
        keys = np.zeros(len(sets), dtype=np.uint64)
        for _ in range(_ROWS):
            factor, offset = rng.integers(1, 2**63, size=2, dtype=np.uint64)
            smallest = np.minimum.reduceat((members * (factor | np.uint64(1)) + offset) >> np.uint64(32), starts)
            keys = (keys ^ smallest) * np.uint64(0x9E3779B97F4A7C15)
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        for bucket in np.split(order, edges):
            if len(bucket) > 1:
                found.update(itertools.combinations(bucket.tolist(), 2))
    return found


def _glosses(run: str, glossary: Mapping[str, str]) -> Iterator[str]:
    at = 0
    while at < len(run):
        for size in range(min(_LONGEST_WORD, len(run) - at), 0, -1):
            if gloss := glossary.get(run[at : at + size]):
                yield gloss
                break
        else:
            size = 1
        at += size


def _spoken(conversation: Conversation) -> str:
    return normalise("\n".join(message.content for message in conversation.messages))


def _cosines(english: Sequence[str], chinese: Sequence[str]) -> NDArray[np.float64]:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingDependencyError(f"finding twins needs {error.name}: pip install 'pointsman[train]'") from error

    if not any(map(_stems, (*english, *chinese))):
        return np.zeros((len(english), len(chinese)))
    vectorizer = TfidfVectorizer(analyzer=_stems, sublinear_tf=True).fit([*english, *chinese])
    cosines: NDArray[np.float64] = (vectorizer.transform(english) @ vectorizer.transform(chinese).T).toarray()
    return cosines


def _stems(text: str) -> list[str]:
    return [_stem(word) for word in _WORD.findall(text.lower())]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            return word.removesuffix(ending)
    return word


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    path: Path
    values: Mapping[str, Any]
    conversation: Conversation
    language: str

    @property
    def name(self) -> str:
        return hashlib.sha256(_spoken(self.conversation).encode()).hexdigest()[:12]


def _read(paths: Iterable[Path]) -> list[_Row]:
    from pointsman.training.examples import conversation_of, read_rows  # it imports this module

    rows = []
    for path in paths:
        for _, values in read_rows(path):
            conversation = conversation_of(values)
            language = str(values.get("lang") or detect_language(conversation.last_user_message))
            rows.append(_Row(path=path, values=values, conversation=conversation, language=language))
    return rows


def _scenarios(rows: Sequence[_Row], threshold: float) -> tuple[list[list[int]], list[Pair]]:
    """Return which rows belong together, and the twins among them; rows are numbered as given."""
    from pointsman.training.cedict import chinese_glossary

    sides = [[n for n, row in enumerate(rows) if row.language == language] for language in ("en", "zh")]
    kinds = [[f"{rows[n].values.get('kind')} {rows[n].values.get('label')}" for n in side] for side in sides]
    english, chinese = ([rows[n].conversation for n in side] for side in sides)
    glossary = chinese_glossary(_GLOSSARY_WORDS).merged(Glossary.read(_JARGON)).entries
    found = twins(english, chinese, glossary=glossary, kinds=(kinds[0], kinds[1]), threshold=threshold)
    pairs = [Pair(first=sides[0][p.first], second=sides[1][p.second], similarity=p.similarity) for p in found]
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        alike["ending " + " ".join(_TOKEN.findall(normalise(row.conversation.last_user_message).lower()))].append(
            number
        )
        if group := row.values.get("group"):
            alike[f"group {group}"].append(number)
    links = [(pair.first, pair.second) for pair in pairs]
    links += [(members[0], other) for members in alike.values() for other in members[1:]]
    return _components(len(rows), links), pairs


def _components(n: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    parent = list(range(n))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for first, second in links:
        parent[root(second)] = root(first)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for number in range(n):
        members[root(number)].append(number)
    return [group for group in members.values() if len(group) > 1]


def _write(rows: Sequence[_Row], groups: Sequence[Sequence[int]]) -> None:
    name_of = {number: _name([rows[n] for n in group]) for group in groups for number in group}
    lines: defaultdict[Path, list[str]] = defaultdict(list)
    for number, row in enumerate(rows):
        values = {**row.values, "group": name_of[number]} if number in name_of else row.values
        lines[row.path].append(json.dumps(values, ensure_ascii=False) + "\n")
    for path, content in lines.items():
        write_atomically(path, "".join(content).encode())


def _name(rows: Sequence[_Row]) -> str:
    """Return the first of the names that the rows bear already, else a new one."""
    given = [str(row.values["group"]) for row in rows if row.values.get("group")]
    return min(given) if given else f"scenario:{min(row.name for row in rows)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Report near-duplicates and twins in labelled files; with --write, group the rows that belong together."""
    parser = argparse.ArgumentParser(prog="python -m pointsman.training.similar", description=main.__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--near", type=float, default=NEAR, help="lowest similarity of near-duplicates (%(default)s)")
    parser.add_argument("--twin", type=float, default=TWIN, help="lowest similarity of twins (%(default)s)")
    parser.add_argument("--write", action="store_true", help="put a `group` into the rows of conversations")
    options = parser.parse_args(arguments)
    try:
        rows = _read(options.files)
        singles = [row for row in rows if len(row.conversation.messages) == 1]
        talks = [row for row in rows if len(row.conversation.messages) > 1]
        texts = [normalise(row.conversation.last_user_message) for row in singles]
        for pair in near_duplicates(texts, threshold=options.near):
            _say({"near": round(pair.similarity, 3), "texts": [texts[pair.first], texts[pair.second]]})
        groups, pairs = _scenarios(talks, options.twin) if talks else ([], [])
        for pair in pairs:
            both = [_spoken(talks[n].conversation) for n in (pair.first, pair.second)]
            _say({"twins": round(pair.similarity, 3), "conversations": both})
        if options.write and talks:
            _write(talks, groups)
    except (PointsmanError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 4
    grouped = sum(map(len, groups))
    sys.stderr.write(
        f"{len(singles)} messages; {len(talks)} conversations, {grouped} of them in {len(groups)} groups\n"
    )
    return 0


def _say(values: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
