"""Gather what many callers ask at once into few passes of the model.

Not a timer: an idle classifier gets the first message at once, and company comes by itself while it works. A batch is
bounded by characters, which is what this package knows of a message's cost; tokens are the engine's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from pointsman.router.checks import check_at_least, check_seconds
from pointsman.router.decision import Scores
from pointsman.router.errors import ConfigurationError, GatekeeperClosed, GatekeeperError, GatekeeperOverloaded
from pointsman.router.policy import Policy
from pointsman.router.protocols import Classifier, scores_of
from pointsman.router.window import Window

__all__ = ["BatchLimits", "MicroBatcher"]

_LOOK_AHEAD = 4
"""Batches' worth of waiting windows among which those of like length are found."""
_STOPPED = "the gatekeeper stopped before this message was labelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How large a batch grows, and how many windows may wait for one, for how long."""

    windows: int = 64
    """Most windows of a batch."""
    characters: int = 16_384
    """Most characters of a batch, message and context together; a longer window goes alone."""
    waiting: int = 1_024
    """Most windows that wait. A call that finds none waiting is always taken, however many it brings."""
    patience: float = 10.0
    """Seconds that a call waits for the first of its windows to be taken into a batch."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "windows", "characters", "waiting")
        check_seconds(self, "patience")


@dataclass(slots=True, eq=False)
class _Place:
    """One window's place in the queue."""

    window: Window
    answer: asyncio.Future[Scores]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(map(len, (self.window.message, self.window.previous_user, self.window.previous_reply)))


class MicroBatcher:
    """A `Classifier` that puts its callers' windows into common batches for another one, which it owns.

    The classifier never works on two batches at once. A caller that is cancelled takes its waiting windows with it; a
    batch that fails reaches those who are in it, and the next one starts clean.
    """

    def __init__(self, classifier: Classifier, limits: BatchLimits | None = None) -> None:
        self._classifier = classifier
        self._limits = limits or BatchLimits()
        self._waiting: dict[_Place, None] = {}  # in order of arrival, and quick to leave
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def bundle(self) -> str:
        """The id of the bundle behind it."""
        return self._classifier.bundle

    @property
    def policy(self) -> Policy:
        """The policy of the bundle behind it."""
        return self._classifier.policy

    async def classify(self, windows: Sequence[Window]) -> list[Scores]:
        """Return one `Scores` a window, in order.

        Raises:
            GatekeeperClosed: after `aclose`.
            GatekeeperOverloaded: too many windows wait already, or the batch did not start in time.
            GatekeeperError: the classifier failed on a batch; its error is the cause.
        """
        if self._closed:
            raise GatekeeperClosed("the gatekeeper is closed; open it again")
        if not windows:
            return []
        loop = asyncio.get_running_loop()
        if self._busy and self._busy.get_loop() is not loop:
            raise ConfigurationError("the gatekeeper works for another event loop; use one loop, or a router for each")
        if self._waiting and len(self._waiting) + len(windows) > self._limits.waiting:
            raise GatekeeperOverloaded(
                f"{len(self._waiting)} messages wait for the gatekeeper already, {self._limits.waiting} may; try later"
            )
        places = [_Place(window, loop.create_future()) for window in windows]
        self._waiting |= dict.fromkeys(places)
        expiry = loop.call_later(self._limits.patience, self._expire, places)
        if not self._busy:
            self._worker = loop.create_task(self._work(), name="micro-batcher")
            self._worker.add_done_callback(self._stopped)
        try:
            return list(await asyncio.gather(*(place.answer for place in places)))
        finally:
            expiry.cancel()
            for place in places:
                self._waiting.pop(place, None)
                place.answer.cancel()

    async def aclose(self) -> None:
        """Take no more windows, answer those that wait, and close the classifier. Safe to call twice."""
        self._closed = True
        if self._busy:
            await asyncio.wait([self._busy])
        await self._classifier.aclose()

    @property
    def _busy(self) -> asyncio.Task[None] | None:
        return None if self._worker is None or self._worker.done() else self._worker

    async def _work(self) -> None:
        while self._waiting:
            if batch := self._take():
                await self._answer(batch)

    def _take(self) -> list[_Place]:
        """Take the window that waits longest and, of those behind it, the ones nearest to it in length.

        Windows of like length pad each other least; taking the oldest each time lets none of them starve.
        """
        limits = self._limits
        near = list(islice(self._waiting, _LOOK_AHEAD * limits.windows))
        wanted = [place for place in near if not place.answer.done()]  # the other callers have just left
        batch = wanted[:1]
        if batch:
            oldest = batch[0].size
            room = limits.characters - oldest
            for place in sorted(wanted[1:], key=lambda place: abs(place.size - oldest)):
                if len(batch) == limits.windows or place.size > room:
                    break
                batch.append(place)
                room -= place.size
        for place in (*batch, *(place for place in near if place.answer.done())):
            del self._waiting[place]
        return batch

    async def _answer(self, batch: Sequence[_Place]) -> None:
        try:
            scores = await scores_of(self._classifier, [place.window for place in batch])
        except GatekeeperError as error:
            _fail(batch, str(error), kind=type(error), cause=error)
        except Exception as error:  # noqa: BLE001 -- every caller in the batch gets it
            _fail(batch, f"the gatekeeper failed on a batch of {len(batch)}: {error}", cause=error)
        else:
            for place, score in zip(batch, scores, strict=True):
                if not place.answer.done():  # its caller may have left
                    place.answer.set_result(score)
        finally:  # where the worker itself was cancelled
            _fail(batch, _STOPPED, kind=GatekeeperClosed)

    def _expire(self, places: Sequence[_Place]) -> None:
        if places[0] in self._waiting:  # the oldest of its call, so the first that a batch would have taken
            message = f"no batch began within {self._limits.patience:g} s; the gatekeeper is overloaded, try later"
            _fail(places, message, kind=GatekeeperOverloaded)

    def _stopped(self, worker: asyncio.Task[None]) -> None:
        """Answer those who would wait for ever where the worker was cancelled, as a loop that shuts down does."""
        if worker is self._worker:
            _fail(self._waiting, _STOPPED, kind=GatekeeperClosed)


def _fail(
    places: Iterable[_Place],
    message: str,
    *,
    kind: type[GatekeeperError] = GatekeeperError,
    cause: BaseException | None = None,
) -> None:
    for place in places:
        if not place.answer.done():
            error = kind(message)  # one a caller: a shared one would collect every caller's traceback
            error.__cause__ = cause
            place.answer.set_exception(error)
