"""Words a base model does not know, explained in words it knows.

Each word becomes one token whose embedding is the mean of the base's own embeddings of its gloss, so that an English
base reads Chinese, or a team's jargon (`血缘 <tab> lineage`), before any training. Rows are a pure function of base and
glossary: a bundle stores the small text file, not the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from pointsman.router import DataError

__all__ = ["Glossary"]


@dataclass(frozen=True, slots=True)
class Glossary:
    """Word -> gloss, in the order in which the words get their token ids."""

    entries: Mapping[str, str]

    def __post_init__(self) -> None:
        for word, gloss in self.entries.items():
            if not word or word != word.strip() or not gloss.strip():
                raise DataError(f"a glossary row needs a word and a gloss, got {word!r} and {gloss!r}")
            if word.startswith("#") or any(separator in word + gloss for separator in "\t\r\n"):
                raise DataError(f"a glossary row is one line and no `#` comment, got {word!r} and {gloss!r}")

    @classmethod
    def read(cls, path: Path) -> Glossary:
        """Return the glossary in a file of `word <tab> gloss` lines; empty lines and `#` comments are passed over.

        Raises:
            DataError: a line has another shape, or a word occurs twice; the message names the line.
        """
        entries: dict[str, str] = {}
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines also splits at U+2028 and the like
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the glossary {path}: {error}") from error
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            word, _, gloss = (part.strip() for part in line.partition("\t"))
            if not word or not gloss or "\t" in gloss or word.startswith("#"):
                raise DataError(f"{path}:{number}: expected `word <tab> gloss`, found {line!r}")
            if word in entries:
                raise DataError(f"{path}:{number}: the word {word!r} is there already")
            entries[word] = gloss
        return cls(entries)

    def write(self, path: Path, *, header: str = "") -> None:
        """Write the file that `read` reads; `header` lines are written as comments."""
        lines = [f"# {line}" for line in header.splitlines()]
        lines += [f"{word}\t{gloss}" for word, gloss in self.entries.items()]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def merged(self, other: Glossary) -> Glossary:
        """Return both; where both explain a word, `other` is followed."""
        return Glossary({**self.entries, **other.entries})

    def new_words(self, tokenizer: Tokenizer) -> list[str]:
        """Return the words that are not in the tokenizer's vocabulary yet."""
        vocabulary = tokenizer.get_vocab()
        return [word for word in self.entries if word not in vocabulary]

    def extend(self, tokenizer: Tokenizer, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add the new words to `tokenizer` and return their embeddings, in the order of their new ids.

        Args:
            tokenizer: the base's own; changed in place.
            embeddings: the base's word embeddings, shape (vocabulary, hidden).

        Returns:
            Shape (new words, hidden). A gloss of only unknown words gets the mean of all embeddings.
        """
        words = self.new_words(tokenizer)
        place = {gloss: number for number, gloss in enumerate(dict.fromkeys(self.entries[word] for word in words))}
        glosses = tokenizer.encode_batch(list(place), add_special_tokens=False)
        unknown = {tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>")} - {None}
        mean = embeddings.mean(axis=0)
        means = np.empty((len(glosses), embeddings.shape[1]), dtype=np.float32)
        for row, gloss in zip(means, glosses, strict=True):
            known = [token for token in gloss.ids if token not in unknown]
            row[:] = embeddings[known].mean(axis=0) if known else mean
        tokenizer.add_tokens([_token(word) for word in words])
        return means[[place[self.entries[word]] for word in words]]


def _token(word: str) -> AddedToken:
    # Chinese is matched on the text as it stands, before the base splits it; a Latin word in any case, but only whole
    return AddedToken(word, normalized=word.isascii(), single_word=word.isascii())
