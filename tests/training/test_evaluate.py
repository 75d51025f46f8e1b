from collections.abc import Sequence

import numpy as np
import pytest

from pointsman.router import DEFAULT_LABELS, Label, Policy, Scores, Window
from pointsman.training import Evaluation, Example, evaluate
from pointsman.training.evaluate import score
from pointsman.training.metrics import wilson_interval

NAMES = ("data_platform", "general_chat", "irrelevant")


class ScriptedEngine:
    """Answers each message with the probabilities under its text."""

    def __init__(self, script: dict[str, tuple[float, ...]], names: Sequence[str] = NAMES) -> None:
        self.script, self.names = script, names

    def run(self, windows: Sequence[Window]) -> list[Scores]:
        return [Scores(probabilities=dict(zip(self.names, self.script[w.message], strict=True))) for w in windows]


def example(message: str, label: str, *, before: str = "", reply: str = "", **fields: str | int) -> Example:
    window = Window(message=message, previous_user=before, previous_reply=reply)
    values = {"language": "en", "source": "some", "group": message} | fields
    return Example(window=window, label=label, **values)


SCRIPT = {
    "load failed": (0.9, 0.06, 0.04),
    "sync failed": (0.2, 0.2, 0.6),
    "table gone": (0.1, 0.05, 0.85),
    "job is red": (0.4, 0.55, 0.05),
    "hello": (0.05, 0.9, 0.05),
    "thanks": (0.8, 0.1, 0.1),
    "pizza": (0.02, 0.03, 0.95),
    "weather": (0.3, 0.1, 0.6),
}
EXAMPLES = [
    example("load failed", "data_platform"),
    example("sync failed", "data_platform", kind="contrast", language="zh"),
    example("table gone", "data_platform", turn=5),
    example("job is red", "data_platform", before="hi", reply="Hello!", turn=2),
    example("hello", "general_chat", language="zh"),
    example("thanks", "general_chat", source="other"),
    example("pizza", "irrelevant", turn=4),
    example("weather", "irrelevant", source="other"),
]
POLICY = Policy(thresholds={"irrelevant": 0.85, "general_chat": 0.75})


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(ScriptedEngine(SCRIPT), EXAMPLES, policy=POLICY, bundle="some-bundle")


def test_the_figures_are_those_of_an_independent_computation(evaluation: Evaluation) -> None:
    from sklearn import metrics as reference

    truth = [e.label for e in EXAMPLES]
    said = [NAMES[int(np.argmax(SCRIPT[e.window.message]))] for e in EXAMPLES]

    assert (evaluation.bundle, evaluation.n) == ("some-bundle", 8)
    assert evaluation.accuracy == reference.accuracy_score(truth, said) == 4 / 8
    assert evaluation.macro_f1 == pytest.approx(reference.f1_score(truth, said, average="macro"))
    table = reference.precision_recall_fscore_support(truth, said, labels=list(NAMES))
    for name, precision, recall, f1, n in zip(NAMES, *table, strict=True):
        figures = evaluation.per_label[name]
        assert (figures.precision, figures.recall, figures.f1) == pytest.approx((precision, recall, f1))
        assert figures.n == n
    expected = reference.confusion_matrix(truth, said, labels=list(NAMES)).tolist()
    assert [list(row.values()) for row in evaluation.confusion.values()] == expected


def test_calibration_error_and_reliability_agree(evaluation: Evaluation) -> None:
    from_bins = sum(n * abs(accuracy - confidence) for confidence, accuracy, n in evaluation.reliability) / 8

    assert sum(n for *_, n in evaluation.reliability) == 8
    assert evaluation.ece == pytest.approx(from_bins)


def test_routing_costs_are_shares_of_all_messages_that_truly_have_the_label(evaluation: Evaluation) -> None:
    # not safe enough and so to the knowledge base: "sync failed", "job is red", "weather"
    routed = evaluation.routed

    assert evaluation.coverage == 5 / 8
    assert routed.false_refusal_rate == 1 / 4  # "table gone"
    assert routed.lost_data_rate == 0
    assert routed.wasted_kb_rate == 2 / 4  # "thanks", and "weather" unsure
    assert routed.refused_irrelevant_rate == 1 / 2  # "pizza"


def test_without_thresholds_every_message_goes_where_its_label_says() -> None:
    evaluation = evaluate(ScriptedEngine(SCRIPT), EXAMPLES, policy=Policy(), bundle="")

    assert evaluation.coverage == 1
    assert evaluation.routed.false_refusal_rate == 2 / 4
    assert evaluation.routed.lost_data_rate == 1 / 4
    assert evaluation.routed.refused_irrelevant_rate == 1


def test_data_messages_are_those_of_the_knowledge_base_also_where_doubt_goes_elsewhere() -> None:
    policy = Policy(thresholds={"irrelevant": 0.85}, unsure_route="general_llm")

    routed = evaluate(ScriptedEngine(SCRIPT), EXAMPLES, policy=policy, bundle="").routed

    assert routed.false_refusal_rate == 1 / 4
    assert routed.lost_data_rate == 2 / 4  # "job is red" said to be talk, and "sync failed" unsure
    assert routed.wasted_kb_rate == 1 / 4


def test_slices_have_counts_accuracy_and_intervals(evaluation: Evaluation) -> None:
    slices = evaluation.slices

    assert slices.keys() == {"label", "language", "source", "turn", "kind"}
    assert {name: part.n for name, part in slices["language"].items()} == {"en": 6, "zh": 2}
    assert {name: part.n for name, part in slices["turn"].items()} == {"1": 5, "2": 1, "4+": 2}
    assert slices["kind"].keys() == {"contrast"}
    part = slices["language"]["en"]
    assert part.accuracy == 3 / 6
    assert (part.low, part.high) == wilson_interval(3, 6)
    assert slices["label"]["data_platform"].accuracy == evaluation.per_label["data_platform"].recall


def test_mistakes_come_with_their_context_most_confident_first(evaluation: Evaluation) -> None:
    assert [mistake.text for mistake in evaluation.mistakes] == ["table gone", "thanks", "sync failed", "job is red"]
    last = evaluation.mistakes[-1]
    assert (last.context, last.truth, last.predicted) == ("hi / Hello!", "data_platform", "general_chat")
    assert last.confidence == 0.55


def test_the_json_has_the_promised_keys_and_as_many_mistakes_as_wanted(evaluation: Evaluation) -> None:
    import json

    values = json.loads(json.dumps(evaluation.as_dict(mistakes=2)))

    promised = {"n", "accuracy", "macro_f1", "per_label", "confusion", "ece", "coverage", "routed", "seconds"}
    assert promised <= values.keys()
    assert {"false_refusal_rate", "lost_data_rate"} <= values["routed"].keys()
    assert len(values["mistakes"]) == 2
    assert evaluation.as_dict()["mistakes"] == []


def test_a_fourth_label_is_evaluated_like_the_three() -> None:
    labels = (*DEFAULT_LABELS, Label(name="billing", route="finance"))
    engine = ScriptedEngine({"invoice": (0.1, 0.1, 0.1, 0.7)}, names=(*NAMES, "billing"))

    evaluation = evaluate(engine, [example("invoice", "billing")], policy=Policy(labels=labels), bundle="")

    assert evaluation.confusion["billing"]["billing"] == 1
    assert evaluation.macro_f1 == 1  # labels that neither occur nor were said do not count
    assert evaluation.routed.wasted_kb_rate == 0


def test_scores_come_in_order_and_progress_is_reported() -> None:
    done: list[int] = []
    texts = list(SCRIPT) * 150

    scores = score(ScriptedEngine(SCRIPT), [example(text, "irrelevant") for text in texts], on_progress=done.append)

    assert [item.confidence for item in scores] == [max(SCRIPT[text]) for text in texts]
    assert done == [512, 1024, 1200]
