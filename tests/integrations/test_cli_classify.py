import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pointsman.integrations import Settings, assembly
from pointsman.router import GatekeeperOutOfMemory, Window
from pointsman.router.testing import ScriptedClassifier

from .conftest import Pointsman

KEYS = {
    "id",
    "label",
    "route",
    "probabilities",
    "confidence",
    "margin",
    "reason",
    "bundle",
    "truncated",
    "seconds",
    "input",
}


def lines_of(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedClassifier:
    """Stands in for the bundle: says what the message says."""
    classifier = ScriptedClassifier(lambda window: window.message.split()[0])

    async def open_gatekeeper(settings: Settings) -> ScriptedClassifier:
        return classifier

    monkeypatch.setattr(assembly, "open_gatekeeper", open_gatekeeper)
    return classifier


def test_texts_are_labelled_one_a_line(pointsman: Pointsman) -> None:
    ran = pointsman("classify", "why did the table load fail", "你好\n[bold]")

    assert ran.code == 0
    assert len(ran.lines) == 2
    assert ran.lines[1].endswith("你好 [bold]")
    assert ran.err == ""


def test_a_readable_line_has_label_confidence_route_and_text(
    pointsman: Pointsman, scripted: ScriptedClassifier
) -> None:
    ran = pointsman("classify", "irrelevant pizza")
    assert ran.out.split() == ["irrelevant", "0.98", "refusal", "irrelevant", "pizza"]


def test_json_lines_keep_the_order_and_give_other_keys_back(pointsman: Pointsman, scripted: ScriptedClassifier) -> None:
    names = ["data_platform", "general_chat", "irrelevant"] * 100
    stdin = lines_of(*({"text": f"{name} {number}", "id": number} for number, name in enumerate(names)))

    ran = pointsman("classify", "--input", "-", "--json", stdin=stdin)

    rows = [json.loads(line) for line in ran.lines]
    assert ran.code == 0
    assert [row["label"] for row in rows] == names
    assert [row["input"] for row in rows] == [{"id": number} for number in range(300)]
    assert all(set(row) == KEYS for row in rows)
    assert scripted.closed == 1


def test_a_conversation_is_read_in_its_context(pointsman: Pointsman, scripted: ScriptedClassifier) -> None:
    messages = [
        {"role": "user", "content": "irrelevant a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "general_chat c"},
    ]
    ran = pointsman("classify", "--input", "-", "--json", stdin=lines_of({"messages": messages, "lang": "en"}))

    assert json.loads(ran.out)["input"] == {"lang": "en"}
    assert scripted.windows == [
        Window(message="general_chat c", previous_user="irrelevant a", previous_reply="b"),
    ]


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_are_no_trouble(
    pointsman: Pointsman, scripted: ScriptedClassifier, installation: Path
) -> None:
    file = installation / "in.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + lines_of({"text": "irrelevant"}) + b"\n  \n" + b'{"text": "irrelevant"}')

    assert len(pointsman("classify", "--input", file).lines) == 2


def test_what_comes_before_a_bad_line_is_decided(pointsman: Pointsman, scripted: ScriptedClassifier) -> None:
    stdin = lines_of({"text": "irrelevant"}, {"text": "irrelevant"}) + b"\n{broken\n" + lines_of({"text": "irrelevant"})

    ran = pointsman("classify", "--input", "-", "--json", stdin=stdin)

    assert ran.code == 4
    assert len(ran.lines) == 2
    assert ran.err.startswith("pointsman: stdin:4: not JSON: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(b"[1]", "expected a JSON object, found list", id="list"),
        pytest.param(b"{}", "expected either `text` or `messages`", id="neither"),
        pytest.param(b'{"text": "a", "messages": []}', "expected either `text` or `messages`", id="both"),
        pytest.param(b'{"text": 3}', "`text` must be a text, found int", id="number"),
        pytest.param(b'{"messages": []}', "needs a user message", id="no messages"),
        pytest.param(b'{"messages": [{"role": "robot", "content": "a"}]}', "`role` must be one of", id="role"),
        pytest.param(b'{"text": "\xff"}', "not UTF-8 text", id="bytes"),
        pytest.param(b'{"text": "a", "x": NaN}', "a number is not finite", id="NaN"),
        pytest.param(b'{"text": "a", "x": 1e999}', "a number is not finite", id="infinite"),
        pytest.param(b"[" * 200_000, "not JSON", id="deep"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(
    pointsman: Pointsman, scripted: ScriptedClassifier, line: bytes, message: str
) -> None:
    ran = pointsman("classify", "--input", "-", "--json", stdin=b'{"text": "irrelevant"}\n' + line + b"\n")

    assert (ran.code, len(ran.lines)) == (4, 1)
    assert ran.err.startswith("pointsman: stdin:2: ")
    assert message in ran.err
    assert len(ran.err) < 400


def test_a_lone_surrogate_comes_back_as_valid_json(pointsman: Pointsman, scripted: ScriptedClassifier) -> None:
    ran = pointsman("classify", "--input", "-", "--json", stdin=b'{"text": "irrelevant \\ud800", "x": "\\ud800"}\n')
    assert ran.code == 0
    assert json.loads(ran.out)["input"] == {"x": "\ud800"}


def test_memory_stays_constant_however_long_the_input_is(
    pointsman: Pointsman, scripted: ScriptedClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    classify = scripted.classify

    async def counted(windows: Sequence[Window]) -> Any:
        sizes.append(len(windows))
        return await classify(windows)

    monkeypatch.setattr(scripted, "classify", counted)
    pointsman("classify", "--input", "-", stdin=lines_of({"text": "irrelevant"}) * 1000)

    assert sum(sizes) == 1000
    assert max(sizes) <= 64


def test_a_gatekeeper_that_fails_is_reported_at_the_end(pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_gatekeeper(settings: Settings) -> ScriptedClassifier:
        return ScriptedClassifier({"a": GatekeeperOutOfMemory("lower max_batch_tokens")})

    monkeypatch.setattr(assembly, "open_gatekeeper", open_gatekeeper)
    ran = pointsman("classify", "a", "--json")

    assert ran.code == 1
    assert json.loads(ran.out)["reason"] == "gatekeeper_failed"
    assert "the gatekeeper failed on 1 messages" in ran.err
    assert "Traceback" not in ran.err
