import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from pointsman.adapters import Encoder, Template
from pointsman.adapters.encoding import load_tokenizer
from pointsman.router import Window

TEMPLATE = Template(max_tokens=24, context_tokens=8)


@pytest.fixture
def tokenizer(tiny_base: Path) -> Tokenizer:
    return load_tokenizer(tiny_base)


@pytest.fixture
def encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(tokenizer, TEMPLATE, pad_id=0)


def tokens(encoder: Encoder, tokenizer: Tokenizer, window: Window) -> tuple[list[str | None], tuple[int, ...], bool]:
    (encoded,) = encoder.encode([window])
    return [tokenizer.id_to_token(token) for token in encoded.ids], encoded.segments, encoded.truncated


def words(text: str) -> list[str]:
    return text.split()


def test_a_message_alone_is_a_single_segment(encoder: Encoder, tokenizer: Tokenizer) -> None:
    found, segments, truncated = tokens(encoder, tokenizer, Window(message="the sync job failed"))

    assert found == words("[CLS] the sync job failed [SEP]")
    assert set(segments) == {0}
    assert not truncated


def test_context_and_message_are_a_pair(encoder: Encoder, tokenizer: Tokenizer) -> None:
    window = Window(message="the job", previous_user="who are you", previous_reply="hello bot")
    found, segments, truncated = tokens(encoder, tokenizer, window)

    assert found == words("[CLS] who are you hello bot [SEP] the job [SEP]")
    assert segments == (0,) * 7 + (1,) * 3
    assert not truncated


@pytest.mark.parametrize(
    "window",
    [
        pytest.param(Window(message="rerun the 任务 now!"), id="alone"),
        pytest.param(Window(message="why?", previous_user="the table is red"), id="pair"),
        pytest.param(Window(message="", previous_user="hello"), id="empty-message"),
        pytest.param(Window(message=""), id="nothing"),
    ],
)
def test_what_fits_is_encoded_as_the_tokenizer_does(encoder: Encoder, tokenizer: Tokenizer, window: Window) -> None:
    (encoded,) = encoder.encode([window])
    if window.previous_user:
        expected = tokenizer.encode(window.previous_user, window.message)
    else:
        expected = tokenizer.encode(window.message)

    assert encoded.ids == tuple(expected.ids)
    assert encoded.segments == tuple(expected.type_ids)


def test_a_long_message_keeps_its_head_and_its_tail(encoder: Encoder, tokenizer: Tokenizer) -> None:
    message = " ".join(["hello", *["the"] * 60, "job"])
    found, _, truncated = tokens(encoder, tokenizer, Window(message=message))

    assert len(found) == TEMPLATE.max_tokens
    assert (found[1], found[-2]) == ("hello", "job")
    assert truncated


def test_a_message_just_as_long_as_fits_is_kept_whole(encoder: Encoder, tokenizer: Tokenizer) -> None:
    for length, cut in ((22, False), (23, True)):
        found, _, truncated = tokens(encoder, tokenizer, Window(message=" ".join(["the"] * length)))
        assert (len(found), truncated) == (24, cut)


def test_the_message_comes_before_the_context(encoder: Encoder, tokenizer: Tokenizer) -> None:
    window = Window(message=" ".join(["the"] * 21), previous_user="hello", previous_reply="bye")
    found, segments, truncated = tokens(encoder, tokenizer, window)

    assert found == ["[CLS]", *["the"] * 21, "[SEP]"]
    assert set(segments) == {0}
    assert truncated  # the context was dropped


def test_a_long_context_is_cut_from_its_beginning_half_for_each_speaker(encoder: Encoder, tokenizer: Tokenizer) -> None:
    window = Window(
        message="why",
        previous_user="the sync job failed again today",
        previous_reply="hello you are so good thanks bye",
    )
    found, _, truncated = tokens(encoder, tokenizer, window)

    assert found == words("[CLS] job failed again today so good thanks bye [SEP] why [SEP]")
    assert truncated


def test_a_short_reply_leaves_its_room_to_the_user(encoder: Encoder, tokenizer: Tokenizer) -> None:
    window = Window(message="why", previous_user="a table the sync job failed again today", previous_reply="hello bye")
    found, _, _ = tokens(encoder, tokenizer, window)

    assert found == words("[CLS] the sync job failed again today hello bye [SEP] why [SEP]")


def test_one_token_of_room_goes_to_the_reply(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer, Template(max_tokens=12, context_tokens=1), pad_id=0)
    found, _, truncated = tokens(encoder, tokenizer, Window(message="why", previous_user="a b", previous_reply="c d"))

    assert found == words("[CLS] d [SEP] why [SEP]")
    assert truncated


def test_without_context_tokens_the_context_is_never_read(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer, Template(max_tokens=12, context_tokens=0), pad_id=0)
    found, _, _ = tokens(encoder, tokenizer, Window(message="why", previous_user="a b"))

    assert found == words("[CLS] why [SEP]")


def test_roberta_pairs_have_two_separators_and_one_segment(tokenizer: Tokenizer) -> None:
    separator, start = tokenizer.token_to_id("[SEP]"), tokenizer.token_to_id("[CLS]")
    tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", separator), ("[CLS]", start))
    encoder = Encoder(tokenizer, TEMPLATE, pad_id=1)
    found, segments, _ = tokens(encoder, tokenizer, Window(message="why", previous_user="the job"))

    assert found == words("[CLS] the job [SEP] [SEP] why [SEP]")
    assert set(segments) == {0}
    long = encoder.encode([Window(message="why " * 40, previous_user="the job " * 40)])
    assert len(long[0].ids) <= TEMPLATE.max_tokens


def test_no_window_exceeds_the_budget(tokenizer: Tokenizer) -> None:
    texts = ["", "the job", "the " * 9, "the " * 21, "数据" * 40]
    windows = [Window(message=m, previous_user=u, previous_reply=r) for m in texts for u in texts for r in texts]
    for template in (Template(max_tokens=8, context_tokens=0), TEMPLATE, Template(max_tokens=40, context_tokens=32)):
        encoder = Encoder(tokenizer, template, pad_id=0)
        longest = max(len(item.ids) for item in encoder.encode(windows))
        assert longest <= template.max_tokens


def test_a_huge_paste_costs_no_more_than_a_page(encoder: Encoder) -> None:
    windows = [Window(message="数据" * 50_000, previous_user="the job " * 50_000)]
    started = time.process_time()
    (encoded,) = encoder.encode(windows)

    assert time.process_time() - started < 0.5
    assert encoded.truncated
    assert len(encoded.ids) == TEMPLATE.max_tokens


def test_what_is_dropped_before_tokenizing_counts_as_truncated(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer, TEMPLATE, pad_id=0)
    window = Window(message="ქ" * 200 + " " + "ქ" * 2000)  # a few [UNK], whatever their length

    assert encoder.encode([window])[0].truncated


def test_padding_is_on_the_right_and_masked(encoder: Encoder) -> None:
    windows = [Window(message="the job"), Window(message="why did the table load fail", previous_user="hello")]
    batch = encoder.pad(encoder.encode(windows))

    assert batch.ids.shape == batch.mask.shape == batch.segments.shape == (2, 10)
    assert batch.mask.sum(axis=1).tolist() == [4, 10]
    assert batch.ids[0, 4:].tolist() == [0] * 6
    assert batch.ids.dtype == batch.mask.dtype == batch.segments.dtype == "int64"
    assert batch.truncated == (False, False)


def test_padding_uses_the_models_own_id(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer, TEMPLATE, pad_id=7)
    batch = encoder.pad(encoder.encode([Window(message="the"), Window(message="the job")]))

    assert batch.ids[0, -1] == 7


def test_a_tokenizer_that_pads_and_truncates_by_itself_is_told_not_to(tiny_base: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_base / "tokenizer.json"))
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(load_tokenizer(tmp_path), TEMPLATE, pad_id=0)

    assert len(encoder.encode([Window(message="the sync job failed")])[0].ids) == 6
