import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

import pytest

from pointsman.router import (
    ConfigurationError,
    Conversation,
    Decision,
    Handler,
    HandlerError,
    InputError,
)
from pointsman.router.breaker import BreakerSettings
from pointsman.router.dispatch import Dispatcher
from pointsman.router.errors import HandlerOverloaded, HandlerTimeout, HandlerUnavailable
from pointsman.router.testing import RecordingHandler, decided
from pointsman.router.track import Limits
from pointsman.router.trip import DispatchEvent, EventKind, Reroute

SOON = 0.02  # seconds: a real time-out that a test waits for
QUESTION = Conversation.of("why did the load fail?")
ONE_STRIKE = BreakerSettings(failures=1)
NO_BREAKER = BreakerSettings(failures=1_000_000)

Step = str | BaseException | asyncio.Event


class Clock:
    """Stands still until it is told to go on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """Plays one script a call, the last one for ever: says a text, raises an error, waits for an event."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self.scripts = scripts
        self.calls = 0
        self.stopped = 0
        self.asked = asyncio.Event()
        self.decisions: list[Decision] = []

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        script = self.scripts[min(self.calls, len(self.scripts) - 1)]
        self.calls += 1
        self.decisions.append(decision)
        self.asked.set()
        try:
            for step in script:
                if isinstance(step, str):
                    yield step
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    raise step
        finally:
            self.stopped += 1

    async def aclose(self) -> None:
        pass


class Custom:
    """A handler made of one async generator function."""

    def __init__(self, stream: Callable[[], AsyncIterator[str]]) -> None:
        self._stream = stream

    def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        return self._stream()

    async def aclose(self) -> None:
        pass


def never() -> asyncio.Event:
    return asyncio.Event()


def decision(route: str = "a") -> Decision:
    return decided(route=route)


def dispatcher(
    *, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic, **handlers: Handler
) -> Dispatcher:
    """Give `limits` to the route `a`, the defaults to the others."""
    return Dispatcher(handlers, limits={"a": limits} if limits else None, clock=clock)


async def answer(tested: Dispatcher, route: str = "a", events: list[DispatchEvent] | None = None) -> str:
    on_event = None if events is None else events.append
    return "".join([piece async for piece in tested.stream(QUESTION, decision(route), on_event=on_event)])


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


# The plain way


async def test_the_handler_of_the_decisions_route_answers() -> None:
    asked, other = RecordingHandler("from the handbook"), RecordingHandler()
    tested = dispatcher(a=asked, b=other)
    taken = decision("a")

    assert [piece async for piece in tested.stream(QUESTION, taken)] == ["from", " the", " handbook"]
    assert asked.calls == [(QUESTION, taken)]
    assert other.calls == []


def test_a_dispatcher_is_a_handler_of_all_routes() -> None:
    assert isinstance(dispatcher(a=RecordingHandler()), Handler)


async def test_an_answer_without_a_piece_is_an_answer() -> None:
    silent, events = Scripted([]), list[DispatchEvent]()

    assert await answer(dispatcher(a=silent), events=events) == ""
    assert (silent.calls, events) == (1, [])


async def test_empty_pieces_are_dropped() -> None:
    tested = dispatcher(a=Scripted(["", "one", "", "", "two", ""]))

    assert [piece async for piece in tested.stream(QUESTION, decision())] == ["one", "two"]


async def test_a_handler_may_return_any_async_iterator_and_one_that_can_be_closed_is(
    plain_iterator: type[Any],
) -> None:
    class Closable(plain_iterator):  # type: ignore[misc, valid-type]
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    plain, closable = plain_iterator("a", "b"), Closable("a", "b")
    tested = dispatcher(a=Custom(lambda: plain), b=Custom(lambda: closable))

    assert await answer(tested, "a") == "ab"
    assert await answer(tested, "b") == "ab"
    assert closable.closed


async def test_a_route_without_a_handler_is_an_error_that_names_the_routes() -> None:
    with pytest.raises(ConfigurationError, match="no handler for the route 'c'; got a, b"):
        await answer(dispatcher(a=RecordingHandler(), b=RecordingHandler()), "c")


# Retries


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param([HandlerError("the endpoint hung up")], id="handler-error"),
        pytest.param([RuntimeError("a bug")], id="unexpected"),
        pytest.param([HandlerTimeout("the endpoint is slow")], id="its-own-timeout"),
        pytest.param(["", HandlerError("the endpoint hung up")], id="after-an-empty-piece"),
        pytest.param([never()], id="nothing-comes"),
    ],
)
async def test_a_failure_before_the_first_piece_is_tried_again(trouble: Sequence[Step]) -> None:
    shaky, events = Scripted(trouble, ["ok"]), list[DispatchEvent]()

    assert await answer(dispatcher(a=shaky, limits=Limits(first_chunk=SOON)), events=events) == "ok"
    assert (shaky.calls, shaky.stopped) == (2, 2)
    assert (events[-1].kind, events[-1].route, events[-1].to) == (EventKind.RETRIED, "a", None)


async def test_a_handler_that_fails_before_it_returns_a_stream_is_tried_again() -> None:
    calls = 0

    def stream() -> AsyncIterator[str]:
        nonlocal calls
        calls += 1
        raise RuntimeError("no connection")

    with pytest.raises(HandlerError, match=r"the handler of 'a' failed: RuntimeError\('no connection'\)"):
        await answer(dispatcher(a=Custom(stream)))
    assert calls == 2


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ConfigurationError("no key"), id="configuration"),
        pytest.param(InputError("no image, please"), id="input"),
        pytest.param(HandlerOverloaded("busy"), id="overloaded"),
        pytest.param(HandlerUnavailable("down", retry_after=9), id="unavailable"),
    ],
)
async def test_what_a_retry_cannot_help_is_not_tried_again_and_comes_through_as_it_is(error: Exception) -> None:
    broken = Scripted([error])

    with pytest.raises(type(error)) as caught:
        await answer(dispatcher(a=broken))

    assert caught.value is error
    assert (broken.calls, broken.stopped) == (1, 1)


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_there_are_no_more_retries_than_the_limits_allow(retries: int) -> None:
    broken = Scripted([HandlerError("down")])

    with pytest.raises(HandlerError, match="down"):
        await answer(dispatcher(a=broken, limits=Limits(retries=retries)))

    assert broken.calls == 1 + retries


async def test_an_unexpected_error_is_the_cause_of_the_one_that_is_raised() -> None:
    bug = KeyError("choices")

    with pytest.raises(HandlerError, match=r"the handler of 'a' failed: KeyError\('choices'\)") as caught:
        await answer(dispatcher(a=Scripted([bug])))

    assert type(caught.value) is HandlerError
    assert caught.value.__cause__ is bug


@pytest.mark.parametrize("error", [HandlerError("hung up"), RuntimeError("hung up")], ids=["ours", "unexpected"])
async def test_a_failure_after_the_first_piece_reaches_the_reader_after_what_was_said(error: Exception) -> None:
    broken, spare = Scripted(["so", " far", error]), RecordingHandler()
    stream = dispatcher(a=broken, b=spare, limits=Limits(retries=3, fallback="b")).stream(QUESTION, decision())

    assert [await anext(stream), await anext(stream)] == ["so", " far"]
    with pytest.raises(HandlerError, match="hung up"):
        await anext(stream)
    assert (broken.calls, spare.calls) == (1, [])


async def test_of_a_thousand_failing_messages_a_tenth_is_tried_again() -> None:
    broken = Scripted([HandlerError("down")])
    tested = dispatcher(a=broken, limits=Limits(retries=3, breaker=NO_BREAKER))

    for _ in range(1_000):
        with suppress(HandlerError):
            await answer(tested)

    burst = 10
    assert 1_000 + 100 <= broken.calls <= 1_000 + 100 + burst


async def test_all_routes_draw_on_one_retry_budget() -> None:
    first, second = Scripted([HandlerError("down")]), Scripted([HandlerError("down")])
    limits = {route: Limits(breaker=NO_BREAKER) for route in "ab"}
    tested = Dispatcher({"a": first, "b": second}, limits=limits, retry_share=0.01)

    for route in "aabb":
        with suppress(HandlerError):
            await answer(tested, route)

    assert (first.calls, second.calls) == (3, 2)


async def test_what_is_tried_again_leaves_its_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    await answer(dispatcher(a=Scripted([KeyError("choices")], ["ok"])))

    assert "'a' is tried again: the handler of 'a' failed: KeyError('choices')" in caplog.text
    assert "Traceback" in caplog.text


# Reroutes


async def test_a_handler_may_hand_the_message_to_another_route() -> None:
    gives, takes, events = Scripted([Reroute("b", "no data in it")]), Scripted(["hi"]), list[DispatchEvent]()
    clock = Clock()

    assert await answer(dispatcher(a=gives, b=takes, clock=clock), events=events) == "hi"
    assert events == [DispatchEvent(kind=EventKind.REROUTED, route="a", to="b", reason="no data in it", seconds=0.0)]
    assert takes.decisions == [decision("a")]  # as it was taken
    assert (gives.calls, gives.stopped) == (1, 1)


async def test_a_recording_handler_can_play_one_that_reroutes() -> None:
    gives = RecordingHandler("", error=Reroute("b", "no data in it"))

    assert await answer(dispatcher(a=gives, b=RecordingHandler("hi"))) == "hi"


async def test_a_message_is_rerouted_as_often_as_hops_allow() -> None:
    handlers: dict[str, Handler] = {
        "a": Scripted([Reroute("b", "")]),
        "b": Scripted([Reroute("c", "")]),
        "c": Scripted(["ok"]),
    }

    assert await answer(Dispatcher(handlers, hops=2)) == "ok"
    with pytest.raises(HandlerError, match="'b' rerouted the message to 'c', but `hops` allows only 1: a -> b"):
        await answer(Dispatcher(handlers, hops=1))
    with pytest.raises(HandlerError, match="allows only 0: a"):
        await answer(Dispatcher(handlers, hops=0))


@pytest.mark.parametrize(
    ("to", "said"),
    [
        pytest.param("z", "'b' rerouted the message to 'z', which has no handler; the routes are a, b", id="unknown"),
        pytest.param("a", "'b' rerouted the message to 'a', which was asked before: a -> b", id="back"),
        pytest.param("b", "'b' rerouted the message to 'b', which was asked before: a -> b", id="itself"),
    ],
)
async def test_a_reroute_that_leads_nowhere_is_refused(to: str, said: str) -> None:
    gives, refused = Scripted([Reroute("b", "")]), Scripted([Reroute(to, "")])

    with pytest.raises(HandlerError, match=said):
        await answer(dispatcher(a=gives, b=refused))
    assert (gives.calls, refused.calls) == (1, 1)


async def test_the_fallback_answers_where_a_reroute_leads_nowhere() -> None:
    gives, events = Scripted([Reroute("z", "")]), list[DispatchEvent]()

    assert await answer(dispatcher(a=gives, b=Scripted(["ok"]), limits=Limits(fallback="b")), events=events) == "ok"
    assert [event.kind for event in events] == [EventKind.FELL_BACK]
    assert "'z', which has no handler" in events[0].reason


async def test_a_reroute_after_the_first_piece_is_an_error() -> None:
    stream = dispatcher(a=Scripted(["hm", Reroute("b", "")]), b=RecordingHandler()).stream(QUESTION, decision())

    assert await anext(stream) == "hm"
    with pytest.raises(HandlerError, match="'a' rerouted the message after its answer had begun"):
        await anext(stream)


async def test_a_reroute_is_no_failure() -> None:
    gives = Scripted([Reroute("b", "")])
    tested = dispatcher(a=gives, b=Scripted(["ok"]), limits=Limits(breaker=ONE_STRIKE))

    assert [await answer(tested) for _ in range(3)] == ["ok"] * 3
    assert gives.calls == 3


# Fallbacks


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param([HandlerError("down")], id="handler-error"),
        pytest.param([RuntimeError("a bug")], id="unexpected"),
        pytest.param([HandlerOverloaded("busy")], id="overloaded"),
        pytest.param([HandlerUnavailable("down")], id="unavailable"),
        pytest.param([never()], id="nothing-comes"),
    ],
)
async def test_the_fallback_answers_where_the_route_cannot(trouble: Sequence[Step]) -> None:
    broken, events = Scripted(trouble), list[DispatchEvent]()
    tested = dispatcher(a=broken, b=Scripted(["ok"]), limits=Limits(first_chunk=SOON, retries=0, fallback="b"))

    assert await answer(tested, events=events) == "ok"
    assert broken.stopped == 1
    assert (events[-1].kind, events[-1].route, events[-1].to) == (EventKind.FELL_BACK, "a", "b")


async def test_fallbacks_go_on_to_theirs_but_never_back() -> None:
    down = {route: Scripted([HandlerError(f"{route} is down")]) for route in "abc"}
    limits = {route: Limits(retries=0, fallback=fallback) for route, fallback in ("ab", "bc", "ca")}

    with pytest.raises(HandlerError, match="c is down"):
        await answer(Dispatcher(down, limits=limits))
    assert [handler.calls for handler in down.values()] == [1, 1, 1]


async def test_a_fallback_may_reroute() -> None:
    down, gives, takes = Scripted([HandlerError("down")]), Scripted([Reroute("c", "")]), Scripted(["ok"])

    assert await answer(dispatcher(a=down, b=gives, c=takes, limits=Limits(fallback="b"))) == "ok"


@pytest.mark.parametrize(
    "error", [ConfigurationError("no key"), InputError("no image, please")], ids=["set-up", "input"]
)
async def test_an_error_of_the_caller_or_the_set_up_is_not_papered_over(error: Exception) -> None:
    spare = RecordingHandler()

    with pytest.raises(type(error)):
        await answer(dispatcher(a=Scripted([error]), b=spare, limits=Limits(fallback="b")))
    assert spare.calls == []


# The breaker


async def test_a_handler_that_keeps_failing_is_spared_until_a_probe_succeeds() -> None:
    clock, events = Clock(), list[DispatchEvent]()
    broken = Scripted([HandlerError("down")], [HandlerError("down")], ["ok"])
    limits = Limits(retries=0, breaker=BreakerSettings(failures=2, cooldown=30))
    tested = dispatcher(a=broken, clock=clock, limits=limits)
    for _ in range(2):
        with pytest.raises(HandlerError, match="down"):
            await answer(tested, events=events)
    assert [(event.kind, event.reason) for event in events] == [(EventKind.BREAKER_OPENED, "down")]

    clock.now += 10
    with pytest.raises(
        HandlerUnavailable, match=r"'a' failed too often in a row; it is asked again in 20\.0 s"
    ) as caught:
        await answer(tested)
    assert caught.value.retry_after == 20
    assert broken.calls == 2

    clock.now += 20
    assert [await answer(tested) for _ in range(3)] == ["ok"] * 3


async def test_a_failure_that_opens_the_breaker_is_not_tried_again() -> None:
    broken = Scripted([HandlerError("down")])

    with pytest.raises(HandlerError, match="down"):
        await answer(dispatcher(a=broken, limits=Limits(retries=3, breaker=BreakerSettings(failures=2))))
    assert broken.calls == 2


async def test_an_open_breaker_leads_straight_to_the_fallback_and_leaves_other_routes_alone() -> None:
    broken = Scripted([HandlerError("down")])
    tested = dispatcher(a=broken, b=Scripted(["ok"]), limits=Limits(retries=0, fallback="b", breaker=ONE_STRIKE))

    assert [await answer(tested) for _ in range(4)] == ["ok"] * 4
    assert broken.calls == 1
    assert await answer(tested, "b") == "ok"


async def half_open(*scripts: Sequence[Step], concurrency: int = 2) -> tuple[Dispatcher, Scripted]:
    """A dispatcher whose route `a` failed once and has cooled down; `scripts` are what its handler plays next."""
    clock, handler = Clock(), Scripted([HandlerError("down")], *scripts)
    tested = dispatcher(a=handler, clock=clock, limits=Limits(retries=0, concurrency=concurrency, breaker=ONE_STRIKE))
    with pytest.raises(HandlerError, match="down"):
        await answer(tested)
    handler.asked.clear()
    clock.now += ONE_STRIKE.cooldown
    return tested, handler


@pytest.mark.parametrize("concurrency", [1, 2], ids=["in-the-only-slot", "beside-a-free-slot"])
async def test_one_probe_is_let_through_and_others_are_refused_at_once(concurrency: int) -> None:
    recovered = asyncio.Event()
    tested, handler = await half_open([recovered, "ok"], concurrency=concurrency)
    probe = asyncio.create_task(answer(tested))
    await handler.asked.wait()

    with pytest.raises(HandlerUnavailable) as caught:
        await answer(tested)
    assert caught.value.retry_after == ONE_STRIKE.cooldown
    recovered.set()
    assert await probe == "ok"
    assert await answer(tested) == "ok"
    assert handler.calls == 3


async def test_a_cancelled_probe_makes_room_for_the_next() -> None:
    tested, handler = await half_open([never()], ["ok"])
    probe = asyncio.create_task(answer(tested))
    await handler.asked.wait()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe

    assert await answer(tested) == "ok"


async def test_a_probe_that_cannot_answer_this_caller_makes_room_for_the_next() -> None:
    tested, _ = await half_open([InputError("no image, please")], ["ok"])
    with pytest.raises(InputError):
        await answer(tested)

    assert await answer(tested) == "ok"


async def test_a_probe_is_judged_by_its_first_piece_however_slow_its_reader() -> None:
    tested, _ = await half_open(["one", "two"])
    async with aclosing(tested.stream(QUESTION, decision())) as probe:
        assert await anext(probe) == "one"

        assert await answer(tested) == "onetwo"


async def test_a_probe_that_fails_spares_the_handler_again() -> None:
    tested, handler = await half_open([HandlerError("still down")])
    with pytest.raises(HandlerError, match="still down"):
        await answer(tested)
    with pytest.raises(HandlerUnavailable):
        await answer(tested)
    assert handler.calls == 2


@pytest.mark.parametrize("script", [["ok"], [], [Reroute("b", "")]], ids=["answered", "silent", "rerouted"])
async def test_whatever_shows_that_the_handler_works_ends_a_row_of_failures(script: Sequence[Step]) -> None:
    shaky = Scripted([HandlerError("down")], script, [HandlerError("down")], script)
    limits = Limits(retries=0, breaker=BreakerSettings(failures=2))
    tested = dispatcher(a=shaky, b=Scripted(["ok"]), limits=limits)
    for _ in range(2):
        await fails(tested)
        await answer(tested)

    assert shaky.calls == 4


async def test_a_failure_after_the_first_piece_counts() -> None:
    tested = dispatcher(a=Scripted(["hm", HandlerError("hung up")]), limits=Limits(breaker=BreakerSettings(failures=2)))
    for _ in range(2):
        with pytest.raises(HandlerError, match="hung up"):
            await answer(tested)

    with pytest.raises(HandlerUnavailable):
        await answer(tested)


@pytest.mark.parametrize(
    "error",
    [ConfigurationError("no key"), InputError("no image"), HandlerOverloaded("busy")],
    ids=["setup", "input", "busy"],
)
async def test_what_does_not_say_that_the_handler_is_broken_does_not_count(error: Exception) -> None:
    handler = Scripted([error], [error], ["ok"])
    tested = dispatcher(a=handler, limits=Limits(breaker=ONE_STRIKE))
    for _ in range(2):
        with pytest.raises(type(error)):
            await answer(tested)

    assert await answer(tested) == "ok"


async def test_those_who_wait_for_a_slot_are_told_when_the_breaker_opens() -> None:
    clock, down = Clock(), asyncio.Event()
    broken = Scripted([down, HandlerError("down")], ["ok"])
    tested = dispatcher(a=broken, clock=clock, limits=Limits(retries=0, concurrency=1, breaker=ONE_STRIKE))
    first, second = asyncio.create_task(answer(tested)), asyncio.create_task(answer(tested))
    await settle()
    down.set()

    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [HandlerError, HandlerUnavailable]
    assert broken.calls == 1
    clock.now += ONE_STRIKE.cooldown
    assert await answer(tested) == "ok"


# Time


async def test_a_first_piece_that_does_not_come_is_a_timeout_that_stops_the_handler() -> None:
    hung, events = Scripted(["", never()]), list[DispatchEvent]()

    with pytest.raises(HandlerTimeout, match=r"'a' did not begin its answer in 0\.02 s") as caught:
        await answer(dispatcher(a=hung, limits=Limits(first_chunk=SOON, retries=0)), events=events)

    assert isinstance(caught.value, TimeoutError)
    assert hung.stopped == 1
    assert [event.kind for event in events] == [EventKind.TIMED_OUT]
    assert events[0].seconds >= SOON


async def test_a_last_piece_that_does_not_come_is_a_timeout_after_what_was_said() -> None:
    hung = Scripted(["one", never()])
    stream = dispatcher(a=hung, limits=Limits(total=SOON)).stream(QUESTION, decision())

    assert await anext(stream) == "one"
    with pytest.raises(HandlerTimeout, match=r"'a' did not finish its answer in 0\.02 s"):
        await anext(stream)
    assert (hung.calls, hung.stopped) == (1, 1)


async def test_pieces_that_drip_for_ever_are_stopped_at_the_total() -> None:
    said = 0

    async def drip() -> AsyncIterator[str]:
        nonlocal said
        while True:
            said += 1
            yield "."
            await asyncio.sleep(SOON / 5)

    with pytest.raises(HandlerTimeout, match="did not finish"):
        await answer(dispatcher(a=Custom(drip), limits=Limits(total=SOON)))
    assert 1 <= said <= 6


async def test_a_slow_reader_uses_up_none_of_the_handlers_time() -> None:
    clock = Clock()
    tested = dispatcher(a=Scripted(["one", "two", "three"]), clock=clock, limits=Limits(first_chunk=1, total=2))

    said = []
    async for piece in tested.stream(QUESTION, decision()):
        said.append(piece)
        clock.now += 100

    assert said == ["one", "two", "three"]


async def test_a_handler_that_never_gives_way_is_stopped_between_two_pieces() -> None:
    clock = Clock()

    async def busy() -> AsyncIterator[str]:
        while True:
            clock.now += 200
            yield "."

    stream = dispatcher(a=Custom(busy), clock=clock, limits=Limits(first_chunk=500, total=300)).stream(
        QUESTION, decision()
    )

    assert [await anext(stream), await anext(stream)] == [".", "."]
    with pytest.raises(HandlerTimeout, match="did not finish its answer in 300 s"):
        await anext(stream)


async def test_a_handler_of_nothing_but_empty_pieces_holds_up_nobody() -> None:
    async def nothing() -> AsyncIterator[str]:
        while True:
            yield ""

    tested = dispatcher(a=Custom(nothing), b=Scripted(["ok"]), limits=Limits(first_chunk=SOON, retries=0))
    empty = asyncio.create_task(answer(tested))
    await asyncio.sleep(0)

    assert await answer(tested, "b") == "ok"
    with pytest.raises(HandlerTimeout):
        await empty


async def test_a_timeout_of_the_handlers_own_is_an_error_like_others() -> None:
    own = TimeoutError("read timed out")

    with pytest.raises(HandlerError, match="read timed out") as caught:
        await answer(dispatcher(a=Scripted([own])))

    assert type(caught.value) is HandlerError
    assert caught.value.__cause__ is own


async def swallows_and_ends() -> AsyncIterator[str]:
    with suppress(asyncio.CancelledError):
        await never().wait()
        yield "never"


async def swallows_and_speaks() -> AsyncIterator[str]:
    with suppress(asyncio.CancelledError):
        await never().wait()
    yield "sorry, I was away"


async def raises_something_else() -> AsyncIterator[str]:
    try:
        await never().wait()
        yield "never"
    except asyncio.CancelledError:
        raise HandlerError("interrupted") from None


OBSTINATE = pytest.mark.parametrize("stream", [swallows_and_ends, swallows_and_speaks, raises_something_else])


@OBSTINATE
async def test_a_handler_cannot_talk_its_way_out_of_a_timeout(stream: Callable[[], AsyncIterator[str]]) -> None:
    with pytest.raises(HandlerTimeout, match="did not begin"):
        await answer(dispatcher(a=Custom(stream), limits=Limits(first_chunk=SOON, retries=0)))


@OBSTINATE
async def test_a_handler_cannot_keep_its_reader_from_being_cancelled(stream: Callable[[], AsyncIterator[str]]) -> None:
    calls = 0

    def counted() -> AsyncIterator[str]:
        nonlocal calls
        calls += 1
        return stream()

    reader = asyncio.create_task(answer(dispatcher(a=Custom(counted))))
    await settle()
    reader.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reader
    assert calls == 1


# Slots


async def test_answers_beyond_the_limit_wait_for_a_slot() -> None:
    release = asyncio.Event()
    handler = Scripted([release, "ok"])
    tested = dispatcher(a=handler, limits=Limits(concurrency=2))
    answers = [asyncio.create_task(answer(tested)) for _ in range(5)]
    await settle()
    assert handler.calls == 2

    release.set()
    assert await asyncio.gather(*answers) == ["ok"] * 5
    assert handler.calls == 5


async def test_a_route_without_a_free_slot_in_time_is_overloaded_and_not_broken() -> None:
    release, events = asyncio.Event(), list[DispatchEvent]()
    handler = Scripted(["one", release, "two"])
    tested = dispatcher(a=handler, limits=Limits(first_chunk=SOON, concurrency=1, breaker=ONE_STRIKE))
    async with aclosing(tested.stream(QUESTION, decision())) as stream:
        assert await anext(stream) == "one"
        with pytest.raises(HandlerOverloaded, match=r"'a' had no free slot for 0\.02 s; all 1 are answering"):
            await answer(tested, events=events)
        release.set()
        assert [piece async for piece in stream] == ["two"]

    assert (handler.calls, events) == (1, [])
    assert await answer(tested) == "onetwo"


async def test_a_handler_is_not_blamed_for_the_time_its_caller_waited_for_a_slot() -> None:
    clock, release = Clock(), asyncio.Event()
    handler = Scripted([release, "ok"], [never()], ["ok"])
    limits = Limits(first_chunk=10 + SOON, concurrency=1, breaker=ONE_STRIKE)
    tested = dispatcher(a=handler, clock=clock, limits=limits)
    first, second = asyncio.create_task(answer(tested)), asyncio.create_task(answer(tested))
    await settle()
    clock.now += 10
    release.set()

    assert await first == "ok"
    with pytest.raises(HandlerOverloaded, match=r"'a' had no free slot for 10\.0 s, too long to answer in time"):
        await second
    assert await answer(tested) == "ok"


async def test_a_caller_whose_whole_time_went_by_in_the_wait_does_not_trouble_the_handler() -> None:
    clock, release = Clock(), asyncio.Event()
    handler = Scripted([release, "ok"])
    tested = dispatcher(a=handler, clock=clock, limits=Limits(first_chunk=10, concurrency=1))
    first, second = asyncio.create_task(answer(tested)), asyncio.create_task(answer(tested))
    await settle()
    clock.now += 11
    release.set()

    assert await first == "ok"
    with pytest.raises(HandlerOverloaded):
        await second
    assert handler.calls == 1


async def test_a_caller_that_leaves_the_queue_takes_no_slot_with_it() -> None:
    release = asyncio.Event()
    handler = Scripted([release, "ok"])
    tested = dispatcher(a=handler, limits=Limits(concurrency=1))
    answers = [asyncio.create_task(answer(tested)) for _ in range(3)]
    await settle()
    answers[1].cancel()
    release.set()

    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert [outcomes[0], outcomes[2]] == ["ok", "ok"]
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert handler.calls == 2


async def fails(tested: Dispatcher) -> None:
    with pytest.raises(HandlerError):
        await answer(tested)


async def hands_over(tested: Dispatcher) -> None:
    with pytest.raises(HandlerError, match="no handler"):
        await answer(tested)


async def leaves(tested: Dispatcher) -> None:
    async with aclosing(tested.stream(QUESTION, decision())) as stream:
        await anext(stream)


async def is_cancelled(tested: Dispatcher) -> None:
    reader = asyncio.create_task(answer(tested))
    await settle()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


@pytest.mark.parametrize(
    ("script", "happens"),
    [
        pytest.param([HandlerError("down")], fails, id="failed"),
        pytest.param(["one", HandlerError("down")], fails, id="failed-later"),
        pytest.param([Reroute("z", "")], hands_over, id="rerouted"),
        pytest.param(["one", "two"], leaves, id="closed"),
        pytest.param([never()], is_cancelled, id="cancelled"),
        pytest.param(["one", never()], is_cancelled, id="cancelled-later"),
    ],
)
async def test_however_an_answer_ends_its_slot_is_free_again(
    script: Sequence[Step], happens: Callable[[Dispatcher], Awaitable[None]]
) -> None:
    handler = Scripted(script, ["ok"])
    tested = dispatcher(a=handler, limits=Limits(retries=0, concurrency=1))
    await happens(tested)

    assert await answer(tested) == "ok"
    assert handler.stopped == 2


# Readers that leave, and handlers that do not


async def test_a_reader_that_leaves_stops_the_handler_at_once_and_counts_for_nothing() -> None:
    handler = Scripted(["one", never()])
    tested = dispatcher(a=handler, limits=Limits(breaker=ONE_STRIKE))
    for _ in range(2):
        async with aclosing(tested.stream(QUESTION, decision())) as stream:
            assert await anext(stream) == "one"
            stopped = handler.stopped
        assert handler.stopped == stopped + 1

    assert handler.calls == 2


@pytest.mark.parametrize("script", [[never()], ["one", never()]], ids=["before-the-first-piece", "after-it"])
async def test_a_cancelled_reader_stops_the_handler_and_counts_for_nothing(script: Sequence[Step]) -> None:
    handler = Scripted(script, script, ["ok"])
    tested = dispatcher(a=handler, b=RecordingHandler(), limits=Limits(fallback="b", breaker=ONE_STRIKE))
    for calls in (1, 2):
        await is_cancelled(tested)
        assert (handler.calls, handler.stopped) == (calls, calls)

    assert await answer(tested) == "ok"


async def test_a_cancellation_of_the_handlers_own_making_passes_too() -> None:
    handler = Scripted([asyncio.CancelledError()], ["ok"])
    tested = dispatcher(a=handler, limits=Limits(breaker=ONE_STRIKE))

    with pytest.raises(asyncio.CancelledError):
        await answer(tested)
    assert await answer(tested) == "ok"


async def test_a_handler_that_ignores_being_closed_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def ignores() -> AsyncIterator[str]:
        with suppress(GeneratorExit):
            yield "one"
        yield "two"

    tested = dispatcher(a=Custom(ignores), limits=Limits(concurrency=1))
    await leaves(tested)

    assert "the handler of 'a' did not stop cleanly" in caplog.text
    assert "ignored GeneratorExit" in caplog.text
    assert await answer(tested) == "onetwo"


async def test_an_error_while_the_handler_stops_is_logged_and_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks() -> AsyncIterator[str]:
        try:
            yield "one"
        finally:
            raise OSError("already closed")

    tested = dispatcher(a=Custom(breaks))
    await leaves(tested)

    assert "already closed" in caplog.text


class Hanging(Scripted):
    """A handler that never comes to the end of its clean-up, unless it is cancelled there."""

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        try:
            async for piece in super().stream(conversation, decision):
                yield piece
        finally:
            await never().wait()


async def test_a_handler_that_hangs_when_it_is_closed_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pointsman.router.track._CLEANUP", SOON)
    tested = dispatcher(a=Hanging(["one", "two"]), limits=Limits(concurrency=1))
    await leaves(tested)
    await leaves(tested)

    assert caplog.messages == ["the handler of 'a' did not stop cleanly"] * 2


async def test_a_handler_that_hangs_when_its_time_is_up_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.router.track._CLEANUP", SOON)
    tested = dispatcher(a=Hanging([never()]), limits=Limits(first_chunk=SOON, retries=0, concurrency=1))

    for _ in range(2):
        with pytest.raises(HandlerTimeout, match="did not begin"):
            await answer(tested)


async def test_a_hanging_handler_costs_the_other_routes_nothing() -> None:
    tested = dispatcher(a=Scripted([never()]), b=Scripted(["ok"]), limits=Limits(concurrency=1))
    hung = [asyncio.create_task(answer(tested)) for _ in range(10)]
    await settle()

    assert await asyncio.gather(*(answer(tested, "b") for _ in range(100))) == ["ok"] * 100
    for task in hung:
        task.cancel()
    await asyncio.gather(*hung, return_exceptions=True)


# Events, closing, configuration


async def test_the_events_tell_the_whole_way_in_order() -> None:
    clock, events = Clock(), list[DispatchEvent]()

    def slow() -> AsyncIterator[str]:
        clock.now += 1
        raise HandlerError("down")

    handlers: dict[str, Handler] = {"a": Scripted([Reroute("b", "not mine")]), "b": Custom(slow), "c": Scripted(["ok"])}
    limits = {"b": Limits(retries=1, fallback="c", breaker=BreakerSettings(failures=2))}

    assert await answer(Dispatcher(handlers, limits=limits, clock=clock), events=events) == "ok"
    assert [(event.kind.value, event.route, event.to, event.reason, event.seconds) for event in events] == [
        ("rerouted", "a", "b", "not mine", 0),
        ("retried", "b", None, "down", 1),
        ("breaker_opened", "b", None, "down", 2),
        ("fell_back", "b", "c", "down", 2),
    ]


async def test_an_observer_that_fails_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    def observe(event: DispatchEvent) -> None:
        raise OSError("the journal is full")

    tested = dispatcher(a=Scripted([HandlerError("down")], ["ok"]))
    with caplog.at_level(logging.ERROR, "pointsman.router"):
        said = [piece async for piece in tested.stream(QUESTION, decision(), on_event=observe)]

    assert said == ["ok"]
    assert "`on_event` failed on DispatchEvent(" in caplog.text
    assert "the journal is full" in caplog.text


async def test_closing_closes_every_handler_also_where_one_fails_to_and_twice_is_fine() -> None:
    class Stuck(RecordingHandler):
        async def aclose(self) -> None:
            raise OSError("still busy")

    first, last = RecordingHandler(), RecordingHandler()
    tested = dispatcher(a=first, b=Stuck(), c=last)

    for times in (1, 2):
        with pytest.raises(OSError, match="still busy"):
            await tested.aclose()
        assert (first.closed, last.closed) == (times, times)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"first_chunk": 0.0}, "`first_chunk` must be more than 0 seconds, got 0.0", id="no-first-chunk"),
        pytest.param({"total": -1.0}, "`total` must be more than 0 seconds, got -1.0", id="negative-total"),
        pytest.param({"total": math.nan}, "`total` must be more than 0 seconds, got nan", id="not-a-number"),
        pytest.param({"retries": -1}, "`retries` must be at least 0, got -1", id="negative-retries"),
        pytest.param({"concurrency": 0}, "`concurrency` must be at least 1, got 0", id="no-slots"),
    ],
)
def test_limits_that_let_nothing_through_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Limits(**settings)  # type: ignore[arg-type]


async def test_a_limit_may_be_left_open() -> None:
    assert await answer(dispatcher(a=Scripted(["ok"]), limits=Limits(first_chunk=math.inf, total=math.inf))) == "ok"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"limits": {"z": Limits()}}, "the limits of 'z' need a handler for 'z'; got a, b", id="route"),
        pytest.param({"limits": {"a": Limits(fallback="z")}}, "limits of 'a' need a handler for 'z'", id="fallback"),
        pytest.param(
            {"limits": {"a": Limits(fallback="")}}, "limits of 'a' need a handler for ''", id="empty-fallback"
        ),
        pytest.param({"limits": {"a": Limits(fallback="a")}}, "'a' cannot be its own fallback", id="own-fallback"),
        pytest.param({"hops": -1}, "`hops` must not be negative, got -1", id="hops"),
        pytest.param({"retry_share": 2.0}, "`retry_share` must lie in 0..1, got 2.0", id="share"),
    ],
)
def test_a_dispatcher_that_contradicts_itself_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Dispatcher({"a": RecordingHandler(), "b": RecordingHandler()}, **settings)  # type: ignore[arg-type]
