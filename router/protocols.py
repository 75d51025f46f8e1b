"""The two seams of the router: what labels messages, and what answers them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from pointsman.router.conversation import Conversation
from pointsman.router.decision import Decision, Scores
from pointsman.router.errors import GatekeeperError
from pointsman.router.policy import Policy
from pointsman.router.window import Window

__all__ = ["Classifier", "Handler", "scores_of"]


@runtime_checkable
class Classifier(Protocol):
    """A gatekeeper. `adapters.Gatekeeper` is the real one, `router.testing.ScriptedClassifier` the fake."""

    @property
    def bundle(self) -> str:
        """The id of the bundle that answers, recorded in every decision."""

    @property
    def policy(self) -> Policy:
        """The labels, routes and thresholds that belong to this gatekeeper."""

    async def classify(self, windows: Sequence[Window]) -> Sequence[Scores]:
        """Return one `Scores` a window, in order. Must not block the event loop.

        Raises:
            GatekeeperError: the windows could not be labelled.
        """

    async def aclose(self) -> None:
        """Release the model; twice is fine."""


@runtime_checkable
class Handler(Protocol):
    """Answers a conversation that was routed to it."""

    def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        """Yield the reply in pieces, as they come.

        Raises:
            HandlerError: no answer can be given.
        """

    async def aclose(self) -> None:
        """Release what the handler holds; twice is fine."""


async def scores_of(classifier: Classifier, windows: Sequence[Window]) -> Sequence[Scores]:
    """Return what the classifier says of the windows, one `Scores` each.

    Raises:
        GatekeeperError: the windows could not be labelled, or not each of them was.
    """
    scores = await classifier.classify(windows)
    if len(scores) != len(windows):
        raise GatekeeperError(f"expected {len(windows)} scores, got {len(scores)}")
    return scores
