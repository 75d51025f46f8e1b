"""Answer a conversation with the handler of its route, and keep one bad handler from hurting users or other routes.

Every choice falls before the first piece of the answer: to try again, to hand over, to fall back. After it somebody is
reading, so what goes wrong then is reported and not repaired. Not here: which route a message takes, see `policy`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum

from pointsman.router.breaker import Breaker, BreakerSettings, BreakerState, RetryBudget
from pointsman.router.conversation import Conversation
from pointsman.router.decision import Decision
from pointsman.router.errors import (
    ConfigurationError,
    HandlerError,
    HandlerOverloaded,
    HandlerTimeout,
    HandlerUnavailable,
    InputError,
)
from pointsman.router.protocols import Handler

__all__ = ["DispatchEvent", "Dispatcher", "EventKind", "Limits", "Reroute"]

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
        for name, seconds in (("first_chunk", self.first_chunk), ("total", self.total)):
            if not seconds > 0:  # so that NaN is refused too
                raise ConfigurationError(f"`{name}` must be more than 0 seconds, got {seconds!r}")
        for name, number, least in (("retries", self.retries, 0), ("concurrency", self.concurrency, 1)):
            if not number >= least:
                raise ConfigurationError(f"`{name}` must be at least {least}, got {number!r}")


class Reroute(Exception):
    """Raised by a handler before its first piece: this message is not mine, route `to` should answer it.

    Not a `PointsmanError`, for nothing has failed: it is a signal like `StopIteration`, and an `except HandlerError`
    on its way must not stop it.
    """

    def __init__(self, to: str, reason: str) -> None:
        super().__init__(to, reason)
        self.to = to
        self.reason = reason


class EventKind(StrEnum):
    """What can happen to a message between its decision and the end of its answer."""

    RETRIED = "retried"
    REROUTED = "rerouted"
    """A handler said that the message is not its own: evidence of a misroute."""
    FELL_BACK = "fell_back"
    TIMED_OUT = "timed_out"
    BREAKER_OPENED = "breaker_opened"


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchEvent:
    """One turn that a dispatch took, for a journal or a metric."""

    kind: EventKind
    route: str
    """Where it happened."""
    to: str | None
    """The route that goes on with the message, where it is another one."""
    reason: str
    seconds: float
    """Since the dispatch began."""


class Dispatcher:
    """Streams the answer of the route that a decision names, within that route's `Limits`.

    It is itself a `Handler`, of all routes. It starts no tasks: handlers run in the task that reads the answer. So one
    that swallows cancellation after cancellation cannot be stopped, but it costs no more than a slot of its own route.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        limits: Mapping[str, Limits] | None = None,
        hops: int = 2,
        retry_share: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect handlers, by route name.

        Args:
            handlers: what answers each route; they are closed by `aclose`.
            limits: for the routes that need others than the defaults.
            hops: how often one message may be rerouted.
            retry_share: retries of all routes together, as a share of their first attempts; see `RetryBudget`.
            clock: returns seconds; it measures, but the time-outs themselves are the event loop's.

        Raises:
            ConfigurationError: a number is out of range, or `limits` speaks of a route that has no handler.
        """
        limits = limits or {}
        for route, limit in limits.items():
            for name in (route, limit.fallback):
                if name is not None and name not in handlers:
                    known = ", ".join(sorted(handlers))
                    raise ConfigurationError(f"the limits of {route!r} need a handler for {name!r}; got {known}")
            if limit.fallback == route:
                raise ConfigurationError(f"{route!r} cannot be its own fallback; use `retries` for that")
        if not hops >= 0:
            raise ConfigurationError(f"`hops` must not be negative, got {hops!r}")
        self._hops = hops
        self._budget = RetryBudget(retry_share)
        self._clock = clock
        self._tracks = {
            route: _Track(route, handler, limits.get(route, Limits()), clock) for route, handler in handlers.items()
        }

    async def stream(
        self,
        conversation: Conversation,
        decision: Decision,
        *,
        on_event: Callable[[DispatchEvent], None] | None = None,
    ) -> AsyncGenerator[str, None]:
        """Yield the answer in pieces, none of them empty. Closing the generator closes the handler's at once.

        Whichever handler answers is given the decision as it was taken. A reader that leaves or is cancelled counts
        neither as a success nor as a failure of the handler.

        Args:
            conversation: what to answer.
            decision: names the route that is asked first.
            on_event: told of every retry, reroute, fallback, time-out and opened breaker, at once.

        Raises:
            HandlerTimeout: a piece did not come in time.
            HandlerUnavailable: the route's breaker is open.
            HandlerOverloaded: the route had no free slot in time.
            HandlerError: the handler failed in another way; what it raised is the cause.
            ConfigurationError: there is no handler for the route, or the handler said so of its own settings.
            InputError: the handler cannot answer such a conversation.
        """
        trip = _Trip(conversation, decision, on_event, self._clock, began=self._clock())
        attempt = await self._begin(trip)
        try:
            piece = attempt.first
            while piece:
                yield piece
                piece = await attempt.read()
        finally:
            await attempt.aclose()

    async def aclose(self) -> None:
        """Close every handler, also where one of them fails to. Twice is fine."""
        async with AsyncExitStack() as stack:
            for track in self._tracks.values():
                stack.push_async_callback(track.handler.aclose)

    async def _begin(self, trip: _Trip) -> _Attempt:
        """Return an attempt that has its first piece, on whichever route comes to one."""
        route = trip.decision.route
        if route not in self._tracks:
            raise ConfigurationError(f"no handler for the route {route!r}; got {', '.join(sorted(self._tracks))}")
        while True:
            trip.visited.append(route)
            try:
                return await self._try(self._tracks[route], trip)
            except Reroute as signal:
                route = self._follow(signal, trip)
            except HandlerError as error:
                route = self._fall_back(error, trip)

    async def _try(self, track: _Track, trip: _Trip) -> _Attempt:
        """Return an attempt that has its first piece, from this route."""
        self._budget.deposit()
        left = track.limits.retries
        while True:
            try:
                return await track.begin(trip)
            except (HandlerOverloaded, HandlerUnavailable):  # a retry is what would make it worse
                raise
            except HandlerError as error:
                if not left or track.breaker.retry_after or not self._budget.withdraw():
                    raise
                left -= 1
                level = logging.WARNING if error.__cause__ else logging.INFO  # a handler's own words need no traceback
                logger.log(level, "%r is tried again: %s", track.route, error, exc_info=error.__cause__)
                trip.tell(EventKind.RETRIED, track.route, str(error))

    def _follow(self, signal: Reroute, trip: _Trip) -> str:
        """Return where a reroute leads; one that leads nowhere is a failure of the route that asked for it."""
        route = trip.visited[-1]
        if signal.to not in self._tracks:
            objection = f"which has no handler; the routes are {', '.join(sorted(self._tracks))}"
        elif signal.to in trip.visited:
            objection = f"which was asked before: {' -> '.join(trip.visited)}"
        elif trip.hops == self._hops:
            objection = f"but `hops` allows only {self._hops}: {' -> '.join(trip.visited)}"
        else:
            trip.hops += 1
            trip.tell(EventKind.REROUTED, route, signal.reason, to=signal.to)
            return signal.to
        return self._fall_back(HandlerError(f"{route!r} rerouted the message to {signal.to!r}, {objection}"), trip)

    def _fall_back(self, error: HandlerError, trip: _Trip) -> str:
        """Return the route that answers instead of the last one; raise `error` where there is none left."""
        route = trip.visited[-1]
        fallback = self._tracks[route].limits.fallback
        if fallback is None or fallback in trip.visited:
            raise error
        logger.warning("%r answers instead of %r: %s", fallback, route, error, exc_info=error.__cause__)
        trip.tell(EventKind.FELL_BACK, route, str(error), to=fallback)
        return fallback


@dataclass(slots=True)
class _Trip:
    """One message on its way from route to route."""

    conversation: Conversation
    decision: Decision
    on_event: Callable[[DispatchEvent], None] | None
    clock: Callable[[], float]
    began: float
    visited: list[str] = field(default_factory=list)
    hops: int = 0

    def tell(self, kind: EventKind, route: str, reason: str, *, to: str | None = None) -> None:
        if self.on_event is None:
            return
        event = DispatchEvent(kind=kind, route=route, to=to, reason=reason, seconds=self.clock() - self.began)
        try:
            self.on_event(event)
        except Exception:  # the observer's error goes to the log: it must not cost the user an answer
            logger.exception("`on_event` failed on %s", event)


class _Track:
    """One route: its handler, and what the messages on it share."""

    def __init__(self, route: str, handler: Handler, limits: Limits, clock: Callable[[], float]) -> None:
        self.route = route
        self.handler = handler
        self.limits = limits
        self.clock = clock
        self.breaker = Breaker(limits.breaker, clock=clock)
        self.slots = asyncio.Semaphore(limits.concurrency)

    async def begin(self, trip: _Trip) -> _Attempt:
        """Return an attempt that has its first piece, or came to its end without one."""
        since = self.clock()
        await self._take_slot()
        attempt = _Attempt(self, trip, waited=self.clock() - since)
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


class _Attempt:
    """One answer of one handler: holds a slot of its route until it is closed, and tells the breaker how it went."""

    def __init__(self, track: _Track, trip: _Trip, *, waited: float) -> None:
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
