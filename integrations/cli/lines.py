"""Read messages line by line, as they come: a slow pipe is answered at once, a file in full batches."""

from __future__ import annotations

import io
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pointsman.router import Conversation, DataError, InputError

__all__ = ["STDIN", "Row", "batches"]

STDIN = "-"

_BATCH = 64
_AHEAD = 4 * _BATCH
"""Rows that are read before they are asked for; memory stays constant however long the input is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One conversation to be classified, and what else stood on its line."""

    conversation: Conversation
    others: Mapping[str, object] = field(default_factory=dict)


def batches(source: str) -> Iterator[Sequence[Row]]:
    """Yield the rows of a file, or of stdin for `-`, in order: whatever is there, at most 64 at a time.

    Raises:
        DataError: the file cannot be read, is empty or not UTF-8 text, or a line is bad; the rows before it were
            yielded by then.
    """
    rows: queue.Queue[Row | BaseException | None] = queue.Queue(_AHEAD)
    # a daemon: blocked on a terminal or a pipe, it must not keep an interrupted process alive
    threading.Thread(target=_fill, args=(source, rows), name="reader", daemon=True).start()
    while True:
        batch: list[Row] = []
        item = rows.get()
        while isinstance(item, Row):
            batch.append(item)
            if len(batch) == _BATCH:
                break
            try:
                item = rows.get_nowait()
            except queue.Empty:
                break
        if batch:
            yield batch
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return


def _fill(source: str, rows: queue.Queue[Row | BaseException | None]) -> None:
    try:
        if source == STDIN:
            _read("stdin", _stdin(), rows)
        else:
            with Path(source).open("rb") as file:
                _read(source, file, rows)
    except OSError as error:
        rows.put(DataError(f"cannot read {source}: {error.strerror or error}; check the path"))
    except BaseException as error:  # noqa: BLE001 -- the consumer raises it
        rows.put(error)
    else:
        rows.put(None)


def _stdin() -> BinaryIO:
    """Return a reader of its own on stdin: at exit the interpreter waits for the lock of `sys.stdin`."""
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    except io.UnsupportedOperation:  # replaced by an object without a descriptor
        return sys.stdin.buffer


def _read(name: str, lines: BinaryIO, rows: queue.Queue[Row | BaseException | None]) -> None:
    found = False
    for number, line in enumerate(lines, 1):
        content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if content.strip():
            found = True
            rows.put(_row(content, f"{name}:{number}"))
    if not found:
        raise DataError(f'{name} is empty; expected lines of {{"text": ...}} or {{"messages": [...]}}')


def _row(line: bytes, place: str) -> Row:
    from pointsman.training.examples import conversation_of

    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: not UTF-8 text (byte {error.start} of the line); convert it, or pass another file"
        ) from error
    except (ValueError, RecursionError) as error:
        start = line[:60].decode("utf-8", errors="replace").rstrip()
        raise DataError(f"{place}: not JSON: {error}; the line starts {start!r}") from error
    if not isinstance(values, dict):
        raise DataError(f"{place}: expected a JSON object, found {type(values).__name__}")
    try:
        conversation = conversation_of(values)
    except InputError as error:
        raise DataError(f"{place}: {error}") from error
    others = {key: value for key, value in values.items() if key not in {"text", "messages"}}
    try:
        json.dumps(others, allow_nan=False)
    except ValueError as error:
        raise DataError(f"{place}: a number is not finite, JSON has no such; write null") from error
    return Row(conversation=conversation, others=others)
