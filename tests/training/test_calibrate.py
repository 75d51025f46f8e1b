import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pointsman.adapters.engine import softmax
from pointsman.adapters.manifest import ThresholdEntry
from pointsman.router import ConfigurationError
from pointsman.training.calibrate import clopper_pearson_upper, fit_temperature, fit_thresholds

LABELS = ("data_platform", "general_chat", "irrelevant")


def thresholds(
    wrong: list[float], *, right: int, budget: float = 0.05, confidence: float = 0.95, floor: float = 0.0
) -> ThresholdEntry:
    """Fit on `right` protected messages that are labelled right, and one refused by mistake for each of `wrong`."""
    rows = [[1 - p, 0.0, p] for p in wrong] + [[0.9, 0.05, 0.05]] * right
    return fit_thresholds(
        np.array(rows),
        np.zeros(len(rows), dtype=np.intp),
        labels=LABELS,
        protected=["data_platform"],
        budgets={"irrelevant": budget},
        errors={"irrelevant": "false_refusal"},
        confidence=confidence,
        floor={"irrelevant": floor},
    )["irrelevant"]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    rng = np.random.default_rng(7)
    logits = rng.normal(scale=3, size=(20_000, 3)).astype(np.float32)
    truth = (softmax(logits / temperature).cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)

    assert fit_temperature(logits, truth, np.ones(20_000)) == pytest.approx(temperature, rel=0.05)


def test_weights_decide_which_messages_are_calibrated_for() -> None:
    logits = np.array([[3.0, 0.0]] * 10 + [[0.0, 3.0]] * 10, dtype=np.float32)
    truth = np.array([0] * 10 + [1, 0] * 5)  # sure and right; sure and right half of the time
    first, second = np.repeat([1.0, 0.0], 10), np.repeat([0.0, 1.0], 10)

    assert fit_temperature(logits, truth, first) < 0.2
    assert fit_temperature(logits, truth, second) > 10


@settings(deadline=None)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_upper_bound_is_that_of_scipy(counts: tuple[int, int]) -> None:
    from scipy.stats import binomtest

    errors, n = counts

    expected = binomtest(errors, n, alternative="less").proportion_ci(0.95, method="exact").high
    assert clopper_pearson_upper(errors, n, 0.95) == pytest.approx(expected, abs=1e-9)


def test_a_label_whose_errors_fit_the_budget_is_always_followed() -> None:
    entry = thresholds([0.6, 0.7], right=998)

    assert (entry.value, entry.errors, entry.n, entry.certified) == (0.0, 2, 1000, True)
    assert entry.upper_bound == pytest.approx(clopper_pearson_upper(2, 1000, 0.95))


def test_the_threshold_lies_just_above_the_first_error_that_is_too_many() -> None:
    wrong = [0.99, 0.95, 0.9, 0.8, 0.7, 0.6]

    entry = thresholds(wrong, right=94, budget=0.08)  # 3 in 100 are at most 7.6 %, 4 in 100 may be 8.9 %

    assert entry.value == np.nextafter(0.8, 1)
    assert (entry.errors, entry.certified) == (3, True)
    assert entry.upper_bound <= 0.08 < clopper_pearson_upper(4, 100, 0.95)


def test_with_too_few_messages_every_error_is_shut_out_and_nothing_is_promised() -> None:
    enough = math.ceil(math.log(0.05) / math.log(0.95))

    assert thresholds([], right=enough).certified
    entry = thresholds([0.7, 0.9], right=enough - 3)
    assert (entry.certified, entry.errors) == (False, 0)
    assert entry.value == np.nextafter(0.9, 1)
    assert entry.upper_bound > 0.05


def test_without_any_protected_message_nothing_is_promised() -> None:
    entry = fit_thresholds(
        np.array([[0.1, 0.1, 0.8]]),
        np.array([2]),
        labels=LABELS,
        protected=["data_platform"],
        budgets={"irrelevant": 0.01, "general_chat": 0.02},
        errors={"irrelevant": "false_refusal", "general_chat": "lost_data"},
    )["irrelevant"]

    assert (entry.n, entry.certified, entry.upper_bound) == (0, False, 1.0)


def test_errors_with_probability_one_are_counted_and_not_certified_away() -> None:
    entry = thresholds([1.0] * 20, right=180)

    assert (entry.value, entry.errors, entry.certified) == (1.0, 20, False)


def test_equal_probabilities_fall_on_one_side() -> None:
    entry = thresholds([0.9] * 10, right=90, budget=0.08)

    assert entry.value == np.nextafter(0.9, 1)
    assert entry.errors == 0


def test_the_floor_is_never_undercut() -> None:
    assert thresholds([], right=1000, floor=0.5).value == 0.5
    assert thresholds([0.4, 0.8], right=1000, floor=0.5).errors == 1


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ConfigurationError, match="`confidence` must lie between 0 and 1"):
        thresholds([], right=10, confidence=confidence)


@pytest.mark.parametrize("budget", [0.02, 0.1])
def test_budgets_hold_on_new_messages_as_often_as_promised(budget: float) -> None:
    """Draw calibration sets from a known world; at the fitted threshold it may break the budget in 5 % of them."""
    rng = np.random.default_rng(11)
    broken = 0
    for _ in range(400):
        entry = _fitted(rng, budget)
        assert entry.certified
        broken += 0.15 * (1 - entry.value) / 0.5 > budget  # mistakes have a confidence uniform in 0.5 .. 1

    assert broken / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def _fitted(rng: np.random.Generator, budget: float) -> ThresholdEntry:
    wrong: NDArray[np.float64] = rng.uniform(0.5, 1.0, rng.binomial(600, 0.15))
    return thresholds(wrong.tolist(), right=600 - len(wrong), budget=budget)


def test_two_labels_on_the_unsure_route_are_protected_together() -> None:
    """A message that wavers between the two is as safe from refusal as one that is surely either."""
    wavering = [0.45, 0.45, 0.1]
    refused = [0.02, 0.03, 0.95]
    thresholds = fit_thresholds(
        np.array([wavering] * 300 + [refused]),
        np.array([0, 1] * 150 + [1]),
        labels=["data_platform", "billing", "irrelevant"],
        protected=["data_platform", "billing"],
        budgets={"irrelevant": 0.02},
        errors={"irrelevant": "false_refusal"},
    )
    assert thresholds["irrelevant"].n == 301
    assert thresholds["irrelevant"].errors == 1
    assert thresholds["irrelevant"].value == 0.0
