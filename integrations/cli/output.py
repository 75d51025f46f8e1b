"""stdout is data, stderr is for people. What users wrote is never taken for markup."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["err_console", "one_line", "out_console", "print_json", "print_table"]


def out_console() -> Console:
    """Return a console on stdout; without a terminal it is as wide as it needs."""
    return _console(stderr=False)


def err_console() -> Console:
    """Return a console on stderr."""
    return _console(stderr=True)


def print_json(value: object) -> None:
    """Write one JSON value on one line of stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Write a table to stdout; columns whose title starts with `#` hold numbers."""
    from rich import box
    from rich.table import Table

    table: Table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        number = column.startswith("#")
        table.add_column(column.removeprefix("#"), justify="right" if number else "left", no_wrap=number)
    for row in rows:
        table.add_row(*row)
    out_console().print(table)


def one_line(text: str, longest: int | None = None) -> str:
    """Return the text on one line, cut to `longest` characters."""
    line = " ".join(text.split())
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 160
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)
