import json
from collections.abc import Sequence

import pytest

from pointsman.integrations import Settings, assembly
from pointsman.integrations.cli import menu as menu_module
from pointsman.router import HandlerError, Window
from pointsman.router.testing import RecordingHandler, ScriptedClassifier

from .conftest import Pointsman


def label_of(window: Window) -> str:
    return {"hello": "general_chat", "weather": "irrelevant"}.get(window.message, "data_platform")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedClassifier:
    classifier = ScriptedClassifier(label_of)

    async def open_gatekeeper(settings: Settings) -> ScriptedClassifier:
        return classifier

    monkeypatch.setattr(assembly, "open_gatekeeper", open_gatekeeper)
    return classifier


def test_chat_shows_label_and_confidence_and_then_the_answer(
    pointsman: Pointsman, scripted: ScriptedClassifier
) -> None:
    ran = pointsman("chat", stdin="hello\n\n数据清洗流程是什么？\nweather".encode())

    assert ran.code == 0
    assert "[general_chat 0.98 -> general_llm]\nHello! No general LLM" in ran.out
    assert "[data_platform 0.98 -> knowledge_base]\n知识库里是这样写的" in ran.out
    assert "[irrelevant 0.98 -> refusal]\nI'm the data-platform assistant" in ran.out
    assert scripted.closed == 1


def test_chat_keeps_the_conversation_until_it_is_reset(pointsman: Pointsman, scripted: ScriptedClassifier) -> None:
    pointsman("chat", stdin=b"hello\nweather\n/reset\nhello\n/quit\nhello\n")

    contexts = [(window.message, window.previous_user) for window in scripted.windows]
    assert contexts == [("hello", ""), ("weather", "hello"), ("hello", "")]
    assert scripted.windows[1].previous_reply.startswith("Hello! No general LLM")


def test_chat_speaks_json_on_request(pointsman: Pointsman, scripted: ScriptedClassifier) -> None:
    ran = pointsman("chat", "--json", stdin=b"hello\nweather\n")
    rows = [json.loads(line) for line in ran.lines]
    assert [row["decision"]["label"] for row in rows] == ["general_chat", "irrelevant"]
    assert all(row["text"] for row in rows)


def test_a_message_that_gets_no_answer_does_not_end_the_chat(
    pointsman: Pointsman, scripted: ScriptedClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = RecordingHandler("", error=HandlerError("the endpoint is down; start it"))
    monkeypatch.setattr(assembly, "SmallTalk", lambda: broken)
    ran = pointsman("chat", stdin=b"hello\nweather\n")

    assert ran.code == 1
    assert ran.err == "pointsman: the endpoint is down; start it\n"
    assert "outside what I can help with" in ran.out
    assert [window.previous_user for window in scripted.windows] == ["", ""]  # it is not part of the conversation


def test_interactive_names_category_and_confidence_in_both_languages(
    pointsman: Pointsman, scripted: ScriptedClassifier
) -> None:
    ran = pointsman("interactive", stdin="数据清洗流程是什么？\nweather\n/quit\nhello\n".encode())

    assert ran.code == 0
    assert "data platform / 数据平台相关 (0)" in ran.out
    assert "irrelevant / 无关问题 (2)" in ran.out
    assert ran.out.count("置信度 confidence: 98.0%") == 2
    assert "No general LLM" not in ran.out


def test_interactive_reads_each_question_alone(pointsman: Pointsman, scripted: ScriptedClassifier) -> None:
    pointsman("interactive", "--json", stdin=b"hello\nweather\n")
    assert [window.previous_user for window in scripted.windows] == ["", ""]


def test_the_menu_runs_what_is_chosen_until_it_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["1", "", "train", "mine.jsonl", "2", "test.jsonl", "测试", "", "3", "?", "q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    ran: list[list[str]] = []

    def run(args: Sequence[str]) -> int:
        ran.append(list(args))
        return 0

    menu_module.menu(run)

    assert ran == [["train"], ["train", "--data", "mine.jsonl"], ["test", "--", "test.jsonl"], ["interactive"]]
    assert "训练 train" in capsys.readouterr().out


def test_the_menu_ends_with_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    menu_module.menu(lambda args: 0)
