"""Noise as people make it: typos, case, lost punctuation, a greeting in front, an emoji behind."""

from __future__ import annotations

import random
from collections.abc import Callable

from pointsman.router import detect_language, normalise

__all__ = ["perturb"]

_GREETINGS = {
    "en": (
        "hi, ",
        "hello! ",
        "hey ",
        "Hi there, ",
        "good morning, ",
        "quick question: ",
        "sorry to bother you, ",
        "pls ",
    ),
    "zh": ("你好，", "您好，", "在吗？", "请问", "麻烦问下，", "嗨，", "早上好，", "不好意思打扰一下，"),
}
_ENDINGS = {
    "en": (" thanks", " thx!", " please", " 🙏", " 😅", "??", "!!", " asap", "..."),
    "zh": ("谢谢", "，谢谢！", "～", "😂", "🙏", "？？", "！", "，急", "……"),
}
_KEYBOARD = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk",
    "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "wa", "r": "et", "s": "ad", "t": "ry",
    "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip
_LONG_ENOUGH = 12
"""Characters; a typo in a shorter text may turn it into another word."""


def perturb(text: str, rng: random.Random) -> str:
    """Return `text` as another hand might have typed it; the meaning, so the label, stays."""
    language = detect_language(text)

    def typos(noisy: str) -> str:
        return noisy if len(text) < _LONG_ENOUGH else _typos(noisy, rng)

    noises: list[Callable[[str], str]] = [
        str.lower,
        str.upper if len(text) < 80 else str.lower,  # noqa: PLR2004
        lambda t: t.rstrip("?？.。!！ "),
        lambda t: rng.choice(_GREETINGS[language]) + t,
        lambda t: t + rng.choice(_ENDINGS[language]),
        typos,
        typos,
        lambda t: t.replace(" ", "  ").replace("，", ","),
    ]
    noisy = text
    for noise in rng.sample(noises, rng.choice((1, 1, 2))):
        noisy = noise(noisy)
    return normalise(noisy) or text  # of a message that is one question mark, nothing may be left


def _typos(text: str, rng: random.Random) -> str:
    characters = list(text)
    for _ in range(max(1, len(text) // 40)):
        at = rng.randrange(1, len(characters) - 1)
        if not (characters[at].isascii() and characters[at].isalpha()):
            continue
        match rng.randrange(4):
            case 0:
                characters[at], characters[at - 1] = characters[at - 1], characters[at]
            case 1:
                characters[at] = ""
            case 2:
                characters[at] *= 2
            case _:
                characters[at] = rng.choice(_KEYBOARD.get(characters[at].lower(), characters[at]))
    return "".join(characters)
