import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.training.metrics import (
    confusion_matrix,
    expected_calibration_error,
    f1_scores,
    macro_f1,
    wilson_interval,
)

PREDICTIONS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=80)


@settings(deadline=None)
@given(PREDICTIONS)
def test_confusion_precision_recall_and_f1_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    from sklearn import metrics as reference

    truth, predicted = np.array(pairs).T
    labels = [0, 1, 2, 3]

    matrix = confusion_matrix(truth, predicted, 4)

    assert (matrix == reference.confusion_matrix(truth, predicted, labels=labels)).all()
    expected = reference.precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    np.testing.assert_allclose(f1_scores(matrix), expected[:3])


@settings(deadline=None)
@given(PREDICTIONS)
def test_macro_f1_is_that_of_scikit_learn_over_the_labels_that_occur(pairs: list[tuple[int, int]]) -> None:
    from sklearn import metrics as reference

    truth, predicted = np.array(pairs).T

    expected = reference.f1_score(truth, predicted, average="macro", zero_division=0)
    assert macro_f1(truth, predicted, 4) == pytest.approx(expected)


def test_the_calibration_error_of_an_example_worked_by_hand() -> None:
    # 0.9: three of four right, off by 0.15; 0.5: both wrong, off by 0.5; weights 4/6 and 2/6
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.5])
    correct = np.array([True, True, True, False, False, False])

    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.5)


def test_a_confidence_of_one_has_a_bin_and_perfect_calibration_no_error() -> None:
    assert expected_calibration_error(np.ones(5), np.ones(5, dtype=bool)) == 0
    assert expected_calibration_error(np.full(4, 0.25), np.array([True, False, False, False])) == 0


@settings(deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_is_that_of_scipy(counts: tuple[int, int]) -> None:
    from scipy.stats import binomtest

    successes, n = counts

    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, n, z=1.959963984540054) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_of_nothing_nothing_is_known() -> None:
    assert wilson_interval(0, 0) == (0, 1)
