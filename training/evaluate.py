"""Score a bundle on labelled messages: accuracy, macro-F1, slices with intervals, calibration, cost of routing."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pointsman.adapters.engine import Engine
from pointsman.router import Policy, Scores
from pointsman.training.examples import Example
from pointsman.training.metrics import (
    confusion_matrix,
    expected_calibration_error,
    f1_scores,
    macro_f1,
    wilson_interval,
)

__all__ = ["Evaluation", "LabelFigures", "Mistake", "Routed", "Slice", "evaluate", "score"]

_CHUNK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """Figures of one label; `n` messages truly have it."""

    precision: float
    recall: float
    f1: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Accuracy on a part of the messages, with its 95 % Wilson interval."""

    n: int
    accuracy: float
    low: float
    high: float
    macro_f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """What the policy makes of the labels. Rates are shares of all messages that truly have the label."""

    false_refusal_rate: float
    """Of data-platform messages, refused."""
    lost_data_rate: float
    """Of data-platform messages, sent to the general LLM."""
    wasted_kb_rate: float
    """Of other messages, sent to the knowledge base."""
    refused_irrelevant_rate: float
    """Of irrelevant messages, refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One message that got another label than it has."""

    text: str
    context: str
    truth: str
    predicted: str
    confidence: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything `pointsman evaluate` reports; `as_dict` is its JSON."""

    bundle: str
    n: int
    accuracy: float
    macro_f1: float
    per_label: Mapping[str, LabelFigures]
    confusion: Mapping[str, Mapping[str, int]]
    """Truth -> predicted -> count."""
    ece: float
    coverage: float
    """Share of messages that the policy does not call unsure."""
    routed: Routed
    slices: Mapping[str, Mapping[str, Slice]]
    """By `label`, `language`, `source`, `turn` and `kind`."""
    reliability: Sequence[tuple[float, float, int]]
    """Mean confidence, accuracy and count of each confidence bin that is not empty."""
    mistakes: Sequence[Mistake]
    """Most confident first."""
    seconds: float

    def as_dict(self, *, mistakes: int = 0) -> dict[str, object]:
        """Return plain values for JSON, with at most `mistakes` mistakes."""
        values = asdict(self)
        values["mistakes"] = values["mistakes"][:mistakes]
        return values


def score(
    engine: Engine, examples: Sequence[Example], *, on_progress: Callable[[int], None] = lambda done: None
) -> list[Scores]:
    """Return the engine's scores of the examples, in order; `on_progress` gets the number done so far."""
    scores: list[Scores] = []
    for start in range(0, len(examples), _CHUNK):
        scores += engine.run([example.window for example in examples[start : start + _CHUNK]])
        on_progress(len(scores))
    return scores


def evaluate(
    engine: Engine,
    examples: Sequence[Example],
    *,
    policy: Policy,
    bundle: str,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Return the figures of an engine under a policy on labelled examples (at least one)."""
    started = time.perf_counter()
    scores = score(engine, examples, on_progress=on_progress)
    names = [label.name for label in policy.labels]
    truth = np.array([names.index(example.label) for example in examples])
    predicted = np.array([names.index(item.label) for item in scores])
    confidence = np.array([item.confidence for item in scores])
    correct = truth == predicted
    matrix = confusion_matrix(truth, predicted, len(names))
    precision, recall, f1 = f1_scores(matrix)
    choices = [policy.choose(item) for item in scores]
    return Evaluation(
        bundle=bundle,
        n=len(examples),
        accuracy=float(correct.mean()),
        macro_f1=macro_f1(truth, predicted, len(names)),
        per_label={
            name: LabelFigures(
                precision=float(precision[i]), recall=float(recall[i]), f1=float(f1[i]), n=int(matrix[i].sum())
            )
            for i, name in enumerate(names)
        },
        confusion={name: {other: int(matrix[i, j]) for j, other in enumerate(names)} for i, name in enumerate(names)},
        ece=expected_calibration_error(confidence, correct),
        coverage=float(np.mean([choice.reason != "unsure" for choice in choices])),
        routed=_routed([e.label for e in examples], [choice.route for choice in choices], policy),
        slices=_slices(examples, truth, predicted, len(names)),
        reliability=_reliability(confidence, correct),
        mistakes=_mistakes(examples, scores),
        seconds=time.perf_counter() - started,
    )


def _routed(labels: Sequence[str], routes: Sequence[str], policy: Policy) -> Routed:
    route_of = {label.name: label.route for label in policy.labels}
    knowledge = "knowledge_base" if "knowledge_base" in route_of.values() else policy.unsure_route
    pairs = [(route_of[label], route) for label, route in zip(labels, routes, strict=True)]

    def rate(of: Callable[[str], bool], went: str) -> float:
        taken = [route == went for true_route, route in pairs if of(true_route)]
        return float(np.mean(taken)) if taken else 0.0

    return Routed(
        false_refusal_rate=rate(lambda route: route == knowledge, "refusal"),
        lost_data_rate=rate(lambda route: route == knowledge, "general_llm"),
        wasted_kb_rate=rate(lambda route: route != knowledge, knowledge),
        refused_irrelevant_rate=rate(lambda route: route == "refusal", "refusal"),
    )


def _slices(
    examples: Sequence[Example], truth: np.ndarray, predicted: np.ndarray, n_labels: int
) -> dict[str, dict[str, Slice]]:
    rows: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, example in enumerate(examples):
        rows["label"][example.label].append(row)
        rows["language"][example.language].append(row)
        rows["source"][example.source].append(row)
        rows["turn"][str(min(example.turn, 4)) + ("+" if example.turn >= 4 else "")].append(row)  # noqa: PLR2004
        if example.kind:
            rows["kind"][example.kind].append(row)
    result: dict[str, dict[str, Slice]] = {}
    for axis, members in rows.items():
        result[axis] = {}
        for name, inside in sorted(members.items()):
            hits = int((truth[inside] == predicted[inside]).sum())
            low, high = wilson_interval(hits, len(inside))
            result[axis][name] = Slice(
                n=len(inside),
                accuracy=hits / len(inside),
                low=low,
                high=high,
                macro_f1=macro_f1(truth[inside], predicted[inside], n_labels),
            )
    return result


def _reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> list[tuple[float, float, int]]:
    places = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return [
        (float(confidence[places == b].mean()), float(correct[places == b].mean()), int((places == b).sum()))
        for b in range(bins)
        if (places == b).any()
    ]


def _mistakes(examples: Sequence[Example], scores: Sequence[Scores]) -> list[Mistake]:
    found = [
        Mistake(
            text=example.window.message,
            context=" / ".join(filter(None, (example.window.previous_user, example.window.previous_reply))),
            truth=example.label,
            predicted=item.label,
            confidence=item.confidence,
            source=example.source,
        )
        for example, item in zip(examples, scores, strict=True)
        if item.label != example.label
    ]
    return sorted(found, key=lambda mistake: -mistake.confidence)
