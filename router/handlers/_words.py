"""What a text is indexed and asked under: words, Chinese character pairs, what is left out, and English synonyms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pointsman.router.text import normalise

__all__ = ["Unit", "index_terms", "query_terms", "query_units", "synonyms"]

_CHARACTER_WEIGHT = 0.3  # of a single Chinese character; a pair, like a word, has 1
_CJK = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_CHINESE = re.compile(rf"[{_CJK}]")
_STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "a about after again all also am an and another any anybody anyone anything are as at be because been before "
        "being between both but by can cannot could d did do does doing done each else every everybody everyone "
        "everything for from get gets getting give go goes going got had has have having he her here him his how i if "
        "in into is it its just let like ll m make many may maybe me mean might mine more most much must my myself "
        "need needs no nor not of off ok on one only or other our out over please put re really s see set shall she "
        "should so some somebody someone something still such t take tell than thanks that the their them then there "
        "these they thing things this those through to too up us use used using ve very via want was way we well were "
        "what when where which while who whom whose why will with without work would you your",
    )
)
_STOP_PHRASES = re.compile(
    "怎么办|怎么弄|怎么样|能不能|可不可以|有没有|要不要|是不是|会不会|什么|怎么|怎样|如何|为什么|哪个|哪些|哪里|哪儿|多少|请问|可以|一下|干嘛|时候"
    "|这个|那个|我们|你们|咱们|现在|应该|需要|老是|总是|一直|还是|或者|以及|[吗呢吧啊呀嘛了的我你您谁啥是]"
)
# No mass of their own: they are parts of words (在线, 去重) as often as they are fillers.
_STOP_CHARACTERS = frozenset("在和把被给到也都就还又该去几有想要会能再先才让对从跟与用做搞弄")
# The words of the trade that people use for each other; both ends are stemmed by the index, plurals are matched here.
_SYNONYMS = {
    word: frozenset(group.split()) - {word}
    for group in (
        "job pipeline flow dag workflow",
        "dashboard board report chart",
        "delete remove drop erase",
        "rerun reprocess backfill replay",
        "fail crash break error broken failure",
        "maximum max limit biggest largest",
        "permission access grant right",
        "cost money spend price budget expensive bill credit",
        "notify alert page warn",
        "late delay lag slow",
        "null missing empty blank",
        "duplicate dedupe deduplicate double",
        "undo restore rollback recover revert",
        "mask hide anonymise redact",
        "metric kpi measure indicator",
        "excel xlsx spreadsheet csv",
        "download export",
        "upload import",
        "memory ram oom",
        "schedule cron",
        "column field attribute",
        "row record line",
        "newcomer newbie joiner onboarding",
        "leak breach",
        "check rule validate",
        "library package module",
        "key token credential",
        "extend renew prolong",
        "approve confirm sign consent",
        "timezone zone utc",
    )
    for word in group.split()
}
_ENDINGS = ("", "s", "es", "d", "ed", "ing")


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a question, which a passage covers by holding one of `terms`."""

    terms: tuple[str, ...]
    mass: float | None = None
    """None: the inverse document frequency of the only term."""


def index_terms(text: str) -> Iterator[str]:
    """Yield what a text is indexed under."""
    for run in _RUN.findall(normalise(text).lower()):
        if _CHINESE.match(run):
            yield from run
            yield from _pairs(run)
        else:
            yield run


def query_terms(question: str) -> dict[str, float]:
    """Return what is looked up for a question, with weights."""
    terms: dict[str, float] = {}
    for run in _content_runs(question):
        if not _CHINESE.match(run):
            terms[run] = 1.0
            continue
        terms |= dict.fromkeys(_pairs(run), 1.0)
        single = _CHARACTER_WEIGHT if len(run) > 1 else 1.0
        for character in run:
            if character not in _STOP_CHARACTERS:
                terms[character] = max(single, terms.get(character, 0.0))
    return terms


def query_units(question: str) -> Iterator[Unit]:
    """Yield the parts of a question of which an answer must cover enough."""
    for run in _content_runs(question):
        if not _CHINESE.match(run):
            yield Unit((run,))
            continue
        for position, character in enumerate(run):
            if character not in _STOP_CHARACTERS:  # covered by a pair it is in; alone only where it stands alone
                yield Unit(tuple(_pairs(run[max(position - 1, 0) : position + 2])) or (character,), mass=1.0)


def synonyms(word: str) -> frozenset[str]:
    """Return the other words for an English word, in any of its usual endings."""
    stems = (word.removesuffix(ending) for ending in _ENDINGS)
    return next((_SYNONYMS[stem] for stem in stems if stem in _SYNONYMS), frozenset())


def _content_runs(question: str) -> Iterator[str]:
    """Yield the words and stretches of Chinese that are left without stopwords."""
    for run in _RUN.findall(question):
        if _CHINESE.match(run):
            yield from _STOP_PHRASES.sub(" ", run).split()
        elif run not in _STOPWORDS:
            yield run


def _pairs(run: str) -> list[str]:
    return [run[start : start + 2] for start in range(len(run) - 1)]
