"""The evaluation report: one HTML file for people, with every plot inside it.

It loads nothing and runs nothing: no script, no font, no picture from elsewhere, and a content policy that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from pointsman.adapters.files import write_atomically
from pointsman.router import PointsmanError
from pointsman.training.evaluate import Evaluation, Mistake, Slice

__all__ = ["write_report"]

MISTAKES = 50
"""Most mistakes that are shown."""

_PLOT = 300
"""Width and height of a plot's drawing area, in SVG units."""
_MARGIN = 44

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6577; --paper: #fff; --card: #f3f5f9; --line: #d5dae4;
  --accent: #2563c9; --good: 37, 99, 201; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --soft: #a3adbf; --paper: #12161e; --card: #1c222d;
  --line: #364052; --accent: #7db0ff; --good: 90, 150, 255; --bad: #ff9a90; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .25rem 0 .75rem; } .soft { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .5rem; margin: 1rem 0; }
.figures div { background: var(--card); border-radius: .5rem; padding: .6rem .75rem; }
.figures b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
td.name { min-width: 7rem; } td.cell { text-align: center; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .9rem; color: var(--soft); }
svg { width: 100%; height: auto; max-width: 26rem; display: block; }
svg text { fill: var(--soft); font: 13px system-ui, sans-serif; }
.frame { fill: none; stroke: var(--line); } .ideal { stroke: var(--soft); stroke-dasharray: 5 5; }
.mark { fill: var(--accent); } .curve { fill: none; stroke: var(--accent); stroke-width: 2; }
.interval { stroke: var(--accent); stroke-width: 3; }
svg.strip { width: 9rem; min-width: 6rem; height: 1rem; }
.mistake { border-left: 3px solid var(--bad); padding: .1rem 0 .1rem .75rem; margin: .9rem 0; }
.mistake p { margin: 0; white-space: pre-wrap; } .mistake .soft { font-size: .85rem; }
"""


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the figures of `evaluation` to `path` as one HTML file; an older file is replaced whole or not at all.

    Raises:
        PointsmanError: the file cannot be written; what was there stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _page(evaluation).encode("utf-8", errors="replace"))
    except OSError as error:
        raise PointsmanError(f"the report was not written to {path}: {error.strerror or error}") from error


def _page(evaluation: Evaluation) -> str:
    title = f"Gatekeeper {escape(evaluation.bundle)}" if evaluation.bundle else "Gatekeeper"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}: evaluation</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p class="soft">Evaluated on {evaluation.n:,} labelled messages in {evaluation.seconds:.1f} s.</p>
{_headline(evaluation)}
<h2>What routing makes of it</h2>
{_routed(evaluation)}
<h2>Labels</h2>
{_labels(evaluation)}
<h2>Confusion</h2>
{_confusion(evaluation)}
<h2>Confidence</h2>
<div class="plots">
{_reliability(evaluation)}
{_histogram(evaluation)}
{_risk_coverage(evaluation)}
</div>
<h2>Slices</h2>
<p class="soft">Accuracy with its 95 % Wilson interval; the strip runs from 0 to 1. Macro-F1 is the mean
over the labels that occur in a slice or were said there, so it is low where a label hardly occurs.</p>
{"".join(_slice_table(axis, parts) for axis, parts in evaluation.slices.items() if axis != "label")}
<h2>Most confident mistakes</h2>
{_mistakes(evaluation.mistakes)}
</body>
</html>
"""


def _headline(evaluation: Evaluation) -> str:
    figures = {
        "accuracy": f"{evaluation.accuracy:.3f}",
        "macro-F1": f"{evaluation.macro_f1:.3f}",
        "calibration error (ECE)": f"{evaluation.ece:.3f}",
        "decided, not unsure": f"{evaluation.coverage:.1%}",
        "mistakes": f"{len(evaluation.mistakes):,}",
    }
    return f'<div class="figures">{_cards(figures)}</div>'


def _routed(evaluation: Evaluation) -> str:
    routed = evaluation.routed
    figures = {
        "of data-platform messages, refused": f"{routed.false_refusal_rate:.2%}",
        "of data-platform messages, to the general LLM": f"{routed.lost_data_rate:.2%}",
        "of other messages, to the knowledge base": f"{routed.wasted_kb_rate:.2%}",
        "of irrelevant messages, refused": f"{routed.refused_irrelevant_rate:.2%}",
    }
    return f'<div class="figures">{_cards(figures)}</div>'


def _cards(figures: dict[str, str]) -> str:
    return "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in figures.items())


def _labels(evaluation: Evaluation) -> str:
    rows = (
        f'<tr><td class="name">{escape(name)}</td>'
        + "".join(f'<td class="n">{value:.3f}</td>' for value in (part.precision, part.recall, part.f1))
        + f'<td class="n">{part.n:,}</td></tr>'
        for name, part in evaluation.per_label.items()
    )
    return _table(("label",), ("precision", "recall", "F1", "n"), rows)


def _confusion(evaluation: Evaluation) -> str:
    """Draw the matrix as a table, each cell tinted by its share of the row."""
    names = list(evaluation.confusion)
    rows = []
    for truth in names:
        counts = evaluation.confusion[truth]
        total = max(sum(counts.values()), 1)
        cells = "".join(
            f'<td class="cell" style="background: rgba(var(--good), {counts[name] / total * 0.55:.3f})" '
            f'title="{counts[name] / total:.1%} of {escape(truth)}">{counts[name]:,}</td>'
            for name in names
        )
        rows.append(f'<tr><th class="name">{escape(truth)}</th>{cells}</tr>')
    head = "".join(f"<th>said {escape(name)}</th>" for name in names)
    return f'<div class="scroll"><table><tr><th>truly</th>{head}</tr>{"".join(rows)}</table></div>'


def _reliability(evaluation: Evaluation) -> str:
    total = sum(count for _, _, count in evaluation.reliability) or 1
    marks = "".join(
        f'<circle class="mark" cx="{_x(confidence)}" cy="{_y(accuracy)}" r="{3 + 9 * (count / total) ** 0.5:.1f}">'
        f"<title>{count:,} messages: confidence {confidence:.3f}, accuracy {accuracy:.3f}</title></circle>"
        for confidence, accuracy, count in evaluation.reliability
    )
    ideal = f'<line class="ideal" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>'
    caption = f"Reliability: on the dashed line, confidence is accuracy. ECE {evaluation.ece:.3f}."
    return _plot(f"{ideal}{marks}", across="confidence", up="accuracy", caption=caption)


def _histogram(evaluation: Evaluation) -> str:
    highest = max((count for _, _, count in evaluation.reliability), default=1)
    width = _PLOT / 40
    bars = "".join(
        f'<rect class="mark" x="{_x(confidence) - width / 2:.1f}" y="{_y(count / highest)}" width="{width:.1f}" '
        f'height="{_y(0) - _y(count / highest):.1f}"><title>{count:,} messages near {confidence:.3f}</title></rect>'
        for confidence, _, count in evaluation.reliability
    )
    caption = f"How many messages get which confidence; the highest bar is {highest:,}."
    return _plot(bars, across="confidence", up="share of the highest bar", caption=caption)


def _risk_coverage(evaluation: Evaluation) -> str:
    points = _risk_at_coverage(evaluation.reliability)
    highest = max((risk for _, risk in points), default=0.0) or 1.0
    line = " ".join(f"{_x(coverage)},{_y(risk / highest)}" for coverage, risk in points)
    marks = "".join(
        f'<circle class="mark" cx="{_x(coverage)}" cy="{_y(risk / highest)}" r="4">'
        f"<title>{coverage:.1%} of messages followed: {risk:.2%} of them wrong</title></circle>"
        for coverage, risk in points
    )
    caption = "Selective risk by coverage: the share of wrong labels when only the most confident are followed."
    body = f'<polyline class="curve" points="{line}"/>{marks}'
    return _plot(body, across="coverage", up="risk", caption=caption, top=highest)


def _risk_at_coverage(reliability: Sequence[tuple[float, float, int]]) -> list[tuple[float, float]]:
    """Return (coverage, selective risk) after each confidence bin, from the most confident down."""
    total = sum(count for _, _, count in reliability)
    points, taken, wrong = [], 0, 0.0
    for _, accuracy, count in reversed(reliability):
        taken += count
        wrong += (1 - accuracy) * count
        points.append((taken / total, wrong / taken))
    return points


def _plot(body: str, *, across: str, up: str, caption: str, top: float = 1.0) -> str:
    size = _PLOT + 2 * _MARGIN
    ticks = "".join(
        f'<text x="{_x(at)}" y="{_y(0) + 18:.1f}" text-anchor="middle">{at:g}</text>'
        f'<text x="{_x(0) - 6:.1f}" y="{_y(at) + 4:.1f}" text-anchor="end">{at * top:.2g}</text>'
        for at in (0, 0.5, 1)
    )
    return (
        f'<figure><svg viewBox="0 0 {size} {size}" role="img" aria-label="{escape(caption)}">'
        f'<rect class="frame" x="{_MARGIN}" y="{_MARGIN}" width="{_PLOT}" height="{_PLOT}"/>{body}{ticks}'
        f'<text x="{size / 2}" y="{size - 6}" text-anchor="middle">{across}</text>'
        f'<text x="{_MARGIN}" y="{_MARGIN - 10}">{up}</text></svg><figcaption>{caption}</figcaption></figure>'
    )


def _x(share: float) -> float:
    return round(_MARGIN + share * _PLOT, 1)


def _y(share: float) -> float:
    return round(_MARGIN + (1 - share) * _PLOT, 1)


def _slice_table(axis: str, parts: Mapping[str, Slice]) -> str:
    rows = (
        f'<tr><td class="name">{escape(name)}</td><td>{_strip(part)}</td>'
        f'<td class="n">{part.accuracy:.3f} ({part.low:.3f}-{part.high:.3f})</td>'
        f'<td class="n">{part.macro_f1:.3f}</td><td class="n">{part.n:,}</td></tr>'
        for name, part in parts.items()
    )
    return f"<h3>By {escape(axis)}</h3>" + _table((axis, "0 to 1"), ("accuracy", "macro-F1", "n"), rows)


def _strip(part: Slice) -> str:
    return (
        '<svg class="strip" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        '<line class="frame" x1="0" y1="6" x2="100" y2="6"/>'
        f'<line class="interval" x1="{part.low * 100:.1f}" y1="6" x2="{part.high * 100:.1f}" y2="6"/>'
        f'<rect class="mark" x="{part.accuracy * 100 - 1:.1f}" y="1" width="2" height="10"/></svg>'
    )


def _table(names: Sequence[str], numbers: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    head += "".join(f'<th class="n">{escape(name)}</th>' for name in numbers)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _mistakes(mistakes: Sequence[Mistake]) -> str:
    if not mistakes:
        return "<p>There are none.</p>"
    shown = "".join(
        f'<div class="mistake">{_context(mistake.context)}<p>{escape(mistake.text)}</p>'
        f'<p class="soft">is <b>{escape(mistake.truth)}</b>, said <b>{escape(mistake.predicted)}</b> '
        f"({mistake.confidence:.3f}), from {escape(mistake.source)}</p></div>"
        for mistake in mistakes[:MISTAKES]
    )
    rest = len(mistakes) - MISTAKES
    return shown + (f'<p class="soft">{rest:,} more are not shown.</p>' if rest > 0 else "")


def _context(context: str) -> str:
    return f'<p class="soft">after: {escape(context)}</p>' if context else ""
