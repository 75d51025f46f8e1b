from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from pointsman.adapters import Glossary, Template, build_network, find_base
from pointsman.adapters.encoding import load_tokenizer
from pointsman.router import DataError

LABELS = ("a", "b", "c")


@pytest.fixture
def tokenizer(tiny_base: Path) -> Tokenizer:
    return load_tokenizer(tiny_base)


def embeddings(tokenizer: Tokenizer) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 4)).astype(np.float32)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "glossary.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_reading_passes_over_comments_blank_lines_and_outer_spaces(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff# words\n\n血缘\tlineage\r\n DAG \t a job graph \n")

    assert Glossary.read(path).entries == {"血缘": "lineage", "DAG": "a job graph"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("a\tb\nword\n", r"glossary\.tsv:2: expected `word <tab> gloss`, found 'word'", id="no-tab"),
        pytest.param("# c\n\n\tgloss\n", r"glossary\.tsv:3: expected", id="no-word"),
        pytest.param("word\t  \n", r"glossary\.tsv:1: expected", id="no-gloss"),
        pytest.param("a\tb\tc\n", r"glossary\.tsv:1: expected", id="three-columns"),
        pytest.param("a\tb\nc\td\n a\te\n", r"glossary\.tsv:3: the word 'a' is there already", id="twice"),
        pytest.param(b"a\t\xff\n", r"cannot read the glossary .*glossary\.tsv", id="not-text"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Glossary.read(write(tmp_path, content))


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv"):
        Glossary.read(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("word", "gloss"), [("", "x"), (" a", "x"), ("a", " "), ("#a", "x"), ("a\tb", "x"), ("a", "x\ny")]
)
def test_a_row_that_could_not_be_read_again_is_refused(word: str, gloss: str) -> None:
    with pytest.raises(DataError):
        Glossary({word: gloss})


def test_what_is_written_is_read_again_in_the_same_order(tmp_path: Path) -> None:
    glossary = Glossary({"血缘": "lineage", "C#": "a language", "a\u2028b": "x", "数据": "data"})
    glossary.write(tmp_path / "g.tsv", header="by hand\nin May")

    assert list(Glossary.read(tmp_path / "g.tsv").entries.items()) == list(glossary.entries.items())
    assert (tmp_path / "g.tsv").read_text(encoding="utf-8").startswith("# by hand\n# in May\n血缘\tlineage\n")


def test_of_two_glossaries_the_later_explains() -> None:
    assert Glossary({"a": "1", "b": "2"}).merged(Glossary({"b": "3", "c": "4"})).entries == {
        "a": "1",
        "b": "3",
        "c": "4",
    }


def test_a_word_gets_the_mean_of_the_embeddings_of_its_gloss(tokenizer: Tokenizer) -> None:
    table = embeddings(tokenizer)
    expected = table[[tokenizer.token_to_id("sync"), tokenizer.token_to_id("job")]].mean(axis=0)
    rows = Glossary({"同步任务": "sync job", "血缘": "lineage"}).extend(tokenizer, table)

    np.testing.assert_allclose(rows[0], expected, rtol=1e-6)
    np.testing.assert_allclose(rows[1], table[tokenizer.token_to_id("lineage")], rtol=1e-6)
    assert tokenizer.token_to_id("同步任务") == len(table)
    assert tokenizer.token_to_id("血缘") == len(table) + 1
    assert tokenizer.encode("看同步任务的血缘", add_special_tokens=False).ids.count(len(table)) == 1


def test_a_gloss_explains_with_the_bases_own_words_only(tokenizer: Tokenizer) -> None:
    table = embeddings(tokenizer)
    alone = Glossary({"乙": "甲 data"}).extend(load_copy(tokenizer), table)
    together = Glossary({"甲": "weather", "乙": "甲 data"}).extend(tokenizer, table)

    np.testing.assert_array_equal(together[1], alone[0])


def test_a_gloss_of_unknown_words_gets_the_mean_of_everything(tokenizer: Tokenizer) -> None:
    table = embeddings(tokenizer)

    np.testing.assert_allclose(Glossary({"甲乙": "丙丁"}).extend(tokenizer, table)[0], table.mean(axis=0), rtol=1e-5)


def test_rows_are_a_pure_function_of_base_and_glossary(tokenizer: Tokenizer) -> None:
    table = embeddings(tokenizer)
    glossary = Glossary({"同步任务": "sync job", "甲乙": "丙丁", "DAG": "job schedule"})
    other = load_copy(tokenizer)
    before = table.copy()

    first, second = glossary.extend(tokenizer, table), glossary.extend(other, table)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(table, before)
    assert tokenizer.get_vocab() == other.get_vocab()


def test_known_words_are_left_as_they_are(tokenizer: Tokenizer) -> None:
    table = embeddings(tokenizer)
    glossary = Glossary({"table": "weather", "血缘": "lineage"})

    assert glossary.new_words(tokenizer) == ["血缘"]
    assert len(glossary.extend(tokenizer, table)) == 1
    assert glossary.new_words(tokenizer) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("why did the DAG fail", True, id="as-written"),
        pytest.param("why did the dag fail", True, id="lower-case"),
        pytest.param("DAG?", True, id="before-punctuation"),
        pytest.param("这个DAG失败了", True, id="glued-to-chinese"),
        pytest.param("a dagger", False, id="inside-a-word"),
        pytest.param("dags", False, id="plural"),
    ],
)
def test_latin_jargon_is_found_in_any_case_but_only_whole(tokenizer: Tokenizer, text: str, found: bool) -> None:  # noqa: FBT001
    table = embeddings(tokenizer)
    Glossary({"DAG": "job schedule"}).extend(tokenizer, table)

    assert (tokenizer.token_to_id("DAG") in tokenizer.encode(text).ids) is found


def test_chinese_is_found_inside_a_sentence_longest_word_first(tokenizer: Tokenizer) -> None:
    Glossary({"数据": "data", "数据质量": "data quality"}).extend(tokenizer, embeddings(tokenizer))
    tokens = tokenizer.encode("查数据质量和数据", add_special_tokens=False).tokens

    assert "数据质量" in tokens
    assert tokens.count("数据") == 1


def test_a_network_reads_new_words_and_old_ones_keep_their_rows(tiny_base: Path) -> None:
    import torch

    base, template = find_base(tiny_base), Template(max_tokens=32, context_tokens=8)
    plain = build_network(base, labels=LABELS, template=template)
    extended = build_network(
        base, labels=LABELS, template=template, glossary=Glossary({"同步": "sync", "血缘": "lineage"})
    )
    before = plain.model.get_input_embeddings().weight
    after = extended.model.get_input_embeddings().weight

    assert after.shape[0] == before.shape[0] + 2
    assert torch.equal(after[: len(before)], before)
    sync = load_tokenizer(tiny_base).token_to_id("sync")
    torch.testing.assert_close(after[len(before)], before[sync])
    assert extended.model.config.vocab_size == len(after)


def test_a_glossary_of_known_words_changes_nothing(tiny_base: Path) -> None:
    base, template = find_base(tiny_base), Template(max_tokens=32, context_tokens=8)
    network = build_network(base, labels=LABELS, template=template, glossary=Glossary({"table": "weather"}))

    assert network.model.get_input_embeddings().num_embeddings == load_tokenizer(tiny_base).get_vocab_size()


def load_copy(tokenizer: Tokenizer) -> Tokenizer:
    return Tokenizer.from_str(tokenizer.to_str())
