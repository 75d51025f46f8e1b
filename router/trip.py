"""One message on its way from its decision to its answer: where it was, what happened there, and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from pointsman.router.conversation import Conversation
from pointsman.router.decision import Decision

__all__ = ["DispatchEvent", "EventKind", "Reroute", "Trip"]

logger = logging.getLogger(__name__)


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


@dataclass(slots=True)
class Trip:
    """One message on its way from route to route."""

    conversation: Conversation
    decision: Decision
    on_event: Callable[[DispatchEvent], None] | None
    clock: Callable[[], float]
    began: float
    visited: list[str] = field(default_factory=list)
    hops: int = 0

    def tell(self, kind: EventKind, route: str, reason: str, *, to: str | None = None) -> None:
        """Tell the observer, if there is one."""
        if self.on_event is None:
            return
        event = DispatchEvent(kind=kind, route=route, to=to, reason=reason, seconds=self.clock() - self.began)
        try:
            self.on_event(event)
        except Exception:  # the observer's error goes to the log: it must not cost the user an answer
            logger.exception("`on_event` failed on %s", event)
