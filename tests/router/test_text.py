import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pointsman.router import detect_language, normalise

TRICKY = st.sampled_from(
    [
        "\u200d",
        "\u0301",
        "\u0308",
        "а",
        "α",
        "e",
        "ﬁ",
        "Ａ",
        "\ufe0f",
        "\u202e",
        "\ud800",
        "中",
        "\x00",
        " ",
        "x" * 59,
        "ё",
    ]
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("ＳＱＬ　ｊｏｂ", "SQL job", id="full-width"),
        pytest.param("ﬁle №5", "file No5", id="ligatures"),
        pytest.param("pass\u200bword\ufeff", "password", id="zero-width"),
        pytest.param("\u202etxet\u202c a", "txet a", id="bidi"),
        pytest.param("a\x00b\x07c", "abc", id="nul-and-bell"),
        pytest.param("a\ud83db", "ab", id="lone-surrogate"),
        pytest.param("ok 👍🏽 ❤️", "ok 👍🏽 ❤", id="emoji-without-variation-selector"),
        pytest.param("  a \t\r\n\n b\u2028c\u3000", "a b c", id="white-space"),
        pytest.param("dаtа plаtform", "data platform", id="cyrillic-look-alikes"),
        pytest.param("ΗELLO wοrld", "HELLO world", id="greek-look-alikes"),
        pytest.param("как дела", "как дела", id="a-cyrillic-word-stays"),
        pytest.param("αβγ", "αβγ", id="a-greek-word-stays"),
        pytest.param("e\u200d\u0301", "é", id="accent-behind-a-joiner"),
        pytest.param("", "", id="empty"),
        pytest.param("\u200b\u200b", "", id="only-invisible"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_a_very_long_word_is_cut_and_loses_nothing() -> None:
    cut = normalise("a" * 150)

    assert [len(piece) for piece in cut.split()] == [60, 60, 30]
    assert cut.replace(" ", "") == "a" * 150


def test_chinese_is_never_cut_or_respelt() -> None:
    text = "数据清洗流程是什么" * 30

    assert normalise(text) == text
    assert normalise("體驗資料平臺") == "體驗資料平臺"  # traditional characters are the glossary's business


@example("e\u200d\u0301")
@example("xа\u0301")
@example("x" * 61 + "\u0301")
@given(st.text() | st.lists(TRICKY | st.characters(), max_size=12).map("".join))
def test_normalise_is_idempotent_and_leaves_nothing_a_tokenizer_cannot_take(text: str) -> None:
    once = normalise(text)

    assert normalise(once) == once
    once.encode()  # no lone surrogates
    assert once == once.strip()
    assert "\x00" not in once


@pytest.mark.parametrize(
    ("text", "language"),
    [
        pytest.param("how do I rerun the job", "en", id="english"),
        pytest.param("数据清洗流程是什么", "zh", id="chinese"),
        pytest.param("Flink 任务失败了", "zh", id="mixed"),
        pytest.param("what does 中 mean in this very long sentence about characters", "en", id="one-character"),
        pytest.param("", "en", id="empty"),
        pytest.param("123 ???", "en", id="no-letters"),
        pytest.param("как дела", "en", id="another-language"),
    ],
)
def test_detect_language(text: str, language: str) -> None:
    assert detect_language(text) == language
