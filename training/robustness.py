"""The same message as other hands, keyboards and clipboards deliver it; the label must not change."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pointsman.adapters import Engine
from pointsman.router import Window, normalise
from pointsman.training.cedict import to_traditional
from pointsman.training.examples import Example

__all__ = ["DISTURBANCES", "Disturbance", "labels_kept"]

_HOMOGLYPHS = str.maketrans("aceopxyiABCEHKMOPTX", "асеорхуіАВСЕНКМОРТХ")
_JOB_LOG = (
    "2026-03-0{n} 04:1{n}:22,513 INFO  [load-orders] attempt {n} of 3, partition dt=2026-03-0{n}\n"
    "2026-03-0{n} 04:1{n}:57,020 ERROR [load-orders] table dwd_orders: 0 rows written, 1{n}204 expected\n"
)
_WEB_LOG = (
    "2026-03-0{n} 04:1{n}:22,513 WARN  [http-{n}-thread-1] c.e.web.PageRenderer - slow template, 231 ms\n"
    "2026-03-0{n} 04:1{n}:23,001 INFO  [http-{n}-thread-2] c.e.web.Access - GET /favicon.ico 200\n"
)


def _typo(text: str, rng: random.Random) -> str:
    letters = [at for at in range(1, len(text) - 1) if text[at].isascii() and text[at].isalpha()]
    if len(text) < 20 or not letters:  # noqa: PLR2004 -- one slip in a short word makes another word
        return text
    at = rng.choice(letters)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _greeting(text: str, rng: random.Random) -> str:
    chinese = any("\u4e00" <= character <= "\u9fff" for character in text)
    return rng.choice(("您好，麻烦问一下，", "早！") if chinese else ("Hello there! ", "morning team, ")) + text


def _zero_width(text: str, rng: random.Random) -> str:
    return "".join(c + ("\u200b" if rng.random() < 0.3 else "") for c in text)  # noqa: PLR2004


def _homoglyphs(text: str, rng: random.Random) -> str:
    return "".join(c.translate(_HOMOGLYPHS) if rng.random() < 0.3 else c for c in text)  # noqa: PLR2004


def _full_width(text: str, rng: random.Random) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _with_log(line: str) -> Callable[[str, random.Random], str]:
    return lambda text, rng: f"{text}\n{''.join(line.format(n=rng.randrange(1, 9)) for _ in range(3))}"


def _ten_thousand_tokens(text: str, rng: random.Random) -> str:
    return f"{text} {' '.join([text] * (10_000 // max(1, len(text.split()) + len(text) // 3)))} {text}"


def _traditional(text: str, rng: random.Random) -> str:
    return to_traditional(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """One way to disturb a message, and the messages whose label it surely keeps."""

    name: str
    apply: Callable[[str, random.Random], str]
    suits: Callable[[Example], bool] = lambda example: True


DISTURBANCES = (
    Disturbance(name="lower case", apply=lambda text, rng: text.lower()),
    Disturbance(name="upper case", apply=lambda text, rng: text.upper()),
    Disturbance(name="typo", apply=_typo),
    Disturbance(name="no final punctuation", apply=lambda text, rng: text.rstrip("?？.。!！")),
    Disturbance(name="full width", apply=_full_width),
    Disturbance(name="zero width", apply=_zero_width),
    Disturbance(name="homoglyphs", apply=_homoglyphs),
    Disturbance(name="emoji", apply=lambda text, rng: f"{text} {rng.choice('🙏😅🔥👀')}"),
    Disturbance(name="traditional characters", apply=_traditional, suits=lambda example: example.language == "zh"),
    Disturbance(name="glued greeting", apply=_greeting),
    Disturbance(
        name="pasted job log", apply=_with_log(_JOB_LOG), suits=lambda example: example.label == "data_platform"
    ),
    Disturbance(name="pasted web log", apply=_with_log(_WEB_LOG), suits=lambda example: example.label == "irrelevant"),
    Disturbance(name="10,000 tokens", apply=_ten_thousand_tokens),
)


def labels_kept(engine: Engine, examples: Sequence[Example], *, seed: int = 0) -> dict[str, tuple[float, int]]:
    """Return for each disturbance the share of messages whose predicted label stays, and how many were tried."""
    rng = random.Random(seed)  # noqa: S311 -- noise, not secrets
    before = [scores.label for scores in engine.run([example.window for example in examples])]
    kept: dict[str, tuple[float, int]] = {}
    for disturbance in DISTURBANCES:
        rows = [row for row, example in enumerate(examples) if disturbance.suits(example)]
        windows = [_disturbed(examples[row].window, disturbance, rng) for row in rows]
        same = [scores.label == before[row] for row, scores in zip(rows, engine.run(windows), strict=True)]
        kept[disturbance.name] = (sum(same) / len(same) if same else 1.0, len(same))
    return kept


def _disturbed(window: Window, disturbance: Disturbance, rng: random.Random) -> Window:
    return replace(window, message=normalise(disturbance.apply(window.message, rng)))
