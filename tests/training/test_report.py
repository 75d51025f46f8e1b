import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pointsman.router import PointsmanError
from pointsman.training import Evaluation
from pointsman.training.evaluate import LabelFigures, Mistake, Routed, Slice
from pointsman.training.report import write_report

HOSTILE = "</p></style><script>alert('x')</script><img src=https://evil.example/x onerror=alert(1)> & \"'"
NAMES = ("data_platform", "general_chat", "irrelevant")


def evaluation(*, mistakes: Iterable[Mistake] = (), name: str = "20261124-abc") -> Evaluation:
    return Evaluation(
        bundle=name,
        n=1234,
        accuracy=0.9123,
        macro_f1=0.8877,
        per_label={n: LabelFigures(precision=0.91, recall=0.82, f1=0.8654, n=411) for n in NAMES},
        confusion={truth: {said: 380 if truth == said else 15 for said in NAMES} for truth in NAMES},
        ece=0.0234,
        coverage=0.876,
        routed=Routed(
            false_refusal_rate=0.0071, lost_data_rate=0.0152, wasted_kb_rate=0.0933, refused_irrelevant_rate=0.8444
        ),
        slices={
            "language": {
                "en": Slice(n=700, accuracy=0.92, low=0.9, high=0.938, macro_f1=0.89),
                "zh": Slice(n=534, accuracy=0.9, low=0.871, high=0.923, macro_f1=0.88),
            }
        },
        reliability=[(0.45, 0.4, 34), (0.75, 0.8, 200), (0.97, 0.96, 1000)],
        mistakes=list(mistakes),
        seconds=3.2,
    )


def mistake(text: str, *, context: str = "") -> Mistake:
    return Mistake(
        text=text, context=context, truth="data_platform", predicted="irrelevant", confidence=0.987, source="some"
    )


class Page(HTMLParser):
    """What a browser would make of the file: its tags, their attributes, its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def written(folder: Path, given: Evaluation) -> tuple[str, Page]:
    path = folder / "reports" / "report.html"
    write_report(given, path)
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def test_the_file_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    html, page = written(tmp_path, evaluation(mistakes=[mistake("why")]))

    assert not {"script", "link", "img", "iframe", "object", "base", "form", "a"} & set(page.tags)
    loading = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}
    assert not [name for name, _ in page.attributes if name in loading or name.startswith("on")]
    assert not re.search(r"https?://|@import|url\(", html)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_every_figure_is_there(tmp_path: Path) -> None:
    _, page = written(tmp_path, evaluation(mistakes=[mistake("why is it late", context="hi / Hello!")]))

    for figure in ("20261124-abc", "1,234", "0.912", "0.888", "0.023", "87.6%", "0.865", "411"):
        assert figure in page.text
    for rate in ("0.71%", "1.52%", "9.33%", "84.44%"):
        assert rate in page.text
    assert "0.920 (0.900-0.938)" in page.text
    assert "0.900 (0.871-0.923)" in page.text
    assert "ECE 0.023" in page.text
    assert "after: hi / Hello!" in page.text
    assert "is data_platform, said irrelevant (0.987), from some" in page.text
    assert page.text.count("380") == 3


def test_the_page_is_well_formed_and_each_plot_has_its_marks(tmp_path: Path) -> None:
    html, page = written(tmp_path, evaluation())

    assert page.open == []
    assert html.count("<figure>") == 3
    assert html.count("<circle") == 6  # three bins in the reliability diagram, three in the risk-coverage curve
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "prefers-color-scheme: dark" in html


def test_selective_risk_is_the_share_of_wrong_labels_among_the_most_confident(tmp_path: Path) -> None:
    html, _ = written(tmp_path, evaluation())

    assert "81.0% of messages followed: 4.00% of them wrong" in html  # 40 of 1,000
    assert "97.2% of messages followed: 6.67% of them wrong" in html  # 80 of 1,200
    assert "100.0% of messages followed: 8.14% of them wrong" in html  # 100.4 of 1,234


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    given = evaluation(mistakes=[mistake(HOSTILE, context=HOSTILE)], name=HOSTILE)
    given = replace(
        given,
        per_label={HOSTILE: LabelFigures(precision=1, recall=1, f1=1, n=1)},
        confusion={HOSTILE: {HOSTILE: 1}},
        slices={HOSTILE: {HOSTILE: Slice(n=1, accuracy=1, low=0.2, high=1, macro_f1=1)}},
    )

    _, page = written(tmp_path, given)

    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.open == []
    assert page.text.count(HOSTILE) >= 7


def test_text_that_is_no_valid_unicode_is_still_written(tmp_path: Path) -> None:
    html, _ = written(tmp_path, evaluation(mistakes=[mistake("half an emoji \ud83d")]))

    assert "half an emoji ?" in html


def test_at_most_fifty_mistakes_are_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    html, page = written(tmp_path, evaluation(mistakes=[mistake(f"mistake {n}") for n in range(73)]))

    assert html.count('<div class="mistake">') == 50
    assert "mistake 49" in page.text
    assert "mistake 50" not in page.text
    assert "23 more are not shown" in page.text


def test_a_perfect_model_without_mistakes_has_a_report_too(tmp_path: Path) -> None:
    given = replace(evaluation(), reliability=[(1.0, 1.0, 1234)], mistakes=[])

    html, page = written(tmp_path, given)

    assert "There are none." in page.text
    assert "nan" not in html


def test_an_older_report_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("older", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(PointsmanError, match=r"the report was not written to .*report\.html: No space left"):
            write_report(evaluation(), path)
    assert path.read_text(encoding="utf-8") == "older"

    write_report(evaluation(), path)
    assert "20261124-abc" in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
