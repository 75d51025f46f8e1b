import json
from collections import Counter

import pytest

from pointsman.integrations import Settings, assembly
from pointsman.integrations.cli.demo import SAMPLES
from pointsman.router import Conversation, Window
from pointsman.router.testing import ScriptedClassifier

from .conftest import Pointsman

ROWS = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
TRUTH = {Window.of(Conversation.of(row["messages"])): row["label"] for row in ROWS}


def says(monkeypatch: pytest.MonkeyPatch, wrong: int = 0) -> None:
    """Have a gatekeeper that knows the truth but for the first `wrong` samples."""
    lies = set(list(TRUTH)[:wrong])

    def label_of(window: Window) -> str:
        others = [label for label in ("data_platform", "general_chat", "irrelevant") if label != TRUTH[window]]
        return others[0] if window in lies else str(TRUTH[window])

    async def open_gatekeeper(settings: Settings) -> ScriptedClassifier:
        return ScriptedClassifier(label_of)

    monkeypatch.setattr(assembly, "open_gatekeeper", open_gatekeeper)


def test_the_samples_cover_labels_languages_and_conversations() -> None:
    assert len(TRUTH) == len(ROWS) >= 24
    for part in (ROWS, ROWS[:12]):
        assert set(Counter(row["label"] for row in part)) == {"data_platform", "general_chat", "irrelevant"}
        assert min(Counter((row["label"], row["lang"]) for row in part).values()) >= 2
        assert any(len(row["messages"]) > 1 for row in part)
    assert ROWS[0]["messages"] == [{"role": "user", "content": "数据清洗流程是什么？"}]


def test_the_demo_shows_twelve_messages_end_to_end(pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch)
    ran = pointsman("demo")

    assert ran.code == 0
    assert "12 of 12 labels are right" in ran.lines[-1]
    assert "zh-data-cleaning.md" in ran.out
    assert "pointsman chat" in ran.err


def test_the_demo_speaks_json(pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch)
    ran = pointsman("demo", "--all", "--json")

    *rows, summary = [json.loads(line) for line in ran.lines]
    assert len(rows) == len(ROWS)
    assert all(row["decision"]["label"] == row["truth"] and row["text"] for row in rows)
    assert summary["summary"]["right"] == len(ROWS)


@pytest.mark.parametrize(("wrong", "code"), [(2, 0), (3, 1)])
def test_the_demo_fails_below_eighty_percent(
    pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch, wrong: int, code: int
) -> None:
    says(monkeypatch, wrong)
    ran = pointsman("demo")
    assert ran.code == code
    assert ("expected 80% right labels" in ran.err) == bool(code)


@pytest.mark.model
def test_the_demo_ends_well_with_the_shipped_bundle(pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POINTSMAN_BUNDLE")
    monkeypatch.delenv("POINTSMAN_BASE")

    ran = pointsman("demo", "--all")

    assert ran.code == 0, ran.err
