import json
import random
import time
from pathlib import Path

import pytest

from pointsman.router import Conversation
from pointsman.training import read_examples
from pointsman.training.similar import Pair, glossed, main, near_duplicates, twins

GLOSSARY = {
    "维护": "maintenance",
    "窗口": "window",
    "几点": "what time",
    "数据": "data",
    "数据库": "database",
    "谢谢": "thanks",
}
LABELS = ("data_platform", "general_chat", "irrelevant")


def found(pairs: list[Pair]) -> list[tuple[int, int]]:
    return [(pair.first, pair.second) for pair in pairs]


def talk(*texts: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation.of([{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("Why did the load fail?", "why did the load fail", id="case-and-punctuation"),
        pytest.param("how do i schedule the job", "how do I schedule the jobs", id="one-letter"),
        pytest.param("please rerun the data job of yesterday", "rerun the data job of yesterday, please", id="order"),
        pytest.param("数据清洗流程是什么？", "数据清洗流程是什么", id="chinese-punctuation"),
        pytest.param("昨天的同步任务为什么失败了", "昨天的同步任务为什么又失败了", id="chinese-one-character"),
    ],
)
def test_nearly_the_same_message_is_found(one: str, other: str) -> None:
    assert found(near_duplicates([one, "something else entirely", other])) == [(0, 2)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("play the football song", "play the piano song", id="another-noun"),
        pytest.param("why did the load fail", "the load was fine", id="another-meaning"),
        pytest.param("数据清洗流程是什么", "数据血缘是什么", id="chinese"),
        pytest.param("🙏", "😅", id="no-letters"),
    ],
)
def test_another_message_is_not(one: str, other: str) -> None:
    assert near_duplicates([one, other]) == []


def test_a_repeat_is_compared_once_and_empty_input_gives_nothing() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates(["same words here"] * 3) == []
    assert found(near_duplicates(["thanks a lot", "thanks a lot", "thanks a lot!"])) == [(0, 2)]


def test_no_pair_is_wrong_and_few_are_missed() -> None:
    rng = random.Random(3)
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrt"]
    texts = list(dict.fromkeys(" ".join(rng.choices(words[:30], k=6)) for _ in range(400)))
    sets = [{f" {text} "[at : at + 3] for at in range(len(text))} for text in texts]
    exact = {
        (a, b)
        for a in range(len(texts))
        for b in range(a + 1, len(texts))
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= 0.6
    }

    pairs = set(found(near_duplicates(texts, threshold=0.6)))

    assert len(exact) > 20
    assert pairs <= exact
    assert len(pairs) >= 0.9 * len(exact)


@pytest.mark.slow
def test_sixty_thousand_messages_take_less_than_twenty_seconds() -> None:
    rng = random.Random(1)
    words = [f"{a}{b}{c}{d}" for a in "bcdfgklmprst" for b in "aeiou" for c in "lmnrst" for d in "aeiou"]
    texts = [" ".join(rng.choices(words, k=rng.randint(3, 14))) for _ in range(60_000)]
    started = time.process_time()

    near_duplicates(texts)

    assert time.process_time() - started < 20


def test_chinese_is_glossed_by_its_longest_words() -> None:
    assert glossed("dws 数据库的维护窗口", GLOSSARY).split() == ["dws", "database", "maintenance", "window"]


def test_twins_are_paired_once_and_only_within_their_kind() -> None:
    english = [
        talk("hello", "Hi!", "thanks"),
        talk("when is the maintenance window", "Sunday at 2.", "what if I miss it"),
    ]
    chinese = [talk("维护窗口几点", "周日 2 点", "错过了怎么办"), talk("维护窗口几点", "周日 2 点", "谢谢")]

    assert sorted(found(twins(english, chinese, glossary=GLOSSARY))) == [(0, 1), (1, 0)]
    assert found(twins(english, chinese, glossary=GLOSSARY, kinds=(["talk", "data"], ["data", "data"]))) == [(1, 0)]
    assert twins(english, chinese, glossary=GLOSSARY, threshold=0.99) == []
    assert twins(english, [], glossary=GLOSSARY) == []
    assert twins([talk("🙏")], [talk("😅")], glossary={}) == []


def test_writing_groups_twins_and_equal_endings_and_leaves_the_rest_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(language: str, *texts: str, **fields: str) -> str:
        messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
        return json.dumps(
            {"messages": messages, "label": "data_platform", "lang": language, "kind": "data", **fields},
            ensure_ascii=False,
        )

    english = tmp_path / "en.jsonl"
    chinese = tmp_path / "zh.jsonl"
    lines = [
        row("en", "when is the maintenance window of the cluster", "Sunday 2:00.", "what if I miss it"),
        row("en", "list the jobs", "a, b", "and the second one?"),
        row("en", "list the tables", "c, d", "And the second one"),
        row("en", "ORA-00942 again", "Which schema?", "finance"),
    ]
    english.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    chinese.write_text(row("zh", "集群维护窗口几点", "周日 2:00。", "错过了怎么办") + "\n", encoding="utf-8")

    assert main([str(english), str(chinese), "--write"]) == 0

    groups = [json.loads(line).get("group") for line in english.read_text(encoding="utf-8").splitlines()]
    [twin] = [json.loads(line).get("group") for line in chinese.read_text(encoding="utf-8").splitlines()]
    assert groups[0] == twin is not None
    assert groups[1] == groups[2] is not None
    assert groups[3] is None
    assert len({group for group in groups if group}) == 2
    assert english.read_text(encoding="utf-8").splitlines()[3] == lines[3]
    assert len(read_examples([english, chinese], labels=LABELS)) == 5
    assert "5 conversations, 4 of them in 2 groups" in capsys.readouterr().err


def test_groups_that_were_given_are_joined_and_never_split(tmp_path: Path) -> None:
    def row(last: str, group: str | None = None) -> str:
        turns = [("user", f"about {last}"), ("assistant", "ok"), ("user", last)]
        messages = [{"role": role, "content": content} for role, content in turns]
        return json.dumps(
            {"messages": messages, "label": "irrelevant", "lang": "en"} | ({"group": group} if group else {})
        )

    path = tmp_path / "en.jsonl"
    lines = [row("why?", "b"), row("how?", "b"), row("why"), row("when?", "a"), row("WHY?", "a"), row("where?", "c")]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    assert main([str(path), "--write"]) == 0
    once = path.read_bytes()
    assert main([str(path), "--write"]) == 0

    assert [json.loads(line).get("group") for line in once.splitlines()] == ["a", "a", "a", "a", "a", "c"]
    assert path.read_bytes() == once


def test_without_write_nothing_is_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "thanks a lot"}\n{"text": "Thanks a lot!"}\n', encoding="utf-8")
    before = path.read_bytes()

    assert main([str(path)]) == 0

    assert path.read_bytes() == before
    assert json.loads(capsys.readouterr().out) == {"near": 1.0, "texts": ["thanks a lot", "Thanks a lot!"]}


def test_a_bad_file_is_reported_with_exit_code_four(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{\n", encoding="utf-8")

    assert main([str(path)]) == 4
    assert capsys.readouterr().err.startswith(f"error: {path}:1: not JSON")
