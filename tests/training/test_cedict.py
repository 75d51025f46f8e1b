import pytest

from pointsman.adapters import Glossary
from pointsman.training.cedict import chinese_glossary, to_traditional, with_traditional


@pytest.fixture(scope="module")
def glossary() -> Glossary:
    return chinese_glossary(2_000)


@pytest.mark.parametrize(
    ("word", "sense"),
    [("听", "listen"), ("几", "how many"), ("说", "say"), ("号", "number"), ("后", "behind"), ("数据", "data")],
)
def test_a_spelling_with_several_readings_gets_the_usual_one(glossary: Glossary, word: str, sense: str) -> None:
    assert sense in glossary.entries[word]


def test_the_most_frequent_words_come_first_and_traditional_spellings_are_extra(glossary: Glossary) -> None:
    words = list(glossary.entries)

    assert {"了", "是", "在"} <= set(words[:10])
    assert len(words) > 2_000
    assert glossary.entries["聽"] == glossary.entries["听"]
    assert all(1 <= len(gloss.split()) <= 8 for gloss in glossary.entries.values())


def test_every_everyday_character_is_there_however_rare_it_is_as_a_word(glossary: Glossary) -> None:
    assert {"缆", "钮", "纜"} <= glossary.entries.keys()
    assert "龘" not in glossary.entries


def test_your_words_are_known_in_traditional_spelling_unless_you_gloss_it_otherwise() -> None:
    own = Glossary({"数仓": "data warehouse", "血缘": "lineage", "血緣": "ancestry"})

    spelt = with_traditional(own)

    assert spelt.entries == {**own.entries, "數倉": "data warehouse"}


def test_text_is_spelt_in_traditional_characters_word_by_word() -> None:
    assert to_traditional("头发里的数据, ok") == "頭髮裡的數據, ok"
