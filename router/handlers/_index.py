"""Full-text search over passages in English and Chinese, in memory, on SQLite's FTS5. One thread at a time.

Chinese is indexed as character pairs and single characters, everything else as words with Porter stems. The weights
and the threshold were chosen on the questions marked `tune` in `benchmarks/data/kb_questions.jsonl`;
`benchmarks/kb_retrieval.py` reports others.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pointsman.router.errors import ConfigurationError, MissingDependencyError
from pointsman.router.handlers._passages import SEPARATOR, Passage
from pointsman.router.handlers._words import Unit, index_terms, query_terms, query_units, synonyms
from pointsman.router.text import detect_language, normalise

__all__ = ["LONGEST_QUESTION", "THRESHOLD", "PassageIndex"]

THRESHOLD = 0.30
"""Lowest relevance at which a question counts as answered.

Relevance is the share of the question's mass that a passage covers: a word weighs its inverse document frequency
ln(1 + (N - n + 0.5) / (n + 0.5)), a Chinese character 1 (its own frequency says little about what a question is after).
At 0.30 the tuning questions lost 7 % of their answers, and 71 % of those without an answer were recognised; at 0.25 it
was 4 % and 54 %, at 0.35 13 % and 75 %.
"""
LONGEST_QUESTION = 1_000
"""Characters; of a longer one, mostly a pasted log, the first and the last half of that are read."""

_HEADING_WEIGHT = 1.5  # of a passage's own heading; for what opens a page that is the page's title
_ABOVE_WEIGHT = 0.5  # of the headings above
_OTHER_LANGUAGE = 0.5  # factor on the score of a passage in another language than the question
_SYNONYM_WEIGHT = 0.5  # of a word that means the same, in score and in relevance
_KNOWN_SHARE = 0.5  # of a follow-up's mass that must occur somewhere in the pages
_JUDGED = 3  # one of the best so many must reach the threshold

_Hits = Mapping[str, Mapping[int, float]]  # term -> number of a passage -> BM25 score


class PassageIndex:
    """Finds the passages that fit a question best."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Index the passages.

        Raises:
            ConfigurationError: there are none.
            MissingDependencyError: this Python's SQLite lacks FTS5.
        """
        if not passages:
            raise ConfigurationError("a knowledge base needs at least one passage, got none")
        self._passages = tuple(passages)
        self._languages = [detect_language(f"{passage.title} {passage.text}") for passage in passages]
        self._database = sqlite3.connect(":memory:", check_same_thread=False)  # built here, then used by one worker
        try:
            self._database.execute(
                "CREATE VIRTUAL TABLE passages "
                "USING fts5(heading, above, body, content='', tokenize='porter unicode61')"
            )
        except sqlite3.OperationalError as error:
            self._database.close()
            raise MissingDependencyError(
                f"expected SQLite with FTS5, found {sqlite3.sqlite_version} without ({error}); use a Python that has it"
            ) from error
        self._database.executemany(
            "INSERT INTO passages(rowid, heading, above, body) VALUES (?, ?, ?, ?)",
            (
                (number, *(" ".join(index_terms(text)) for text in (heading, above, passage.text)))
                for number, passage in enumerate(passages)
                for above, _, heading in [passage.title.rpartition(SEPARATOR)]
            ),
        )

    def search(self, question: str, limit: int, context: str = "") -> list[Passage]:
        """Return at most `limit` passages, best first; none when no passage covers enough of the question.

        The score is BM25, summed over the question's terms; passages in the question's language are preferred. With a
        context, an earlier message that the question goes on with, both are searched as one; yet nothing is returned
        when most of the question itself is foreign to the pages, lest the context alone be answered again.
        """
        question = _normal(question)
        whole = f"{_normal(context)}\n{question}"
        weights = query_terms(whole)
        hits = {term: self._hits(term) for term in weights}
        near = {term: self._near_hits(synonyms(term) - weights.keys()) for term in weights}
        if context and self._known_share(list(query_units(question)), hits) < _KNOWN_SHARE:
            return []
        scores: dict[int, float] = {}
        for term, weight in weights.items():
            for number in hits[term].keys() | near[term].keys():
                score = max(hits[term].get(number, 0.0), near[term].get(number, 0.0))
                scores[number] = scores.get(number, 0.0) + weight * score
        language = detect_language(question)
        for number in scores:
            scores[number] *= _OTHER_LANGUAGE if self._languages[number] != language else 1.0
        best = sorted(scores, key=lambda number: (-scores[number], number))[: max(limit, _JUDGED)]
        relevance = self._relevance(list(query_units(whole)), hits, near, best)
        if not any(relevance[number] >= THRESHOLD for number in best[:_JUDGED]):
            return []
        kept = [number for number in best if relevance[number] >= THRESHOLD / 2]
        return [replace(self._passages[number], score=scores[number]) for number in kept[:limit]]

    def close(self) -> None:
        """Free the memory; twice is fine."""
        self._database.close()

    def _hits(self, term: str) -> dict[int, float]:
        """Return the BM25 score of every passage that holds the term, by its number."""
        # Quoted, and made of letters and digits only: no term is read as FTS5 syntax.
        rows = self._database.execute(
            "SELECT rowid, -bm25(passages, ?, ?, 1.0) FROM passages WHERE passages MATCH ?",
            (_HEADING_WEIGHT, _ABOVE_WEIGHT, f'"{term}"'),
        )
        return dict(rows.fetchall())

    def _near_hits(self, words: Iterable[str]) -> dict[int, float]:
        found: dict[int, float] = {}
        for word in words:
            for number, score in self._hits(word).items():
                found[number] = max(found.get(number, 0.0), _SYNONYM_WEIGHT * score)
        return found

    def _relevance(self, units: Sequence[Unit], hits: _Hits, near: _Hits, numbers: Sequence[int]) -> dict[int, float]:
        total = sum(self._mass(unit, hits) for unit in units) or 1.0  # only stop characters: nothing to cover
        relevance = dict.fromkeys(numbers, 0.0)
        for unit in units:
            share = self._mass(unit, hits) / total
            for number in numbers:
                if any(number in hits[term] for term in unit.terms):
                    relevance[number] += share
                elif any(number in near[term] for term in unit.terms):
                    relevance[number] += share * _SYNONYM_WEIGHT
        return relevance

    def _known_share(self, units: Sequence[Unit], hits: _Hits) -> float:
        masses = [(self._mass(unit, hits), any(hits[term] for term in unit.terms)) for unit in units]
        total = sum(mass for mass, _ in masses)
        return sum(mass for mass, known in masses if known) / total if total else 1.0  # "why?" is foreign to nothing

    def _mass(self, unit: Unit, hits: _Hits) -> float:
        if unit.mass is not None:
            return unit.mass
        holders = len(hits[unit.terms[0]])
        return math.log(1 + (len(self._passages) - holders + 0.5) / (holders + 0.5))


def _normal(question: str) -> str:
    if len(question) > LONGEST_QUESTION:
        question = f"{question[: LONGEST_QUESTION // 2]}\n{question[-LONGEST_QUESTION // 2 :]}"
    return normalise(question).lower()
