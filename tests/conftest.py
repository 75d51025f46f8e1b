"""Fixtures for every test: the loop is guarded, and a tiny random BERT stands in for the real base."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from pointsman.adapters import Bundle
from pointsman.adapters.manifest import Template
from pointsman.training import FitSettings, Recipe, train
from pointsman.training.recipe import GlossarySettings, SplitSettings

# read once, when huggingface_hub is imported: a unit test never asks the network
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

MESSAGES = {
    "data_platform": {
        "en": (
            "why did the table load fail",
            "the sync job failed again",
            "how do I add a column to the table",
            "which table holds the orders data",
            "rerun the data job of yesterday",
            "the table has no data today",
            "the report reads a stale table",
            "how do I get access to the data table",
            "schedule the sync job at night",
            "where is the lineage of this table",
            "a data quality job is red",
        ),
        "zh": (
            "数据清洗流程是什么",
            "数据表为什么没有数据",
            "同步任务失败了",
            "怎么申请数据权限",
            "昨天的任务重跑",
            "这张表的血缘在哪里",
            "报表的数据不对",
            "任务调度怎么配置",
            "数据质量任务失败",
        ),
    },
    "general_chat": {
        "en": (
            "hello there",
            "hi, good morning",
            "thank you so much",
            "thanks, bye",
            "good night",
            "who are you",
            "you are so kind",
            "hello, how are you",
            "thank you, good bot",
            "hi bot",
            "bye, thanks for today",
        ),
        "zh": (
            "你好",
            "早上好",
            "谢谢你",
            "你是谁",
            "再见",
            "你好，你是谁",
            "谢谢，再见",
            "你真好",
            "晚上好",
        ),
    },
    "irrelevant": {
        "en": (
            "what is the weather like",
            "play a song",
            "cook rice with fish",
            "who won the football game",
            "book a hotel in paris",
            "play the football song",
            "will it rain, weather please",
            "a film with a dog",
            "order a pizza with fish",
            "the best hotel by the sea",
            "weather in paris",
        ),
        "zh": (
            "今天天气怎么样",
            "放一首歌",
            "红烧鱼怎么做",
            "足球比赛谁赢了",
            "订一家酒店",
            "明天会下雨吗",
            "推荐一部电影",
            "点一个披萨",
            "天气好，去海边",
        ),
    },
}
GLOSSARY = {"数据": "data", "血缘": "lineage", "任务": "job", "天气": "weather", "谢谢": "thanks"}


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """Fail any test in which our code blocks the event loop."""
    with blockbuster_ctx("pointsman") as blockbuster:
        yield blockbuster


@pytest.fixture(autouse=True)
def no_base_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own base must not decide a test."""
    monkeypatch.delenv("POINTSMAN_BASE", raising=False)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random BERT: hidden 32, 2 layers, 2 heads, and a vocabulary made of the messages above."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bases") / "tiny-bert"
    vocabulary = _write_wordpiece(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=0.2,  # with the usual 0.02 so few units would say nothing about the words
    )
    BertModel(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def write_wordpiece() -> Callable[..., int]:
    """The function that writes the tiny base's tokenizer, for tests that make bases of other families."""
    return _write_wordpiece


@pytest.fixture(scope="session")
def labelled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file with sixty easy messages, en and zh, three labels."""
    path = tmp_path_factory.mktemp("data") / "easy.jsonl"
    rows = [
        {"text": text, "label": label, "lang": language}
        for label, languages in MESSAGES.items()
        for language, texts in languages.items()
        for text in texts
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_recipe(labelled_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """How `tiny_bundle` is trained: a second on the tiny base, which is passed as `base` wherever it is needed."""
    glossary = tmp_path_factory.mktemp("glossary") / "jargon.tsv"
    glossary.write_text("".join(f"{word}\t{gloss}\n" for word, gloss in GLOSSARY.items()), encoding="utf-8")
    return Recipe(
        data=(labelled_file,),
        base="pointsman/tiny-bert",
        glossary=GlossarySettings(words=0, files=(glossary,)),
        template=Template(max_tokens=48, context_tokens=16),
        fit=FitSettings(epochs=8, batch_size=8, learning_rate=1e-2, patience=0),
        split=SplitSettings(validation=0.1, calibration=0.15, heldout=0.15),
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_base: Path, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle trained on `tiny_base`; open it with `base=str(tiny_base)`. Copy it before you damage it."""
    return train(tiny_recipe, tmp_path_factory.mktemp("bundles"), base=str(tiny_base)).bundle


def _write_wordpiece(
    folder: Path, specials: Sequence[str] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), *, roberta: bool = False
) -> int:
    """Write an uncased WordPiece tokenizer that knows the words of the messages; return the size of its vocabulary.

    The special tokens get the first ids; with `roberta` they stand round texts as in that family.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    texts = [text for languages in MESSAGES.values() for group in languages.values() for text in group]
    characters = sorted({*"abcdefghijklmnopqrstuvwxyz0123456789.,?!'-_/()", *"".join(texts).replace(" ", "")})
    words = sorted({word.strip(",.?") for text in texts if text.isascii() for word in text.lower().split()})
    pieces = [*specials, *characters]
    pieces += [f"##{character}" for character in characters if character.isascii() and character.isalnum()]
    pieces += [word for word in ("lineage", *words) if word not in pieces]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    processor = processors.RobertaProcessing if roberta else processors.BertProcessing
    tokenizer.post_processor = processor(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.add_special_tokens(list(specials))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(vocabulary)


class _PlainIterator:
    def __init__(self, *pieces: str) -> None:
        self._left = list(pieces)

    def __aiter__(self) -> "_PlainIterator":
        return self

    async def __anext__(self) -> str:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)


@pytest.fixture(scope="session")
def plain_iterator() -> type[_PlainIterator]:
    """An async iterator of the given pieces that is no generator, so it cannot be closed."""
    return _PlainIterator
