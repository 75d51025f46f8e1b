"""Decide where a conversation's latest message goes, and stream the answer of the handler that takes it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

from pointsman.router.conversation import Conversation, ConversationLike
from pointsman.router.decision import Decision, Reason, Scores
from pointsman.router.dispatch import Dispatcher
from pointsman.router.errors import ConfigurationError, GatekeeperError
from pointsman.router.policy import Policy
from pointsman.router.protocols import Classifier, Handler, scores_of
from pointsman.router.track import Limits
from pointsman.router.trip import DispatchEvent
from pointsman.router.window import Window

__all__ = ["Reply", "Router"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer and the decision that led to it."""

    text: str
    decision: Decision


class Router:
    """Labels each message with a `Classifier` and dispatches it to the `Handler` of its route.

    Use it as `async with Router(...) as router`; leaving closes the classifier and the handlers.
    """

    def __init__(
        self,
        *,
        classifier: Classifier,
        handlers: Mapping[str, Handler] | None = None,
        policy: Policy | None = None,
        limits: Mapping[str, Limits] | None = None,
        on_event: Callable[[DispatchEvent], None] | None = None,
    ) -> None:
        """Connect a classifier to handlers, by route name.

        Args:
            classifier: what labels the messages.
            handlers: one for each route that the policy can choose; leave it out if you only call `decide`.
            policy: labels, thresholds and the unsure route; the classifier's own by default.
            limits: time-outs, retries, fallback and so on, by route; `Limits()` for those that are not named.
            on_event: told of every retry, reroute, fallback, time-out and opened breaker.

        Raises:
            ConfigurationError: a route of the policy has no handler, or `limits` names one that has none.
        """
        self._classifier = classifier
        self._policy = policy or classifier.policy
        self._handlers = MappingProxyType(dict(handlers or {}))
        self._on_event = on_event
        if handlers is not None and (missing := sorted(set(self.routes) - self._handlers.keys())):
            raise ConfigurationError(f"no handler for {', '.join(missing)}; got {', '.join(sorted(handlers))}")
        self._dispatcher = Dispatcher(self._handlers, limits=limits)

    @property
    def policy(self) -> Policy:
        """The labels, thresholds and unsure route that it decides by."""
        return self._policy

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What answers, by route; empty where it only decides."""
        return self._handlers

    @property
    def routes(self) -> tuple[str, ...]:
        """Every route that a decision can take."""
        return tuple(dict.fromkeys((*(label.route for label in self._policy.labels), self._policy.unsure_route)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the handlers and the classifier, all of them even where one fails to. Safe to call twice."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._classifier.aclose)
            stack.push_async_callback(self._dispatcher.aclose)

    async def decide(self, messages: ConversationLike) -> Decision:
        """Return where the latest user message goes, without dispatching it.

        A gatekeeper that fails does not cost the user an answer: the message takes the unsure route, the decision says
        `gatekeeper_failed`, and the error is logged.

        Raises:
            InputError: `messages` is no conversation.
        """
        return (await self.decide_all([messages]))[0]

    async def decide_all(self, conversations: Sequence[ConversationLike]) -> list[Decision]:
        """Return one decision a conversation, in order, from one pass of the classifier.

        Raises:
            InputError: one of them is no conversation.
        """
        started = time.perf_counter()
        windows = [Window.of(Conversation.of(conversation)) for conversation in conversations]
        try:
            scores = await scores_of(self._classifier, windows)
        except GatekeeperError:
            logger.exception("the gatekeeper failed on %d messages; they take the unsure route", len(windows))
            return [self._without_scores(time.perf_counter() - started) for _ in windows]
        seconds = time.perf_counter() - started
        return [self._decision(score, seconds) for score in scores]

    async def route(self, messages: ConversationLike) -> Reply:
        """Return the whole answer to the latest user message.

        Raises:
            InputError: `messages` is no conversation.
            HandlerError: the handler could not answer.
        """
        conversation = Conversation.of(messages)
        decision = await self.decide(conversation)
        pieces = [piece async for piece in self.answer(conversation, decision)]
        return Reply(text="".join(pieces), decision=decision)

    async def stream(self, messages: ConversationLike) -> AsyncIterator[Decision | str]:
        """Yield the decision first, then the pieces of the answer as they come.

        Raises:
            InputError: `messages` is no conversation.
            HandlerError: the handler could not answer.
        """
        conversation = Conversation.of(messages)
        decision = await self.decide(conversation)
        yield decision
        async with aclosing(self.answer(conversation, decision)) as pieces:  # stop it at once when our caller stops
            async for piece in pieces:
                yield piece

    def answer(self, conversation: Conversation, decision: Decision) -> AsyncGenerator[str, None]:
        """Return the pieces of the answer to a conversation that was decided already, as they come.

        Raises:
            HandlerError: while they are read; the handler could not answer.
            ConfigurationError: likewise; the route has no handler.
        """
        return self._dispatcher.stream(conversation, decision, on_event=self._on_event)

    def _decision(self, scores: Scores, seconds: float) -> Decision:
        choice = self._policy.choose(scores)
        return Decision(
            id=uuid.uuid4().hex,
            label=scores.label,
            route=choice.route,
            probabilities=scores.probabilities,
            confidence=scores.confidence,
            margin=scores.margin,
            reason=choice.reason,
            bundle=self._classifier.bundle,
            truncated=scores.truncated,
            seconds=seconds,
        )

    def _without_scores(self, seconds: float) -> Decision:
        route = self._policy.unsure_route
        label = next((label.name for label in self._policy.labels if label.route == route), self._policy.labels[0].name)
        return Decision(
            id=uuid.uuid4().hex,
            label=label,
            route=route,
            probabilities={},
            confidence=0.0,
            margin=0.0,
            reason=Reason.GATEKEEPER_FAILED,
            bundle=self._classifier.bundle,
            truncated=False,
            seconds=seconds,
        )
