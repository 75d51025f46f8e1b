"""Temperature and thresholds from held-out logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pointsman.adapters.engine import softmax
from pointsman.adapters.manifest import ThresholdEntry
from pointsman.router import ConfigurationError

__all__ = ["clopper_pearson_upper", "fit_temperature", "fit_thresholds"]


def fit_temperature(logits: NDArray[np.float32], truth: NDArray[np.intp], weights: NDArray[np.float64]) -> float:
    """Return the temperature that minimises the weighted log loss of softmax(logits / T) (Guo et al. 2017).

    Args:
        logits: shape (examples, labels).
        truth: label indices, shape (examples,).
        weights: shape (examples,); they set the label mix that is calibrated for.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits / np.exp(log_temperature))
        picked = probabilities[np.arange(len(truth)), truth]
        return float(-(weights * np.log(np.maximum(picked, 1e-12))).sum())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def clopper_pearson_upper(errors: int, n: int, confidence: float) -> float:
    """Return the one-sided upper bound of an error rate after `errors` in `n` (Clopper & Pearson 1934); 1 for n = 0."""
    from scipy.stats import beta

    if errors >= n:
        return 1.0
    return float(beta.ppf(confidence, errors + 1, n - errors))


def fit_thresholds(
    probabilities: NDArray[np.float64],
    truth: NDArray[np.intp],
    *,
    labels: Sequence[str],
    protected: Sequence[str],
    budgets: Mapping[str, float],
    errors: Mapping[str, Literal["false_refusal", "lost_data"]],
    confidence: float = 0.95,
    floor: Mapping[str, float] | None = None,
) -> dict[str, ThresholdEntry]:
    """Return for each label of `budgets` the lowest threshold that keeps `protected` messages from going there.

    Safety is 1 - P(protected labels), as in `router.Policy`. A protected message that is given the label with at least
    the threshold's safety is an error. The threshold is the lowest at which the Clopper-Pearson upper bound of the
    error rate stays within the budget. Where n is too small for that (n = ln(1 - confidence) / ln(1 - budget)
    errorless messages are needed), it is set just above the highest error; the entry says that nothing is certified.

    Args:
        probabilities: calibrated, shape (examples, labels), of messages that the model was not trained on.
        truth: label indices, shape (examples,).
        labels: names, in the order of the columns.
        protected: the labels whose messages must not be lost, those of the unsure route.
        budgets: highest tolerated error rate by label.
        errors: what the error is called, by label.
        confidence: of the bound, 1 - delta.
        floor: lowest threshold by label, whatever the data allow.
    """
    if not 0 < confidence < 1:
        raise ConfigurationError(f"`confidence` must lie between 0 and 1, got {confidence}")
    columns = [labels.index(name) for name in protected]
    real = probabilities[np.isin(truth, columns)]
    said, safety = real.argmax(axis=1), 1.0 - real[:, columns].sum(axis=1)
    return {
        label: _threshold(
            np.sort(safety[said == labels.index(label)])[::-1],
            n=len(real),
            budget=budget,
            confidence=confidence,
            floor=(floor or {}).get(label, 0.0),
            error=errors[label],
        )
        for label, budget in budgets.items()
    }


def _threshold(
    wrong: NDArray[Any], *, n: int, budget: float, confidence: float, floor: float, error: Any
) -> ThresholdEntry:
    allowed = -1
    while allowed < len(wrong) and clopper_pearson_upper(allowed + 1, n, confidence) <= budget:
        allowed += 1
    certified = allowed >= 0
    # just above the first error that is too many; with no such error, the floor alone decides
    first_over = max(allowed, 0)
    value = max(floor, float(np.nextafter(wrong[first_over], 2.0))) if first_over < len(wrong) else floor
    value = min(value, 1.0)
    kept = int((wrong >= value).sum())  # an error with probability 1 stays whatever the threshold
    bound = clopper_pearson_upper(kept, n, confidence)
    return ThresholdEntry(
        value=value,
        budget=budget,
        error=error,
        certified=certified and bound <= budget,
        upper_bound=bound,
        confidence=confidence,
        n=n,
        errors=kept,
    )
