"""The normal form of a message: what every tokenizer sees, in training and in serving."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["detect_language", "normalise"]

LONGEST_WORD = 60
"""Characters; a longer run without a space is cut, since WordPiece turns a word of over 100 into one [UNK]."""

# Letters of other scripts that are drawn like Latin ones (Unicode TR 39, "confusables"); used only in mixed words.
_CONFUSABLES = {
    **str.maketrans("АВЕКМНОРСТХУІЈЅаеорсухіјѕԁһԛԝк", "ABEKMHOPCTXYIJSaeopcyxijsdhqwk"),
    **str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαοριντκυχ", "ABEZHIKMNOPTYXaopivtkux"),
}
_LATIN = re.compile(r"[A-Za-z]")
_MIXED_WORD = re.compile(r"[A-Za-z\u0370-\u03ff\u0400-\u052f]+")
_LONG_WORD = re.compile(rf"([^\s\u2e80-\u9fff\uf900-\ufaff]{{{LONGEST_WORD}}})(?=\S)")
_SPACES = re.compile(r"\s+")
_CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KEPT_CONTROLS = frozenset("\t\n\r")


def normalise(text: str) -> str:
    """Return `text` in the form the model reads.

    Compatibility characters are folded (NFKC: full-width letters, ligatures); controls, zero-width and direction marks,
    lone surrogates and variation selectors are dropped; Latin words spelt with look-alike Cyrillic or Greek letters
    are spelt in Latin (a word wholly in one script is left alone, and so is every Chinese character); runs of white
    space become one space; very long words are cut into pieces.
    """
    text = "".join(character for character in text if character in _KEPT_CONTROLS or not _is_invisible(character))
    text = unicodedata.normalize("NFKC", text)
    text = _MIXED_WORD.sub(lambda word: _to_latin(word[0]), text)
    text = unicodedata.normalize("NFKC", text)  # a Latin letter may compose with an accent where its look-alike did not
    text = _LONG_WORD.sub(r"\1 ", text)
    return _SPACES.sub(" ", text).strip()


def detect_language(text: str) -> str:
    """Return `"zh"` when at least a fifth of the letters are Chinese characters, else `"en"`."""
    chinese = len(_CJK.findall(text))
    letters = sum(character.isalpha() for character in text)
    return "zh" if chinese and chinese * 5 >= letters else "en"


def _is_invisible(character: str) -> bool:
    # Cc controls, Cf format (zero-width, bidi), Cs lone surrogates, Co private use, Cn unassigned
    return unicodedata.category(character)[0] == "C" or "\ufe00" <= character <= "\ufe0f"


def _to_latin(word: str) -> str:
    if word.isascii() or not _LATIN.search(word):
        return word
    return word.translate(_CONFUSABLES)
