"""Wait for a router from code that is not async, on the event loop that the router belongs to.

A router belongs to one loop at a time: its micro-batcher and the connections of its handlers do. The first running loop
that uses it is its home. Where none does, as in a plain script, its home is one loop of our own in a daemon thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from pointsman.router import ConfigurationError, Router

__all__ = ["iterate", "loop_of", "settle", "wait"]

T = TypeVar("T")
_END = object()


class _LoopThread:
    """An event loop in a daemon thread: started when first needed, and anew in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self.loop is None or self._thread is None or not self._thread.is_alive():
                self.loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self.loop.run_forever, name="pointsman-loop", daemon=True)
                self._thread.start()
            return self.loop


_ours = _LoopThread()
_homes: WeakKeyDictionary[Router, asyncio.AbstractEventLoop] = WeakKeyDictionary()


def settle(router: Router) -> None:
    """Make the running loop the router's home, unless another one is that still runs; ours gives way."""
    running = _running_loop()
    if running is not None and _home_of_others(router) is None:
        _homes[router] = running


def loop_of(router: Router) -> asyncio.AbstractEventLoop:
    """Return the router's home, to wait for.

    Raises:
        ConfigurationError: it runs in this thread, which would wait for itself.
    """
    home = _home_of_others(router)
    if home is None:
        home = _homes[router] = _ours.start()
    if home is _running_loop():
        raise ConfigurationError(
            "invoke, batch and stream would block the event loop that this router runs on; "
            "await ainvoke or abatch, or iterate over astream"
        )
    return home


def wait(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, which runs on a loop of another thread; a caller that is interrupted cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    finally:
        future.cancel()  # of no effect on one that is done


def iterate(loop: asyncio.AbstractEventLoop, pieces: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Yield the pieces; each step is made on `loop`, and so is the end where the caller stops early."""

    async def step() -> object:
        return await anext(pieces, _END)

    try:
        while (piece := wait(loop, step())) is not _END:
            yield cast("T", piece)
    finally:
        wait(loop, _closed(pieces))


async def _closed(pieces: AsyncGenerator[Any, None]) -> None:
    await pieces.aclose()


def _home_of_others(router: Router) -> asyncio.AbstractEventLoop | None:
    home = _homes.get(router)
    return None if home is None or home is _ours.loop or not home.is_running() else home


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
