"""Bare `pointsman` on a terminal: the menu of the program this one grew from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

__all__ = ["menu"]

_MENU = """
  1  训练 train         train a model on labelled messages
  2  测试 test          try a trained model on a labelled file
  3  交互 interactive   classify question after question
  q  退出 quit          all commands: pointsman --help
"""


def menu(run: Callable[[Sequence[str]], int]) -> None:
    """Ask what to do and do it, until the user quits; `run` runs a command line."""
    while True:
        sys.stdout.write(_MENU)
        match _ask("选择 choose> "):
            case "1" | "train" | "训练":
                data = _ask("数据文件 labelled file (Enter: as shipped 默认)> ")
                run(["train", *(["--data", data] if data else [])])
            case "2" | "test" | "测试":
                if file := _ask("测试文件 labelled file> "):
                    run(["test", "--", file])
            case "3" | "interactive" | "交互":
                run(["interactive"])
            case "q" | "quit" | "4" | "退出" | None:
                return
            case _:
                sys.stdout.write("1, 2, 3, q?\n")


def _ask(prompt: str) -> str | None:
    """Return what was typed; None at the end of the input."""
    try:
        return input(prompt).strip()
    except EOFError:
        sys.stdout.write("\n")
        return None
