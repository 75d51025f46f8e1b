"""Answer a conversation with the handler of its route, and keep one bad handler from hurting users or other routes.

Every choice falls before the first piece of the answer: to try again, to hand over, to fall back. After it somebody is
reading, so what goes wrong then is reported and not repaired. Not here: which route a message takes, see `policy`; how
one handler is kept within its limits, see `track`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack

from pointsman.router.breaker import RetryBudget
from pointsman.router.conversation import Conversation
from pointsman.router.decision import Decision
from pointsman.router.errors import ConfigurationError, HandlerError, HandlerOverloaded, HandlerUnavailable
from pointsman.router.protocols import Handler
from pointsman.router.track import Attempt, Limits, Track
from pointsman.router.trip import DispatchEvent, EventKind, Reroute, Trip

__all__ = ["Dispatcher"]

logger = logging.getLogger(__name__)


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
            route: Track(route, handler, limits.get(route, Limits()), clock) for route, handler in handlers.items()
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
        trip = Trip(conversation, decision, on_event, self._clock, began=self._clock())
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

    async def _begin(self, trip: Trip) -> Attempt:
        """Return an attempt that has its first piece, on whichever route comes to one."""
        route = trip.decision.route
        if route not in self._tracks:
            known = ", ".join(sorted(self._tracks)) or "none; pass `handlers` to Router to have messages answered"
            raise ConfigurationError(f"no handler for the route {route!r}; got {known}")
        while True:
            trip.visited.append(route)
            try:
                return await self._try(self._tracks[route], trip)
            except Reroute as signal:
                route = self._follow(signal, trip)
            except HandlerError as error:
                route = self._fall_back(error, trip)

    async def _try(self, track: Track, trip: Trip) -> Attempt:
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

    def _follow(self, signal: Reroute, trip: Trip) -> str:
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

    def _fall_back(self, error: HandlerError, trip: Trip) -> str:
        """Return the route that answers instead of the last one; raise `error` where there is none left."""
        route = trip.visited[-1]
        fallback = self._tracks[route].limits.fallback
        if fallback is None or fallback in trip.visited:
            raise error
        logger.warning("%r answers instead of %r: %s", fallback, route, error, exc_info=error.__cause__)
        trip.tell(EventKind.FELL_BACK, route, str(error), to=fallback)
        return fallback
