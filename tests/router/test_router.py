import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from pointsman.router import (
    DEFAULT_LABELS,
    Classifier,
    ConfigurationError,
    Conversation,
    Decision,
    GatekeeperError,
    Handler,
    HandlerError,
    InputError,
    Label,
    Policy,
    Reason,
    Router,
    Scores,
    Window,
)
from pointsman.router.testing import RecordingHandler, ScriptedClassifier

SCRIPT = {
    "rerun the job": "data_platform",
    "hello": "general_chat",
    "weather?": "irrelevant",
    "hm": {"data_platform": 0.2, "general_chat": 0.3, "irrelevant": 0.5},
    "boom": GatekeeperError("out of order"),
}


class SlowHandler:
    """Says one word, then waits for ever; remembers whether it was stopped."""

    def __init__(self) -> None:
        self.stopped = False

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
            yield "never"
        finally:
            self.stopped = True

    async def aclose(self) -> None:
        pass


def handlers(**other: Handler) -> dict[str, Handler]:
    return {
        "knowledge_base": RecordingHandler("from the handbook"),
        "general_llm": RecordingHandler("hi hi you"),
        "refusal": RecordingHandler("sorry"),
        **other,
    }


def classifier(**settings: object) -> ScriptedClassifier:
    return ScriptedClassifier(SCRIPT, **settings)  # type: ignore[arg-type]


def test_the_fakes_keep_the_protocols() -> None:
    assert isinstance(classifier(), Classifier)
    assert isinstance(RecordingHandler(), Handler)


@pytest.mark.parametrize(
    ("message", "route", "text"),
    [
        pytest.param("rerun the job", "knowledge_base", "from the handbook", id="data"),
        pytest.param("hello", "general_llm", "hi hi you", id="chat"),
        pytest.param("weather?", "refusal", "sorry", id="irrelevant"),
    ],
)
async def test_a_message_is_answered_by_the_handler_of_its_route(message: str, route: str, text: str) -> None:
    by_route = handlers()
    async with Router(classifier=classifier(), handlers=by_route) as router:
        reply = await router.route(message)

    assert (reply.text, reply.decision.route) == (text, route)
    asked = {name: handler.calls for name, handler in by_route.items() if isinstance(handler, RecordingHandler)}
    assert [name for name, calls in asked.items() if calls] == [route]
    assert asked[route] == [(Conversation.of(message), reply.decision)]


async def test_a_decision_says_everything_and_turns_into_json() -> None:
    async with Router(classifier=classifier(bundle="20260101-abc")) as router:
        decision = await router.decide("hello")

    plain = json.loads(json.dumps(decision.as_dict()))
    assert plain["id"] == decision.id
    assert plain["label"] == "general_chat"
    assert plain["route"] == "general_llm"
    assert plain["probabilities"] == pytest.approx({"data_platform": 0.01, "general_chat": 0.98, "irrelevant": 0.01})
    assert plain["confidence"] == pytest.approx(0.98)
    assert plain["margin"] == pytest.approx(0.97)
    assert plain["reason"] == "confident"
    assert plain["bundle"] == "20260101-abc"
    assert plain["truncated"] is False
    assert plain["seconds"] >= 0


async def test_every_decision_has_an_id_of_its_own() -> None:
    async with Router(classifier=classifier()) as router:
        decisions = await router.decide_all(["hello", "hello", "weather?"])

    assert len({decision.id for decision in decisions}) == 3
    assert [decision.label for decision in decisions] == ["general_chat", "general_chat", "irrelevant"]


async def test_many_conversations_are_one_pass_of_the_classifier() -> None:
    passes: list[int] = []

    class Counting(ScriptedClassifier):
        async def classify(self, windows: Sequence[Window]) -> list[Scores]:
            passes.append(len(windows))
            return await super().classify(windows)

    async with Router(classifier=Counting(SCRIPT)) as router:
        await router.decide_all(["hello", "weather?"])

    assert passes == [2]


async def test_the_classifier_reads_the_window() -> None:
    gatekeeper = classifier()
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "ｈｅｌｌｏ"},
    ]
    async with Router(classifier=gatekeeper) as router:
        await router.decide(turns)

    assert gatekeeper.windows == [Window(message="hello", previous_user="a", previous_reply="b")]


async def test_an_unsure_label_takes_the_unsure_route() -> None:
    async with Router(classifier=classifier(thresholds={"irrelevant": 0.9})) as router:
        decision = await router.decide("hm")

    assert (decision.label, decision.route, decision.reason) == ("irrelevant", "knowledge_base", Reason.UNSURE)


async def test_a_policy_of_ones_own_wins_over_the_bundles() -> None:
    policy = Policy(thresholds={"general_chat": 1.0}, unsure_route="knowledge_base")
    async with Router(classifier=classifier(), policy=policy) as router:
        assert (await router.decide("hello")).reason is Reason.UNSURE


async def test_the_stream_starts_with_the_decision_and_goes_on_in_pieces() -> None:
    async with Router(classifier=classifier(), handlers=handlers()) as router:
        items = [item async for item in router.stream("hello")]

    assert isinstance(items[0], Decision)
    assert items[1:] == ["hi", " hi", " you"]


async def test_a_stream_that_is_closed_early_stops_its_handler_at_once() -> None:
    slow = SlowHandler()
    async with Router(classifier=classifier(), handlers=handlers(general_llm=slow)) as router:
        async with aclosing(router.stream("hello")) as stream:  # type: ignore[type-var]
            assert isinstance(await anext(stream), Decision)
            assert await anext(stream) == "one"
            assert not slow.stopped
        assert slow.stopped


@pytest.mark.parametrize("way", ["stream", "route"])
async def test_a_cancelled_caller_stops_its_handler(way: str) -> None:
    slow = SlowHandler()
    started = asyncio.Event()

    async def call(router: Router) -> None:
        started.set()
        if way == "route":
            await router.route("hello")
        else:
            async for _ in router.stream("hello"):
                pass

    async with Router(classifier=classifier(), handlers=handlers(general_llm=slow)) as router:
        task = asyncio.create_task(call(router))
        await started.wait()
        for _ in range(5):  # let it reach the handler's wait
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert slow.stopped


async def test_a_handler_may_be_any_async_iterator(plain_iterator: type[Any]) -> None:
    class Plain:
        def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
            pieces: AsyncIterator[str] = plain_iterator("a", "b")
            return pieces

        async def aclose(self) -> None:
            pass

    async with Router(classifier=classifier(), handlers=handlers(general_llm=Plain())) as router:
        assert [item async for item in router.stream("hello")][1:] == ["a", "b"]
        assert (await router.route("hello")).text == "ab"


async def test_a_failing_gatekeeper_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "pointsman.router"):
        async with Router(classifier=classifier(), handlers=handlers()) as router:
            reply = await router.route("boom")

    assert reply.text == "from the handbook"
    assert reply.decision.reason is Reason.GATEKEEPER_FAILED
    assert reply.decision.label == "data_platform"
    assert reply.decision.confidence == 0.0
    assert "the gatekeeper failed on 1 messages" in caplog.text
    assert "out of order" in caplog.text


async def test_an_error_of_the_handler_reaches_the_caller_after_what_was_said() -> None:
    broken = RecordingHandler("so far", error=HandlerError("the endpoint hung up"))
    async with Router(classifier=classifier(), handlers=handlers(general_llm=broken)) as router:
        stream = router.stream("hello")
        seen = [await anext(stream) for _ in range(3)]
        with pytest.raises(HandlerError, match="hung up"):
            await anext(stream)
        with pytest.raises(HandlerError, match="hung up"):
            await router.route("hello")

    assert seen[1:] == ["so", " far"]


@pytest.mark.parametrize("messages", [[], 7, [{"role": "assistant", "content": "hello"}]])
async def test_what_is_no_conversation_is_refused_before_the_classifier_is_asked(messages: object) -> None:
    gatekeeper = classifier()
    async with Router(classifier=gatekeeper, handlers=handlers()) as router:
        with pytest.raises(InputError):
            await router.decide(messages)  # type: ignore[arg-type]
        with pytest.raises(InputError):
            await router.route(messages)  # type: ignore[arg-type]
        with pytest.raises(InputError):
            await anext(router.stream(messages))  # type: ignore[arg-type]

    assert gatekeeper.windows == []


def test_a_route_without_a_handler_is_refused_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="no handler for general_llm, refusal; got knowledge_base"):
        Router(classifier=classifier(), handlers={"knowledge_base": RecordingHandler()})


def test_the_unsure_route_needs_a_handler_too() -> None:
    policy = Policy(unsure_route="human")
    with pytest.raises(ConfigurationError, match="no handler for human"):
        Router(classifier=classifier(), handlers=handlers(), policy=policy)


async def test_without_handlers_a_router_decides_but_does_not_answer() -> None:
    async with Router(classifier=classifier()) as router:
        assert (await router.decide("hello")).route == "general_llm"
        with pytest.raises(ConfigurationError, match="no handler for the route 'general_llm'"):
            await router.route("hello")


async def test_leaving_closes_the_classifier_and_every_handler_and_twice_is_fine() -> None:
    gatekeeper, by_route = classifier(), handlers()
    async with Router(classifier=gatekeeper, handlers=by_route) as router:
        pass
    await router.aclose()

    assert gatekeeper.closed == 2
    assert [handler.closed for handler in by_route.values() if isinstance(handler, RecordingHandler)] == [2, 2, 2]


async def test_a_fourth_label_routes_like_the_others() -> None:
    labels = (*DEFAULT_LABELS, Label(name="ticket", route="ticket_desk"))
    gatekeeper = ScriptedClassifier({"open a ticket": "ticket"}, labels=labels)
    async with Router(classifier=gatekeeper, handlers=handlers(ticket_desk=RecordingHandler("done"))) as router:
        assert (await router.route("open a ticket")).text == "done"


async def test_a_script_that_does_not_know_a_message_says_so() -> None:
    async with Router(classifier=classifier()) as router:
        with pytest.raises(ConfigurationError, match="no answer to 'unheard'"):
            await router.decide("unheard")


async def test_a_script_may_be_a_function_of_the_window() -> None:
    gatekeeper = ScriptedClassifier(lambda window: "irrelevant" if window.previous_user else "general_chat")
    async with Router(classifier=gatekeeper) as router:
        assert (await router.decide("x")).label == "general_chat"


async def test_a_part_that_cannot_be_closed_does_not_keep_the_others_open() -> None:
    class Stuck(RecordingHandler):
        async def aclose(self) -> None:
            raise OSError("still busy")

    handlers = {"knowledge_base": RecordingHandler(), "general_llm": Stuck(), "refusal": RecordingHandler()}
    classifier = ScriptedClassifier({})

    with pytest.raises(OSError, match="still busy"):
        await Router(classifier=classifier, handlers=handlers).aclose()

    assert (handlers["knowledge_base"].closed, handlers["refusal"].closed, classifier.closed) == (1, 1, 1)


async def test_a_classifier_that_answers_too_little_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    class Short(ScriptedClassifier):
        async def classify(self, windows: Sequence[Window]) -> list[Scores]:
            return (await super().classify(windows))[1:]

    decisions = await Router(classifier=Short(lambda window: "irrelevant")).decide_all(["a", "b"])

    assert [decision.reason for decision in decisions] == [Reason.GATEKEEPER_FAILED] * 2
    assert "expected 2 scores, got 1" in caplog.text
