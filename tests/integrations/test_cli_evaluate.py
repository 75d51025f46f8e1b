import json
from pathlib import Path

import pytest

from pointsman.adapters import Bundle

from .conftest import Pointsman

CONTRACT = {"n", "accuracy", "macro_f1", "per_label", "confusion", "ece", "coverage", "routed", "slices", "seconds"}


def test_evaluate_prints_one_json_object(pointsman: Pointsman, labelled_file: Path, tiny_bundle: Bundle) -> None:
    ran = pointsman("evaluate", labelled_file, "--json")

    assert ran.code == 0
    assert len(ran.lines) == 1
    figures = json.loads(ran.out)
    assert set(figures) >= CONTRACT
    assert figures["n"] == 60
    assert figures["bundle"] == tiny_bundle.id
    assert figures["mistakes"] == []
    assert set(figures["per_label"]["data_platform"]) == {"precision", "recall", "f1", "n"}
    assert set(figures["routed"]) >= {"false_refusal_rate", "lost_data_rate"}
    assert sum(sum(row.values()) for row in figures["confusion"].values()) == 60


def test_several_files_are_one_evaluation(pointsman: Pointsman, labelled_file: Path, installation: Path) -> None:
    other = installation / "other.csv"
    other.write_text("text,label\nhello there,general_chat\n", encoding="utf-8")

    figures = json.loads(pointsman("evaluate", labelled_file, other, "--json").out)

    assert figures["n"] == 61
    assert set(figures["slices"]["source"]) == {"easy", "other"}


def test_the_bundle_is_chosen_by_folder(
    pointsman: Pointsman, labelled_file: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POINTSMAN_BUNDLE")
    ran = pointsman("evaluate", labelled_file, "--bundle", tiny_bundle.path, "--json")
    assert json.loads(ran.out)["bundle"] == tiny_bundle.id


def test_without_json_there_are_tables_without_colour(pointsman: Pointsman, labelled_file: Path) -> None:
    ran = pointsman("evaluate", labelled_file)

    assert ran.code == 0
    assert all(word in ran.out for word in ("macro-F1", "Labels", "-> irrelevant", "Slices", "language"))
    assert "Mistakes" not in ran.out
    assert "\x1b" not in ran.out


def test_the_gate_exits_with_three_after_the_figures(pointsman: Pointsman, labelled_file: Path) -> None:
    ran = pointsman("evaluate", labelled_file, "--json", "--fail-under", "1")

    assert ran.code == 3
    assert json.loads(ran.out)["n"] == 60
    assert ran.err.startswith("pointsman: macro-F1 is 0.")
    assert pointsman("evaluate", labelled_file, "--json", "--fail-under", "0").code == 0


def test_the_report_is_one_html_file(pointsman: Pointsman, labelled_file: Path, installation: Path) -> None:
    ran = pointsman("evaluate", labelled_file, "--json", "--report", "out.html")

    assert (ran.code, ran.err) == (0, "report: out.html\n")
    assert [path.name for path in installation.iterdir()] == ["out.html"]
    assert "data_platform" in (installation / "out.html").read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_fails_after_the_figures(pointsman: Pointsman, labelled_file: Path) -> None:
    ran = pointsman("evaluate", labelled_file, "--json", "--report", labelled_file / "out.html")

    assert ran.code == 1
    assert json.loads(ran.out)["n"] == 60
    assert ran.err.startswith("pointsman: ")
    assert "out.html" in ran.err


def test_test_shows_the_mistakes(pointsman: Pointsman, installation: Path) -> None:
    file = installation / "wrong.jsonl"
    labels = ("data_platform", "general_chat", "irrelevant")
    file.write_text("".join(f'{{"text": "hello [bold]", "label": "{label}"}}\n' for label in labels), encoding="utf-8")
    ran = pointsman("test", file)

    assert ran.code == 0
    assert "Mistakes, most confident first (2 of 2)" in ran.out
    assert "hello [bold]" in ran.out
    assert len(json.loads(pointsman("test", file, "--json", "--mistakes", "1").out)["mistakes"]) == 1
