"""Server-sent events from a byte stream (WHATWG HTML, section 9.2), as far as `data` goes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import StreamReader

from pointsman.router import HandlerError

__all__ = ["LARGEST_EVENT", "read_events"]

LARGEST_EVENT = 8 << 20
"""Bytes; an endpoint that sends more without ending an event is no chat API."""
_KEPT = 1024


async def read_events(content: StreamReader, opening: bytearray) -> AsyncIterator[str]:
    """Yield the data of each event; `opening` is filled with the first bytes, for an error message.

    Lines end in LF, CRLF or CR; the `data` lines of one event are joined by LF; other fields and comments are left out.

    Raises:
        HandlerError: an event is larger than `LARGEST_EVENT`.
    """
    rest = b""
    data: list[str] = []
    async for chunk in content.iter_any():
        opening.extend(chunk[: _KEPT - len(opening)])
        rest += chunk
        if len(rest) + sum(map(len, data)) > LARGEST_EVENT:
            raise HandlerError(f"the LLM endpoint sent an event of more than {LARGEST_EVENT} bytes; it is no chat API")
        *lines, rest = _split_lines(rest)
        for line in lines:
            if line:
                _take(line, data)
            elif data:
                yield "\n".join(data)
                data = []
    if rest:
        _take(rest, data)
    if data:
        yield "\n".join(data)


def _split_lines(content: bytes) -> list[bytes]:
    """Return the lines of `content` without their ends; the last item is what has no end yet."""
    held = content.endswith(b"\r")  # perhaps the first half of a CRLF
    lines = (content[:-1] if held else content).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if held:
        lines[-1] += b"\r"
    return lines


def _take(line: bytes, data: list[str]) -> None:
    field, _, value = line.decode("utf-8", errors="replace").partition(":")
    if field == "data":
        data.append(value.removeprefix(" ").rstrip("\r"))
