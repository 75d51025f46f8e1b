"""Noise as people make it: typos, case, a full stop more or less, a greeting in front, an emoji or a log behind."""

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
        "hey team, ",
        "Good evening! ",
        "excuse me, ",
        "Dear all, ",
        "hiya - ",
        "hope you are well. ",
    ),
    "zh": (
        "你好，",
        "您好，",
        "在吗？",
        "请问",
        "麻烦问下，",
        "嗨，",
        "早上好，",
        "不好意思打扰一下，",
        "哈喽，",
        "各位好，",
        "老师好！",
        "晚上好。",
        "请教个问题：",
        "在么在么，",
    ),
}
_ENDINGS = {
    "en": (" thanks", " thx!", " please", " 🙏", " 😅", "??", "!!", " asap", "..."),
    "zh": ("谢谢", "，谢谢！", "～", "😂", "🙏", "？？", "！", "，急", "……"),
}
_PASTED = (
    "Traceback (most recent call last):\n  File \"run.py\", line 88, in main\nKeyError: 'id'",
    "Exception in thread main java.lang.IllegalStateException: Stopped\n\tat app.Main.run(Main.java:41)",
    "[2025-11-07T02:14:09Z] worker-3 heartbeat lost\n[2025-11-07T02:14:39Z] worker-3 removed",
    "E0311 08:15:42.901 7 main.go:112] connection refused, retry in 5s",
    'level=error msg="write failed" err="no space left on device" attempt=4',
    '{"ts":"2025-06-01T10:00:03","level":"WARN","msg":"timeout after 30s","attempt":2}',
    "WARNING: 1 test failed, 214 passed\nFAILED tests/test_page.py::test_title",
    "npm ERR! code ELIFECYCLE\nnpm ERR! errno 1",
    "Nov 07 02:14:09 host-12 kernel: Out of memory: Killed process 4411",
    '10.2.0.7 - - [07/Nov/2025:02:14:09 +0800] "POST /api/v2/items HTTP/1.1" 502 157',
    "Task 7 of 20 failed 4 times, most recent failure: Lost task 7.3",
    "14:02:11.480 [main] INFO  Started in 3.2 seconds\n14:02:12.006 [main] ERROR cannot open file",
    "2025-11-07 02:14:09.113  INFO 8 --- [pool-2] Startup: ready\n2025-11-07 02:14:10.002  WARN 8 --- slow call",
    "GET https://shop.example/cart 404 (Not Found)\n    at loadCart (main.js:1:2201)",
    "java.lang.NullPointerException: name\n\tat com.acme.View.draw(View.java:77)\n\t... 12 more",
    "25/11/07 02:14:09 WARN TaskSetManager: Lost task 3.0 in stage 9.0 (TID 118, node-4)",
    "psql: error: connection to server failed: timeout expired",
    "Step 4/9 : RUN make\n ---> Running in 5f1c\nmake: *** [all] Error 2",
    "报错信息：\n错误代码 500，请联系管理员\n操作时间 2025-11-07 02:14",
    "2025/11/07 02:14:09 [失败] 重试 3 次后放弃，耗时 91 秒",
)
_FILLED = 500
"""Characters; about what a text that was pasted again and again fills of the model's window."""
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

    def end_mark(plain: str) -> str:
        bare = plain.rstrip("?？.。!！ ")
        return bare if bare != plain else plain + ("。" if language == "zh" else ".")

    def greeting(plain: str) -> str:
        return rng.choice(_GREETINGS[language]) + plain

    def pasted(plain: str) -> str:
        return "\n".join((plain, *rng.sample(_PASTED, rng.randint(1, 4))))

    def repeated(plain: str) -> str:
        most = max(2, _FILLED // (len(plain) + 1))
        return " ".join([plain] * rng.choice((most, rng.randint(2, most))))

    noises: list[Callable[[str], str]] = [
        str.lower,
        str.upper if len(text) < 80 else str.lower,  # noqa: PLR2004
        end_mark,
        end_mark,
        greeting,
        greeting,
        greeting,
        lambda t: t + rng.choice(_ENDINGS[language]),
        typos,
        typos,
        lambda t: t.replace(" ", "  ").replace("，", ","),
        pasted,
        pasted,
        repeated,
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
