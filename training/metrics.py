"""Figures about predictions, in numpy: macro-F1, confusion, calibration error, intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["confusion_matrix", "expected_calibration_error", "f1_scores", "macro_f1", "wilson_interval"]

Labels = NDArray[np.integer[Any]]


def confusion_matrix(truth: Labels, predicted: Labels, n_labels: int) -> NDArray[np.int64]:
    """Return counts of shape (labels, labels): row = truth, column = predicted."""
    matrix = np.zeros((n_labels, n_labels), dtype=np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def f1_scores(matrix: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return precision, recall and F1 per label; 0 where there is nothing to divide by."""
    hits = np.diag(matrix).astype(np.float64)
    predicted, actual = matrix.sum(axis=0), matrix.sum(axis=1)
    precision = np.divide(hits, predicted, out=np.zeros_like(hits), where=predicted > 0)
    recall = np.divide(hits, actual, out=np.zeros_like(hits), where=actual > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(hits), where=both > 0)
    return precision, recall, f1


def macro_f1(truth: Labels, predicted: Labels, n_labels: int) -> float:
    """Return the mean F1 over the labels that occur in `truth` or were predicted."""
    matrix = confusion_matrix(truth, predicted, n_labels)
    present = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    return float(f1_scores(matrix)[2][present].mean()) if present.any() else 0.0


def expected_calibration_error(
    confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_], *, bins: int = 15
) -> float:
    """Return the ECE: |accuracy - mean confidence| over equal-width bins, weighted by their size (Guo et al. 2017)."""
    edges = np.clip((confidence * bins).astype(int), 0, bins - 1)
    error = 0.0
    for number in range(bins):
        inside = edges == number
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return float(error)


def wilson_interval(successes: int, n: int, *, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, 95 % by default (Wilson 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
