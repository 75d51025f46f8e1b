"""An evaluation as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.integrations.cli.output import one_line, print_table

if TYPE_CHECKING:
    from pointsman.training import Evaluation

__all__ = ["print_evaluation"]

_LONGEST = 80  # characters of a message in a table


def print_evaluation(evaluation: Evaluation, *, mistakes: int) -> None:
    """Write the figures, the confusion, the slices and at most `mistakes` mistakes to stdout."""
    routed = evaluation.routed
    print_table(
        f"{evaluation.bundle} on {evaluation.n} messages, {evaluation.seconds:.1f} s",
        ["figure", "#value"],
        [
            ["macro-F1", f"{evaluation.macro_f1:.4f}"],
            ["accuracy", f"{evaluation.accuracy:.4f}"],
            ["calibration error (ECE)", f"{evaluation.ece:.4f}"],
            ["coverage (not unsure)", f"{evaluation.coverage:.1%}"],
            ["data messages refused", f"{routed.false_refusal_rate:.2%}"],
            ["data messages sent to the LLM", f"{routed.lost_data_rate:.2%}"],
            ["others sent to the knowledge base", f"{routed.wasted_kb_rate:.1%}"],
            ["irrelevant messages refused", f"{routed.refused_irrelevant_rate:.1%}"],
        ],
    )
    print_table(
        "Labels",
        ["label", "#precision", "#recall", "#F1", "#n", *(f"#-> {name}" for name in evaluation.per_label)],
        [
            [
                name,
                *(f"{value:.3f}" for value in (figures.precision, figures.recall, figures.f1)),
                str(figures.n),
                *(str(evaluation.confusion[name][other]) for other in evaluation.per_label),
            ]
            for name, figures in evaluation.per_label.items()
        ],
    )
    print_table(
        "Slices",
        ["by", "slice", "#n", "#accuracy", "#95 % interval", "#macro-F1"],
        [
            [axis, name, str(part.n), f"{part.accuracy:.3f}", f"{part.low:.3f}-{part.high:.3f}", f"{part.macro_f1:.3f}"]
            for axis, parts in evaluation.slices.items()
            for name, part in parts.items()
            if axis != "label"
        ],
    )
    if mistakes:
        shown = evaluation.mistakes[:mistakes]
        print_table(
            f"Mistakes, most confident first ({len(shown)} of {len(evaluation.mistakes)})",
            ["truth", "predicted", "#confidence", "message", "context"],
            [
                [m.truth, m.predicted, f"{m.confidence:.2f}", one_line(m.text, _LONGEST), one_line(m.context, _LONGEST)]
                for m in shown
            ],
        )
