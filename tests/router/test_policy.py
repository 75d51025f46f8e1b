import math

import pytest

from pointsman.router import DEFAULT_LABELS, ConfigurationError, Label, Policy, Reason, Scores


def scores(data: float, chat: float, irrelevant: float) -> Scores:
    return Scores(probabilities={"data_platform": data, "general_chat": chat, "irrelevant": irrelevant})


@pytest.mark.parametrize(
    ("given", "route", "reason"),
    [
        pytest.param(scores(0.5, 0.3, 0.2), "knowledge_base", Reason.CONFIDENT, id="no-threshold-always-follows"),
        pytest.param(scores(0.2, 0.7, 0.1), "general_llm", Reason.CONFIDENT, id="at-the-threshold"),
        pytest.param(scores(0.21, 0.7, 0.09), "knowledge_base", Reason.UNSURE, id="below-the-threshold"),
        pytest.param(scores(0.04, 0.05, 0.91), "refusal", Reason.CONFIDENT, id="surely-irrelevant"),
        pytest.param(scores(0.02, 0.48, 0.5), "refusal", Reason.CONFIDENT, id="surely-not-data-whatever-else"),
        pytest.param(scores(0.11, 0.0, 0.89), "knowledge_base", Reason.UNSURE, id="unsure-is-never-refused"),
    ],
)
def test_a_label_is_followed_where_that_is_as_safe_as_its_threshold_demands(
    given: Scores, route: str, reason: Reason
) -> None:
    choice = Policy(thresholds={"general_chat": 0.8, "irrelevant": 0.9}).choose(given)

    assert (choice.route, choice.reason) == (route, reason)


def test_the_unsure_route_can_be_another_one() -> None:
    policy = Policy(thresholds={"irrelevant": 1.0}, unsure_route="general_llm")

    assert policy.choose(scores(0.1, 0.1, 0.8)).route == "general_llm"


def test_scores_of_another_model_are_an_error_that_names_both_sides() -> None:
    with pytest.raises(ConfigurationError, match="said 'weather'; the policy knows data_platform, general_chat"):
        Policy().choose(Scores(probabilities={"weather": 1.0}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"thresholds": {"weather": 0.5}}, "unknown label 'weather'; the labels are", id="unknown-label"),
        pytest.param({"thresholds": {"irrelevant": 1.1}}, "must lie in 0..1, got 1.1", id="over-one"),
        pytest.param({"thresholds": {"irrelevant": math.nan}}, "must lie in 0..1, got nan", id="not-a-number"),
        pytest.param({"unsure_route": "refusal"}, "must not be the refusal", id="unsure-refused"),
        pytest.param({"labels": ()}, "at least one", id="no-labels"),
        pytest.param({"labels": (*DEFAULT_LABELS, DEFAULT_LABELS[0])}, "must be unique", id="label-twice"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Policy(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["name", "route"])
@pytest.mark.parametrize("value", ["", " data", "data\n"])
def test_a_label_needs_a_clean_name_and_route(field: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"`{field}`"):
        Label(**{"name": "a", "route": "b", field: value})


def test_scores_know_their_best_label_and_its_lead() -> None:
    given = scores(0.2, 0.7, 0.1)

    assert given.label == "general_chat"
    assert given.confidence == pytest.approx(0.7)
    assert given.margin == pytest.approx(0.5)


def test_of_equal_labels_the_first_is_taken() -> None:
    assert scores(0.4, 0.4, 0.2).label == "data_platform"


def test_a_single_label_has_the_whole_margin() -> None:
    assert Scores(probabilities={"a": 1.0}).margin == 1.0


@pytest.mark.parametrize("probabilities", [{}, {"a": 0.9}, {"a": 0.7, "b": 0.7}, {"a": math.nan, "b": 0.5}])
def test_probabilities_that_do_not_sum_to_one_are_refused(probabilities: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="must sum to 1"):
        Scores(probabilities=probabilities)
