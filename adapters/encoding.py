"""From a window to token ids, by the bundle's template. The same code in training and in serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pointsman.adapters.manifest import Template
from pointsman.router import BaseModelError, Window

__all__ = ["Batch", "Encoded", "Encoder", "load_tokenizer"]

_CHARACTERS_PER_TOKEN = 16
"""More than a tokenizer packs into one on average, so that what is dropped before tokenizing would not have fitted."""

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One window as the model takes it."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Padded windows: three int64 arrays of shape (windows, tokens)."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    segments: NDArray[np.int64]
    truncated: tuple[bool, ...]


class Encoder:
    """Encodes windows with one tokenizer and one template."""

    def __init__(self, tokenizer: Tokenizer, template: Template, *, pad_id: int) -> None:
        self.template = template
        self.pad_id = pad_id
        self._tokenizer = tokenizer
        self._alone = _Frame.of(tokenizer, pair=False)
        self._pair = _Frame.of(tokenizer, pair=True)

    def encode(self, windows: Sequence[Window]) -> list[Encoded]:
        """Return the token ids of each window, cut to the template's budget.

        The message comes first: it gets all tokens that it needs, keeping its head and tail when it is too long. The
        context gets what is left, at most half of it for the previous user message, each part cut from its beginning.
        """
        texts = [text for window in windows for text in (window.message, window.previous_user, window.previous_reply)]
        short = [self._shorten(text) for text in texts]
        parts = [tuple(part.ids) for part in self._tokenizer.encode_batch(short, add_special_tokens=False)]
        return [
            self._assemble(*parts[at : at + 3], shortened=short[at : at + 3] != texts[at : at + 3])
            for at in range(0, len(parts), 3)
        ]

    def pad(self, encoded: Sequence[Encoded]) -> Batch:
        """Return the windows as one batch, padded on the right to the longest."""
        longest = max(len(item.ids) for item in encoded)
        ids = np.full((len(encoded), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        segments = np.zeros_like(ids)
        for row, item in enumerate(encoded):
            ids[row, : len(item.ids)] = item.ids
            mask[row, : len(item.ids)] = 1
            segments[row, : len(item.ids)] = item.segments
        return Batch(ids=ids, mask=mask, segments=segments, truncated=tuple(item.truncated for item in encoded))

    def _shorten(self, text: str) -> str:
        """Drop the middle of a text that is far beyond the budget, so that a pasted log costs no more than a page."""
        characters = self.template.max_tokens * _CHARACTERS_PER_TOKEN
        if len(text) <= 2 * characters:
            return text
        return f"{text[:characters]} {text[-characters:]}"

    def _assemble(self, message: Ids, previous_user: Ids, previous_reply: Ids, *, shortened: bool) -> Encoded:
        budget = self.template.max_tokens
        kept = _keep_ends(message, budget - self._alone.specials)
        room = min(self.template.context_tokens, budget - self._pair.specials - len(kept))
        wanted = len(previous_user) + len(previous_reply)
        truncated = shortened or len(kept) < len(message)
        if wanted == 0 or room <= 0:
            ids, segments = self._alone.fill(kept)
            return Encoded(ids=ids, segments=segments, truncated=truncated or wanted > 0)
        user = _keep_end(previous_user, max(room // 2, room - len(previous_reply)))
        reply = _keep_end(previous_reply, room - len(user))
        ids, segments = self._pair.fill(user + reply, kept)
        return Encoded(ids=ids, segments=segments, truncated=truncated or wanted > room)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the base's tokenizer without padding and truncation.

    Raises:
        BaseModelError: the folder's tokenizer cannot be read.
    """
    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # tokenizers raises plain Exception; the caller gets it as ours
        raise BaseModelError(f"cannot read the tokenizer in {folder}: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a tokenizer puts its special tokens round one text or two.

    Taken from its post-processor once: `tokenizers` truncates and merges encodings in time quadratic in their length.
    """

    pieces: tuple[tuple[int | None, int, int], ...]
    """(None, special token, its segment) or (number of the text, 0, segment of its tokens)."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, pair: bool) -> Self:
        whole = tokenizer.encode("a", "a" if pair else None)
        tokens = zip(whole.sequence_ids, whole.ids, whole.type_ids, strict=True)
        pieces: list[tuple[int | None, int, int]] = []
        for text, token, segment in tokens:
            piece = (text, token if text is None else 0, segment)
            if text is None or piece not in pieces:  # a text of several tokens is one piece
                pieces.append(piece)
        return cls(tuple(pieces))

    @property
    def specials(self) -> int:
        return sum(text is None for text, _, _ in self.pieces)

    def fill(self, *texts: Ids) -> tuple[Ids, Ids]:
        """Return token ids and segments."""
        ids: list[int] = []
        segments: list[int] = []
        for text, special, segment in self.pieces:
            tokens = (special,) if text is None else texts[text]
            ids += tokens
            segments += [segment] * len(tokens)
        return tuple(ids), tuple(segments)


def _keep_ends(ids: Ids, room: int) -> Ids:
    if len(ids) <= room:
        return ids
    tail = room // 3
    return ids[: room - tail] + ids[len(ids) - tail :]


def _keep_end(ids: Ids, room: int) -> Ids:
    return ids[max(0, len(ids) - room) :]
