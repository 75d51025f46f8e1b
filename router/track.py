"""One route: its handler, kept within its limits, one attempt at an answer at a time in each of its slots.

Not here: what happens when an attempt fails, see `dispatch`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from pointsman.router.breaker import Breaker, BreakerSettings, BreakerState
from pointsman.router.checks import check_at_least, check_seconds
from pointsman.router.errors import (
    ConfigurationError,
    HandlerError,
    HandlerOverloaded,
    HandlerTimeout,
    HandlerUnavailable,
    InputError,
)
from pointsman.router.protocols import Handler
from pointsman.router.trip import EventKind, Reroute, Trip

__all__ = ["Attempt", "Limits", "Track"]

logger = logging.getLogger(__name__)

_CLEANUP = 5.0
"""Seconds that a handler has to come to an end once it is told to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the handler of one route may take, and what happens when it cannot answer.

    Only the time spent waiting for the handler counts: a slow reader uses up nothing.
    """

    first_chunk: float = 30.0
    """Seconds until an attempt's first piece, waiting for a free slot included."""
    total: float = 300.0
    """Seconds until its last piece, without the wait for a slot."""
    retries: int = 1
    """Further attempts after a failure before the first piece."""
    concurrency: int = 64
    """Answers at a time, the slots of the route; further ones wait."""
    fallback: str | None = None
    """The route that answers when this one cannot, unless it was tried already."""
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    """When the handler is spared for a while."""

    def __post_init__(self) -> None:
        check_seconds(self, "first_chunk", "total")
        check_at_least(self, 0, "retries")
        check_at_least(self, 1, "concurrency")


class Track:
    """One route: its handler, and what the messages on it share."""

    def __init__(self, route: str, handler: Handler, limits: Limits, clock: Callable[[], float]) -> None:
        self.route = route
        self.handler = handler
        self.limits = limits
        self.clock = clock
        self.breaker = Breaker(limits.breaker, clock=clock)
        self.slots = asyncio.Semaphore(limits.concurrency)

    async def begin(self, trip: Trip) -> Attempt:
        """Return an attempt that has its first piece, or came to its end without one."""
        since = self.clock()
        await self._take_slot()
        attempt = Attempt(self, trip, waited=self.clock() - since)
        try:
            attempt.first = await attempt.read()
        except BaseException:
            await attempt.aclose()
            raise
        return attempt

    async def _take_slot(self) -> None:
        if self.breaker.retry_after:
            raise self._unavailable()
        try:
            async with asyncio.timeout(self.limits.first_chunk):
                await self.slots.acquire()
        except TimeoutError:
            raise HandlerOverloaded(
                f"{self.route!r} had no free slot for {self.limits.first_chunk:g} s; "
                f"all {self.limits.concurrency} are answering, see `concurrency`"
            ) from None
        if not self.breaker.allow():  # it opened while we waited
            self.slots.release()
            raise self._unavailable()

    def _unavailable(self) -> HandlerUnavailable:
        seconds = self.breaker.retry_after
        return HandlerUnavailable(
            f"{self.route!r} failed too often in a row; it is asked again in {seconds:.1f} s", retry_after=seconds
        )


class Attempt:
    """One answer of one handler: holds a slot of its route until it is closed, and tells the breaker how it went."""

    def __init__(self, track: Track, trip: Trip, *, waited: float) -> None:
        self.first = ""
        """The first piece, once it has come; empty where the whole answer is."""
        self._track = track
        self._trip = trip
        self._epoch = track.breaker.epoch
        self._pieces: AsyncIterator[str] | None = None
        self._begun = False
        self._waited = waited
        self._spent = 0.0

    async def read(self) -> str:
        """Return the next piece that is not empty; at the end, an empty one."""
        breaker = self._track.breaker
        try:
            piece = await self._next()
        except HandlerOverloaded:  # busy is not broken
            raise
        except HandlerError as error:
            if isinstance(error, HandlerTimeout):
                self._trip.tell(EventKind.TIMED_OUT, self._track.route, str(error))
            if breaker.failed(self._epoch):
                self._trip.tell(EventKind.BREAKER_OPENED, self._track.route, str(error))
            raise
        except Reroute:  # it is well enough to say who should answer
            breaker.succeeded(self._epoch)
            raise
        # A probe is judged by its first piece, for its reader may take for ever over the others.
        if not piece or breaker.state is BreakerState.HALF_OPEN:
            breaker.succeeded(self._epoch)
        self._begun = True
        return piece

    async def aclose(self) -> None:
        """Stop the handler, in `_CLEANUP` seconds at most, and free the slot."""
        try:
            if aclose := getattr(self._pieces, "aclose", None):
                async with asyncio.timeout(_CLEANUP):
                    await aclose()
        except Exception:  # the reader has all it asked for; the log gets the rest
            logger.warning("the handler of %r did not stop cleanly", self._track.route, exc_info=True)
        finally:
            self._track.breaker.cancelled(self._epoch)  # nothing, where it was told already
            self._track.slots.release()

    async def _next(self) -> str:
        """`read` without the breaker. What the handler raises becomes one of our errors, or is a timely `Reroute`."""
        task, left = asyncio.current_task(), self._left()
        assert task is not None  # nor could `asyncio.timeout` do without
        if left <= 0:
            raise self._late()
        cancels, since = task.cancelling(), self._track.clock()
        piece = ""
        problem: Exception | None = None
        timer = asyncio.timeout(left)
        try:
            async with asyncio.timeout(left + _CLEANUP), timer:  # the first is for one that hangs when it is stopped
                piece = await self._text()
        except Exception as error:  # noqa: BLE001 -- raised below, once it is known whose it is
            problem = error
        self._spent += self._track.clock() - since
        # The handler may have swallowed a cancellation, or raised something else in its place.
        if task.cancelling() > cancels:
            raise asyncio.CancelledError from problem
        if timer.expired():
            raise self._late() from problem
        if isinstance(problem, Reroute) and self._begun:
            raise HandlerError(f"{self._track.route!r} rerouted the message after its answer had begun") from problem
        if isinstance(problem, Reroute | HandlerError | ConfigurationError | InputError):
            raise problem
        if problem is not None:
            raise HandlerError(f"the handler of {self._track.route!r} failed: {problem!r}") from problem
        return piece

    async def _text(self) -> str:
        if self._pieces is None:
            self._pieces = aiter(self._track.handler.stream(self._trip.conversation, self._trip.decision))
        async for piece in self._pieces:
            if piece:
                return piece
            await asyncio.sleep(0)  # a handler of nothing but empty pieces must not keep the loop to itself
        return ""

    def _left(self) -> float:
        """Seconds that the handler has for its next piece."""
        limits = self._track.limits
        return limits.total - self._spent if self._begun else min(limits.total, limits.first_chunk - self._waited)

    def _late(self) -> HandlerError:
        route, limits = self._track.route, self._track.limits
        if self._begun:
            return HandlerTimeout(f"{route!r} did not finish its answer in {limits.total:g} s")
        if self._waited > self._spent:  # the handler had the smaller part of the time, so it is not to blame
            return HandlerOverloaded(f"{route!r} had no free slot for {self._waited:.1f} s, too long to answer in time")
        return HandlerTimeout(f"{route!r} did not begin its answer in {min(limits.first_chunk, limits.total):g} s")
