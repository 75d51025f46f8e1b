import json
from pathlib import Path

import pytest

from pointsman.router import DataError
from pointsman.training import Example, inspect_examples, read_examples
from pointsman.training.examples import read_rows

LABELS = ("data_platform", "general_chat", "irrelevant")
GOOD = '{"text": "why did the load fail", "label": "data_platform"}'


def write(folder: Path, *lines: str, name: str = "some.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read(*paths: Path) -> list[Example]:
    return read_examples(paths, labels=LABELS)


def test_a_line_becomes_an_example_with_all_that_it_says(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "同步任务失败了"},
        ],
        "label": "data_platform",
        "lang": "zh",
        "kind": "switch_to_data",
        "group": "sync",
    }

    [example] = read(write(tmp_path, json.dumps(row)))

    assert (example.window.message, example.window.previous_user) == ("同步任务失败了", "hi")
    assert (example.label, example.language, example.source) == ("data_platform", "zh", "some")
    assert (example.group, example.kind, example.turn) == ("sync", "switch_to_data", 2)


def test_a_language_that_is_not_given_is_detected(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, '{"text": "数据表为什么没有数据", "label": "data_platform"}')

    assert [example.language for example in read(path)] == ["en", "zh"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param('{"text": "hi", "label": "chat"}', "`label` must be one of", id="unknown-label"),
        pytest.param('{"text": "hi"}', "found None", id="no-label"),
        pytest.param('{"label": "general_chat"}', "either `text` or `messages`", id="no-text"),
        pytest.param('{"text": "a", "messages": [], "label": "general_chat"}', "either `text`", id="both"),
        pytest.param('{"text": 3, "label": "general_chat"}', "`text` must be a text, found int", id="number"),
        pytest.param('{"text": " \\u200b ", "label": "general_chat"}', "the message is empty", id="invisible"),
        pytest.param('{"messages": "hi", "label": "general_chat"}', "must be a list, found str", id="no-list"),
        pytest.param('{"messages": [], "label": "general_chat"}', "needs a user message", id="no-turns"),
        pytest.param('{"messages": [{"role": "bot", "content": "x"}], "label": "irrelevant"}', "`role`", id="role"),
        pytest.param('{"text": "hi", "label": ', "not JSON", id="cut-off"),
        pytest.param('["hi", "general_chat"]', "expected a JSON object, found list", id="a-list"),
        pytest.param("[" * 100_000, "not JSON", id="nested-beyond-measure"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path, GOOD, "", line, GOOD)

    with pytest.raises(DataError) as caught:
        read(path)

    assert str(caught.value).startswith(f"{path}:3: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_bad_line_is_named_at_once_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    path = write(tmp_path, "{", GOOD, "[]", '{"text": "", "label": "irrelevant"}')

    with pytest.raises(DataError) as caught:
        read(path)

    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [f"{path}:{n}" for n in (1, 3, 4)]


def test_at_most_twenty_bad_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, *["{"] * 33))

    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 13 more"


def test_csv_and_tsv_are_read_by_their_header(tmp_path: Path) -> None:
    comma = write(tmp_path, "label,text,lang", '"irrelevant","rice, fish and ""soup""",en', name="a.csv")
    tab = write(tmp_path, "text\tlabel", "rice, fish\tirrelevant", name="b.tsv")

    assert [example.window.message for example in read(comma, tab)] == ['rice, fish and "soup"', "rice, fish"]


def test_a_csv_line_with_a_comma_that_is_not_quoted_is_not_cut_in_silence(tmp_path: Path) -> None:
    path = write(tmp_path, "label,text", "irrelevant,rice, fish and soup", name="a.csv")

    with pytest.raises(DataError, match=r"a\.csv:2: expected 2 fields as in the header, found 3; quote"):
        read(path)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        pytest.param(["question,label", "hi,irrelevant"], r"a\.csv:1: the header lacks text", id="no-text-column"),
        pytest.param(["text,label", "hi"], r"a\.csv:2: `label` must be one of .* found None", id="short-line"),
        pytest.param(["text,label", "x" * 200_000 + ",irrelevant"], r"a\.csv:.: not CSV", id="endless-field"),
        pytest.param([], "is empty", id="empty"),
        pytest.param(["text,label"], "is empty", id="header-only"),
    ],
)
def test_a_bad_csv_file_is_refused(tmp_path: Path, lines: list[str], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(write(tmp_path, *lines, name="a.csv"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = GOOD if name == "a.jsonl" else "text,label\nwhy did the load fail,data_platform"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())

    assert [example.window.message for example in read(path)] == ["why did the load fail"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\n\n  \n", "is empty", id="blank-lines"),
        pytest.param(b"\x89PNG\r\n\x1a\n\x00\x00\xff", "is not UTF-8 text", id="a-picture"),
        pytest.param(GOOD.encode("utf-16"), "is not UTF-8 text", id="utf-16"),
        pytest.param(f"{GOOD}\n".encode() * 400 + b"\xff", "is not UTF-8 text", id="binary-at-its-end"),
    ],
)
def test_a_file_that_holds_no_text_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)

    with pytest.raises(DataError, match=reason) as caught:
        read(path)

    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*missing\.jsonl: No such file"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        read(tmp_path)


def test_rows_come_with_their_line_numbers_and_a_bad_one_stops_the_reading(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "", GOOD, "{"))

    assert next(rows)[0] == 2
    with pytest.raises(DataError, match=r"some\.jsonl:3: not JSON"):
        next(rows)


def test_the_findings_count_labels_languages_sources_and_repeats(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, GOOD, GOOD, '{"text": "谢谢你", "label": "general_chat"}')

    findings = inspect_examples(read(path))

    assert findings.n == 4
    assert findings.per_label == {"data_platform": 3, "general_chat": 1}
    assert findings.per_language == {"en": 3, "zh": 1}
    assert findings.per_source == {"some": 4}
    assert findings.duplicates == 2
    assert findings.warnings() == ["2 of 4 examples repeat another one"]


def test_a_message_with_two_labels_is_a_conflict_only_in_the_same_context(tmp_path: Path) -> None:
    def asked(before: str, label: str) -> str:
        turns = [("user", before), ("assistant", "ok"), ("user", "and the second one?")]
        messages = [{"role": role, "content": content} for role, content in turns]
        return json.dumps({"messages": messages, "label": label})

    path = write(
        tmp_path,
        '{"text": "table for two", "label": "data_platform"}',
        '{"text": "table for two", "label": "irrelevant"}',
        asked("list the jobs", "data_platform"),
        asked("list the songs", "irrelevant"),
    )

    findings = inspect_examples(read(path))

    assert findings.conflicts == (("table for two", ("data_platform", "irrelevant")),)
    assert findings.warnings()[0] == "1 messages carry two labels, e.g. 'table for two': data_platform and irrelevant"


def test_a_label_with_a_tenth_of_the_largest_is_called_unbalanced(tmp_path: Path) -> None:
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett", "kilo"]
    many = [f'{{"text": "{word}", "label": "irrelevant"}}' for word in words]

    balanced = inspect_examples(read(write(tmp_path, GOOD, *many[:10])))
    unbalanced = inspect_examples(read(write(tmp_path, GOOD, *many)))

    assert balanced.warnings() == []
    assert unbalanced.warnings() == [
        "labels are unbalanced: 1 of 'data_platform' against 11; training weighs them equally"
    ]


def test_near_duplicates_are_found_and_those_with_another_label_come_first(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"text": "how do I schedule the sync job", "label": "data_platform"}',
        '{"text": "how do i schedule the sync jobs?", "label": "data_platform"}',
        '{"text": "difference between a lake and a lakehouse", "label": "data_platform"}',
        '{"text": "difference between a lake and a lagoon", "label": "irrelevant"}',
        '{"text": "book a hotel in paris", "label": "irrelevant"}',
    )

    findings = inspect_examples(read(path))

    assert findings.near_duplicates == (
        ("difference between a lake and a lakehouse", "difference between a lake and a lagoon"),
        ("how do I schedule the sync job", "how do i schedule the sync jobs?"),
    )
    assert findings.warnings()[0].startswith("4 messages nearly repeat another one, e.g. 'difference between")
