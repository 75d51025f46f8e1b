import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints
from uuid import UUID, uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.decisions import Choice, Noul, Score
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import ChatPromptValue, ChatPromptValueConcrete, StringPromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnablePassthrough,
)
from langchain_core.runnables.graph import Graph
from pydantic import TypeAdapter

from pointsman.integrations import langchain
from pointsman.integrations.langchain import PointsmanDecisionModel, PointsmanRouter, as_edge, as_node, loops
from pointsman.integrations.langchain.cases import conversation_of
from pointsman.router import (
    DEFAULT_LABELS,
    ConfigurationError,
    Conversation,
    Decision,
    GatekeeperError,
    Handler,
    HandlerError,
    InputError,
    Label,
    Message,
    MissingDependencyError,
    Role,
    Router,
    Scores,
    Window,
)
from pointsman.router.testing import RecordingHandler, ScriptedClassifier

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "langchain_chain.py"
DATA, CHAT, OFF = "rerun the job", "hello", "weather?"
SCRIPT: Mapping[str, Any] = {
    DATA: "data_platform",
    CHAT: "general_chat",
    OFF: "irrelevant",
    "hm": {"data_platform": 0.2, "general_chat": 0.3, "irrelevant": 0.5},
    "boom": GatekeeperError("out of order"),
}
LABELS = [label.name for label in DEFAULT_LABELS]


class Counting(ScriptedClassifier):
    """Remembers how many windows each pass had."""

    def __init__(self, script: Any = SCRIPT, **settings: Any) -> None:
        super().__init__(script, **settings)
        self.passes: list[int] = []

    async def classify(self, windows: Sequence[Window]) -> list[Scores]:
        self.passes.append(len(windows))
        return await super().classify(windows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that a run told its callbacks."""

    kind: str
    run: UUID
    name: str = ""
    parent: UUID | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None
    data: Any = None


class Recorder(BaseCallbackHandler):
    """Keeps every event of chains and chat models."""

    run_inline = True

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **more: Any) -> None:
        self._started(run_id, more["name"], more)

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **more: Any) -> None:
        self._started(run_id, serialized["name"], more)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **more: Any) -> None:
        self.events.append(Event(kind="end", run=run_id, data=outputs))

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        self.events.append(Event(kind="error", run=run_id, data=error))

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **more: Any) -> None:
        self.events.append(Event(kind="custom", run=run_id, name=name, data=data))

    def _started(self, run: UUID, name: str, more: Mapping[str, Any]) -> None:
        self.events.append(
            Event(
                kind="start",
                run=run,
                name=name,
                parent=more.get("parent_run_id"),
                tags=tuple(more.get("tags") or ()),
                metadata=dict(more.get("metadata") or {}),
            )
        )

    def all(self, kind: str, name: str = "") -> list[Event]:
        return [event for event in self.events if event.kind == kind and (not name or event.name == name)]

    def one(self, kind: str, name: str = "") -> Event:
        [event] = self.all(kind, name)
        return event


def handlers(**other: Handler) -> dict[str, Handler]:
    return {
        "knowledge_base": RecordingHandler("from the handbook"),
        "general_llm": RecordingHandler("hi hi you"),
        "refusal": RecordingHandler("so sorry"),
        **other,
    }


def routing(script: Any = SCRIPT, *, by_route: Mapping[str, Handler] | None = None, **settings: Any) -> Router:
    return Router(classifier=ScriptedClassifier(script, **settings), handlers=handlers(**(by_route or {})))


def chained(branches: Mapping[str, Any] | None = None, **settings: Any) -> PointsmanRouter:
    return PointsmanRouter(router=routing(**settings), branches=branches)


def upper(text: Any) -> str:
    return str(text).upper()


def sees(value: Any, config: RunnableConfig) -> Any:
    """A branch that returns the decision it was given."""
    return config["metadata"]["pointsman"]


async def pieces_of(chain: Runnable[Any, Any], value: Any, config: RunnableConfig | None = None) -> list[Any]:
    return [piece async for piece in chain.astream(value, config)]


class Spoken:
    """Says one word, then waits for ever; remembers whether it was stopped."""

    def __init__(self) -> None:
        self.stopped = False
        self.waiting = asyncio.Event()

    async def words(self, value: Any) -> AsyncIterator[str]:
        try:
            yield "one"
            self.waiting.set()
            await asyncio.Event().wait()
            yield "never"
        finally:
            self.stopped = True

    def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        return self.words(conversation)

    async def aclose(self) -> None:
        pass


# --- where an input goes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        pytest.param(DATA, "RERUN THE JOB", id="a-branch-by-label"),
        pytest.param(CHAT, "hello to you", id="a-branch-by-route"),
        pytest.param(OFF, "so sorry", id="the-routers-own-handler"),
    ],
)
async def test_an_input_is_answered_by_its_branch_or_by_the_routers_handler(message: str, answer: str) -> None:
    chain = chained({"data_platform": upper, "general_llm": lambda text: f"{text} to you"})

    assert await chain.ainvoke(message) == answer
    assert "".join(await pieces_of(chain, message)) == answer
    assert await chain.abatch([message]) == [answer]


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        pytest.param(DATA, "RERUN THE JOB", id="a-branch-by-label"),
        pytest.param(CHAT, "hello to you", id="a-branch-by-route"),
        pytest.param(OFF, "so sorry", id="the-routers-own-handler"),
    ],
)
def test_code_that_is_not_async_gets_the_same_answers(message: str, answer: str) -> None:
    chain = chained({"data_platform": upper, "general_llm": lambda text: f"{text} to you"})

    assert chain.invoke(message) == answer
    assert "".join(chain.stream(message)) == answer
    assert chain.batch([message]) == [answer]
    assert list(chain.transform(iter([message]))) == list(chain.stream(message))


async def test_an_unsure_decision_takes_the_unsure_route_and_not_the_branch_of_its_label() -> None:
    labelled = {"irrelevant": lambda _: "refused", "data_platform": lambda _: "answered"}

    assert await chained(labelled, thresholds={"irrelevant": 0.9}).ainvoke("hm") == "answered"
    assert await chained(labelled).ainvoke("hm") == "refused"
    assert await chained({"irrelevant": upper}, thresholds={"irrelevant": 0.9}).ainvoke("hm") == "from the handbook"


async def test_a_routes_branch_takes_what_no_labels_branch_takes() -> None:
    chain = chained(
        {"data_platform": lambda _: "sure", "knowledge_base": lambda _: "unsure"}, thresholds={"irrelevant": 0.9}
    )

    assert await chain.abatch([DATA, "hm"]) == ["sure", "unsure"]


async def test_a_failing_gatekeeper_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    chain = chained({"data_platform": sees})

    assert (await chain.ainvoke("boom"))["reason"] == "gatekeeper_failed"
    assert "out of order" in caplog.text


async def test_labels_of_one_route_have_branches_of_their_own() -> None:
    labels = (*DEFAULT_LABELS, Label(name="lineage", route="knowledge_base"))
    script = {"where from?": "lineage", DATA: "data_platform"}
    chain = chained({"lineage": lambda _: "lineage"}, script=script, labels=labels)

    assert await chain.abatch([DATA, "where from?"]) == ["from the handbook", "lineage"]


async def test_branches_for_everything_need_no_handlers() -> None:
    chain = PointsmanRouter(router=Router(classifier=ScriptedClassifier(SCRIPT)), branches=dict.fromkeys(LABELS, upper))

    assert await chain.ainvoke(OFF) == "WEATHER?"


@pytest.mark.parametrize(
    ("branches", "handlers", "complaint"),
    [
        pytest.param({"sport": upper}, handlers(), "'sport' is neither a label nor a route; labels are", id="unknown"),
        pytest.param({"irrelevant": upper}, None, "no branch and no handler for data_platform, general_", id="missing"),
        pytest.param(None, None, "no branch and no handler for data_platform, general_chat, irrelevant", id="nothing"),
    ],
)
def test_a_router_that_could_not_answer_is_refused_at_construction(
    branches: Any, handlers: Any, complaint: str
) -> None:
    router = Router(classifier=ScriptedClassifier(SCRIPT), handlers=handlers)
    with pytest.raises(ConfigurationError, match=complaint):
        PointsmanRouter(router=router, branches=branches)


def test_a_name_that_is_a_label_and_the_route_of_another_one_is_refused() -> None:
    labels = (*DEFAULT_LABELS, Label(name="ticket", route="desk"), Label(name="desk", route="general_llm"))
    with pytest.raises(ConfigurationError, match="'desk' is a label, and also the route of another one"):
        chained({"desk": upper}, labels=labels, by_route={"desk": RecordingHandler()})


async def test_a_decision_for_a_route_that_came_later_is_a_clear_error() -> None:
    chain = chained()
    later = Label(name="ticket", route="desk")
    chain.router._policy = ScriptedClassifier(SCRIPT, labels=(*DEFAULT_LABELS, later)).policy
    chain.router._classifier = ScriptedClassifier({**SCRIPT, "help": "ticket"}, labels=(*DEFAULT_LABELS, later))

    with pytest.raises(ConfigurationError, match="no branch for the route 'desk'; there are knowledge_base"):
        await chain.ainvoke("help")
    assert await chain.ainvoke(OFF) == "so sorry"


async def test_what_a_branch_raises_reaches_the_caller() -> None:
    broken = RecordingHandler("so far", error=HandlerError("hung up"))
    chain = chained({"data_platform": RunnableLambda(lambda _: 1 / 0)}, by_route={"general_llm": broken})

    with pytest.raises(ZeroDivisionError):
        await chain.ainvoke(DATA)
    with pytest.raises(HandlerError, match="hung up"):
        await chain.ainvoke(CHAT)


# --- inputs ------------------------------------------------------------------------------------------------------

TURNS = [SystemMessage("be brief"), HumanMessage("a"), AIMessage("b"), HumanMessage(DATA)]
INPUTS = [
    pytest.param(DATA, id="text"),
    pytest.param([HumanMessage(DATA)], id="messages"),
    pytest.param((HumanMessage(DATA),), id="tuple"),
    pytest.param([("human", DATA)], id="pairs"),
    pytest.param([{"role": "user", "content": DATA}], id="openai-messages"),
    pytest.param({"messages": [HumanMessage(DATA)], "language": "en"}, id="mapping"),
    pytest.param(StringPromptValue(text=DATA), id="string-prompt"),
    pytest.param(ChatPromptValue(messages=[HumanMessage(DATA)]), id="chat-prompt"),
    pytest.param([HumanMessageChunk(content=DATA)], id="chunk"),
]


@pytest.mark.parametrize("value", INPUTS)
async def test_a_branch_gets_the_input_unchanged_in_whatever_form_it_comes(value: Any) -> None:
    chain = chained({"data_platform": RunnablePassthrough()})

    assert await chain.ainvoke(value) is value
    assert await pieces_of(chain, value) == [value]
    assert (await chain.abatch([value]))[0] is value


async def test_the_gatekeeper_reads_the_turn_before_and_a_handler_the_whole_conversation() -> None:
    chain = chained()
    call = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}])
    parts: list[Any] = [{"type": "text", "text": "rerun"}, {"type": "image_url", "image_url": {"url": "x"}}, "the job"]

    await chain.ainvoke([*TURNS, call, ToolMessage("42", tool_call_id="1"), HumanMessage(parts)])

    gatekeeper, handler = chain.router._classifier, chain.router._handlers["knowledge_base"]
    assert isinstance(gatekeeper, ScriptedClassifier)
    assert isinstance(handler, RecordingHandler)
    assert gatekeeper.windows[0].message == DATA
    assert gatekeeper.windows[0].previous_user == DATA
    [(conversation, decision)] = handler.calls
    assert [(message.role, message.content) for message in conversation.messages] == [
        (Role.SYSTEM, "be brief"),
        (Role.USER, "a"),
        (Role.ASSISTANT, "b"),
        (Role.USER, DATA),
        (Role.ASSISTANT, ""),
        (Role.TOOL, "42"),
        (Role.USER, "rerun\nthe job"),
    ]
    assert decision.label == "data_platform"


@pytest.mark.parametrize(
    ("message", "role"),
    [
        pytest.param(AIMessageChunk(content="x"), Role.ASSISTANT, id="assistant-chunk"),
        pytest.param(FunctionMessage(content="x", name="f"), Role.TOOL, id="function"),
        pytest.param(ChatMessage(content="x", role="assistant"), Role.ASSISTANT, id="chat-message"),
        pytest.param(ChatMessage(content="x", role="human"), Role.USER, id="chat-message-of-langchains-own-role"),
        pytest.param({"role": "developer", "content": "x"}, Role.SYSTEM, id="developer"),
    ],
)
def test_every_kind_of_message_has_a_role(message: Any, role: Role) -> None:
    assert conversation_of([HumanMessage("a"), message]).messages[1] == Message(role=role, content="x")


def test_a_conversation_of_ours_and_a_single_message_are_read_too() -> None:
    ours = Conversation.of("a")
    assert conversation_of(ours) is ours
    assert conversation_of(HumanMessage("a")) == ours
    assert conversation_of({"messages": "a"}) == ours


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        pytest.param([], "a HumanMessage is needed to route on, got no message at all", id="empty"),
        pytest.param([SystemMessage("x"), AIMessage("y")], "got SystemMessage, AIMessage", id="nobody-asks"),
        pytest.param({"question": "x"}, r"must have the key 'messages' to be routed, got \['question'\]", id="mapping"),
        pytest.param(7, "expected a text, messages, a prompt value or .* got int", id="number"),
        pytest.param(b"x", "got bytes", id="bytes"),
        pytest.param(None, "got NoneType", id="none"),
        pytest.param([7], "the messages cannot be read: Unsupported message type", id="no-message"),
        pytest.param([("judge", "x")], "the messages cannot be read: Unexpected message type", id="role"),
        pytest.param(
            [HumanMessage("x"), ChatMessage(content="y", role="judge")], "`role` must be one of .* 'judge'", id="chat"
        ),
        pytest.param([HumanMessage("x"), RemoveMessage(id="1")], "`role` must be one of .* 'remove'", id="removal"),
    ],
)
async def test_what_is_no_conversation_is_refused_and_the_run_ends_with_it(value: Any, complaint: str) -> None:
    chain, recorder = chained({"data_platform": upper}), Recorder()

    with pytest.raises(InputError, match=complaint):
        await chain.ainvoke(value, {"callbacks": [recorder]})
    with pytest.raises(InputError, match=complaint):
        await pieces_of(chain, value)
    with pytest.raises(InputError, match=complaint):
        await chain.abatch([value])

    assert isinstance(recorder.one("error").data, InputError)
    assert chain.router._classifier.windows == []  # type: ignore[attr-defined]


# --- runs: callbacks, tags, metadata, config -----------------------------------------------------------------------


async def invoked(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> None:
    await chain.ainvoke(value, config)


async def streamed(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> None:
    async for _ in chain.astream(value, config):
        pass


async def batched(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> None:
    await chain.abatch([value], [config])


def invoked_now(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> None:
    chain.invoke(value, config)


def streamed_now(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> None:
    list(chain.stream(value, config))


def batched_now(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> None:
    chain.batch([value], [config])


ASYNC = [pytest.param(way, id=way.__name__) for way in (invoked, streamed, batched)]
NOW = [pytest.param(way, id=way.__name__) for way in (invoked_now, streamed_now, batched_now)]


def check_the_run(recorder: Recorder, run_id: UUID) -> None:
    own, branch, model = (
        recorder.one("start", name) for name in ("PointsmanRouter", "RunnableSequence", "FakeListChatModel")
    )
    assert (own.run, own.parent) == (run_id, None)
    assert branch.parent == own.run
    assert model.parent == branch.run
    for event in (own, branch, model):
        assert {"mine", "route:data_platform"} <= set(event.tags)
        assert event.metadata is not None
        assert event.metadata["user"] == "ana"
        decision = event.metadata["pointsman"]
        assert (decision["label"], decision["route"]) == ("data_platform", "knowledge_base")
        assert json.loads(json.dumps(decision))["bundle"] == "scripted"
    told = recorder.one("custom", "route_decision")
    assert told.run == own.run
    assert told.data == own.metadata["pointsman"]  # type: ignore[index]
    order = [event for event in recorder.events if event in (own, told, branch)]
    assert order == [own, told, branch]
    assert recorder.all("end")[-1].run == own.run
    assert recorder.all("error") == []


def model_chain(text: str = "use the scheduler") -> Runnable[Any, Any]:
    return (
        ChatPromptTemplate.from_template("Answer: {question}") | FakeListChatModel(responses=[text]) | StrOutputParser()
    )


@pytest.mark.parametrize("way", ASYNC)
async def test_the_run_and_all_below_it_carry_tag_metadata_and_event(way: Callable[..., Any]) -> None:
    recorder, run_id = Recorder(), uuid4()
    config = RunnableConfig(callbacks=[recorder], tags=["mine"], metadata={"user": "ana"}, run_id=run_id)

    await way(chained({"data_platform": model_chain()}), DATA, config)

    check_the_run(recorder, run_id)
    assert config["tags"] == ["mine"]
    assert config["metadata"] == {"user": "ana"}


@pytest.mark.parametrize("way", NOW)
def test_the_run_of_code_that_is_not_async_carries_them_too(way: Callable[..., Any]) -> None:
    recorder, run_id = Recorder(), uuid4()
    config = RunnableConfig(callbacks=[recorder], tags=["mine"], metadata={"user": "ana"}, run_id=run_id)

    way(chained({"data_platform": model_chain()}), DATA, config)

    check_the_run(recorder, run_id)


async def test_a_label_that_was_not_followed_is_tagged_with_the_reason() -> None:
    recorder = Recorder()
    await chained(thresholds={"irrelevant": 0.9}).ainvoke("hm", {"callbacks": [recorder]})

    assert recorder.one("start", "PointsmanRouter").tags == ("route:irrelevant", "reason:unsure")


async def test_the_routers_own_handler_is_a_run_below_with_its_name() -> None:
    recorder = Recorder()
    await chained(by_route={"refusal": RecordingHandler("no")}).ainvoke(OFF, {"callbacks": [recorder]})

    own, handler = recorder.one("start", "PointsmanRouter"), recorder.one("start", "RecordingHandler")
    assert handler.parent == own.run
    assert [event.data for event in recorder.all("end")] == ["no", "no"]


async def test_a_branch_sees_the_decision_and_what_the_caller_configured() -> None:
    async def tells(value: str, config: RunnableConfig) -> dict[str, Any]:
        return {"label": config["metadata"]["pointsman"]["label"], "tenant": config["configurable"]["tenant"]}

    chain = chained({"general_chat": tells})
    config = RunnableConfig(configurable={"tenant": "north"})
    expected = {"label": "general_chat", "tenant": "north"}

    assert await chain.ainvoke(CHAT, config) == expected
    assert await pieces_of(chain, CHAT, config) == [expected]
    assert await chain.abatch([CHAT, CHAT], config) == [expected, expected]


async def test_a_configurable_field_of_a_branch_is_set_through_the_router() -> None:
    model = FakeListChatModel(responses=["by default"]).configurable_fields(responses=ConfigurableField(id="said"))
    chain = chained({"general_chat": model | StrOutputParser()})
    config = RunnableConfig(configurable={"said": ["as configured"]})

    assert [spec.id for spec in chain.config_specs] == ["said"]
    assert "said" in json.dumps(chain.get_config_jsonschema())
    assert await chain.ainvoke(CHAT) == "by default"
    assert await chain.ainvoke(CHAT, config) == "as configured"
    assert "".join(await pieces_of(chain, CHAT, config)) == "as configured"
    assert await chain.abatch([CHAT], config) == ["as configured"]


async def test_the_router_itself_can_have_configurable_fields() -> None:
    recorder = Recorder()
    chain = chained({"general_chat": upper}).configurable_fields(name=ConfigurableField(id="called"))

    assert await chain.ainvoke(CHAT, {"callbacks": [recorder], "configurable": {"called": "points"}}) == "HELLO"
    assert recorder.one("start", "points").tags == ("route:general_chat",)


async def test_further_arguments_reach_the_branch_and_not_the_routers_handler() -> None:
    def said(value: Any, *, tone: str = "none") -> str:
        return tone

    chain = chained({"general_chat": said}).bind(tone="kind")

    assert await chain.ainvoke(CHAT) == "kind"
    assert await chain.abatch([CHAT, OFF]) == ["kind", "so sorry"]
    assert await pieces_of(chain, OFF) == ["so", " sorry"]


async def test_run_name_and_own_name_are_kept() -> None:
    recorder = Recorder()
    chain = PointsmanRouter(router=routing(), branches={}, name="front desk")

    await chain.ainvoke(CHAT, {"callbacks": [recorder]})
    await chain.ainvoke(CHAT, {"callbacks": [recorder], "run_name": "once"})

    starts = [event.name for event in recorder.all("start") if event.parent is None]
    assert starts == ["front desk", "once"]


async def test_a_failing_branch_is_an_error_of_the_run() -> None:
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError):
        await chained({"general_chat": lambda _: 1 / 0}).ainvoke(CHAT, {"callbacks": [recorder]})

    assert [type(event.data) for event in recorder.all("error")] == [ZeroDivisionError, ZeroDivisionError]


async def test_an_error_of_the_decision_is_an_error_of_the_run() -> None:
    recorder = Recorder()
    with pytest.raises(ConfigurationError, match="the script has no answer"):
        await chained().ainvoke("unheard", {"callbacks": [recorder]})

    assert recorder.one("error").run == recorder.one("start", "PointsmanRouter").run


async def test_events_come_in_the_order_of_what_happens() -> None:
    prompt = ChatPromptTemplate.from_template("{question}")
    chain = prompt | chained({"data_platform": FakeListChatModel(responses=["ab"])}) | StrOutputParser()
    events = [event async for event in chain.astream_events({"question": DATA}, version="v2")]

    ours = [(event["event"], event["name"]) for event in events if event["name"] != "RunnableSequence"]
    assert ours == [
        ("on_prompt_start", "ChatPromptTemplate"),
        ("on_prompt_end", "ChatPromptTemplate"),
        ("on_chain_start", "PointsmanRouter"),
        ("on_custom_event", "route_decision"),
        ("on_chat_model_start", "FakeListChatModel"),
        ("on_chat_model_stream", "FakeListChatModel"),
        ("on_chain_stream", "PointsmanRouter"),
        ("on_parser_start", "StrOutputParser"),
        ("on_parser_stream", "StrOutputParser"),
        ("on_chat_model_stream", "FakeListChatModel"),
        ("on_chain_stream", "PointsmanRouter"),
        ("on_parser_stream", "StrOutputParser"),
        ("on_chat_model_end", "FakeListChatModel"),
        ("on_chain_end", "PointsmanRouter"),
        ("on_parser_end", "StrOutputParser"),
    ]
    routed = [event for event in events if event["name"] == "PointsmanRouter"]
    assert all("route:data_platform" in event["tags"] for event in routed)
    assert all(event["metadata"]["pointsman"]["label"] == "data_platform" for event in routed)
    assert routed[-1]["data"]["output"].content == "ab"


async def test_events_of_the_routers_own_handler_stream_too() -> None:
    events = [event async for event in chained().astream_events(CHAT, version="v2", include_names=["PointsmanRouter"])]

    assert [event["data"]["chunk"] for event in events if event["event"] == "on_chain_stream"] == ["hi", " hi", " you"]


async def test_a_chain_that_calls_the_router_without_a_config_is_still_its_parent() -> None:
    recorder, chain = Recorder(), chained({"general_chat": upper})

    async def outer(value: str) -> str:
        return str(await chain.ainvoke(value))

    assert await RunnableLambda(outer).ainvoke(CHAT, {"callbacks": [recorder]}) == "HELLO"
    assert recorder.one("start", "PointsmanRouter").parent == recorder.one("start", "outer").run


# --- streams -----------------------------------------------------------------------------------------------------


async def test_the_chunks_of_the_branch_are_streamed_one_by_one() -> None:
    chain = ChatPromptTemplate.from_template("{question}") | chained({"general_chat": model_chain("abc")})
    assert await pieces_of(chained({"general_chat": model_chain("abc")}), CHAT) == ["a", "b", "c"]
    assert [chunk async for chunk in chain.astream({"question": CHAT})] == ["a", "b", "c"]
    assert await pieces_of(chained(), CHAT) == ["hi", " hi", " you"]


async def test_the_first_chunk_does_not_wait_for_the_last() -> None:
    spoken = Spoken()
    async with aclosing(chained({"general_chat": spoken.words}).astream(CHAT)) as stream:  # type: ignore[type-var]
        assert await anext(stream) == "one"


@pytest.mark.parametrize("own", [pytest.param(False, id="branch"), pytest.param(True, id="own-handler")])
async def test_closing_the_stream_closes_the_branch_at_once(own: bool) -> None:  # noqa: FBT001
    spoken = Spoken()
    chain = chained(by_route={"general_llm": spoken}) if own else chained({"general_chat": spoken.words})

    stream = chain.astream(CHAT)
    assert await anext(stream) == "one"
    assert not spoken.stopped
    await stream.aclose()  # type: ignore[attr-defined]

    assert spoken.stopped


@pytest.mark.parametrize("own", [pytest.param(False, id="branch"), pytest.param(True, id="own-handler")])
@pytest.mark.parametrize("way", ASYNC)
async def test_a_cancelled_caller_stops_the_branch(way: Callable[..., Any], own: bool) -> None:  # noqa: FBT001
    spoken = Spoken()
    chain = chained(by_route={"general_llm": spoken}) if own else chained({"general_chat": spoken.words})

    task = asyncio.create_task(way(chain, CHAT, RunnableConfig()))
    await spoken.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert spoken.stopped


async def test_input_that_comes_in_pieces_is_routed_when_it_is_whole() -> None:
    async def pieces() -> AsyncIterator[str]:
        for piece in ("re", "run the", " job"):
            yield piece

    chain = chained({"data_platform": model_chain("abc")})

    assert [chunk async for chunk in chain.atransform(pieces())] == ["a", "b", "c"]


async def test_an_iterator_that_is_no_generator_is_streamed_too(plain_iterator: type[Any]) -> None:
    class Plain(RecordingHandler):
        def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
            pieces: AsyncIterator[str] = plain_iterator("a", "b")
            return pieces

    chain = chained(by_route={"general_llm": Plain()})
    assert await pieces_of(chain, CHAT) == ["a", "b"]
    assert await asyncio.to_thread(lambda: list(chain.stream(CHAT))) == ["a", "b"]


async def test_a_handler_that_says_nothing_is_an_empty_text() -> None:
    class Silent(RecordingHandler):
        async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
            return
            yield

    chain = chained(by_route={"general_llm": Silent()})

    assert await chain.ainvoke(CHAT) == ""
    assert await pieces_of(chain, CHAT) == [""]
    assert await asyncio.to_thread(chain.invoke, CHAT) == ""


# --- batches -----------------------------------------------------------------------------------------------------


async def test_a_batch_is_one_pass_of_the_gatekeeper_and_one_batch_a_branch() -> None:
    sizes: list[int] = []

    class Batching(RunnablePassthrough[Any]):
        async def abatch(self, inputs: list[Any], config: Any = None, **more: Any) -> list[Any]:
            sizes.append(len(inputs))
            return await super().abatch(inputs, config, **more)

    gatekeeper = Counting()
    chain = PointsmanRouter(
        router=Router(classifier=gatekeeper, handlers=handlers()), branches={"data_platform": Batching()}
    )

    assert await chain.abatch([DATA, CHAT, DATA, OFF, DATA]) == [DATA, "hi hi you", DATA, "so sorry", DATA]
    assert (gatekeeper.passes, sizes) == ([5], [3])


def test_a_batch_of_code_that_is_not_async_is_one_pass_too() -> None:
    gatekeeper = Counting()
    router = Router(classifier=gatekeeper, handlers=handlers())
    chain = PointsmanRouter(router=router, branches={"data_platform": upper})

    assert chain.batch([CHAT, DATA, OFF]) == ["hi hi you", "RERUN THE JOB", "so sorry"]
    assert gatekeeper.passes == [3]


@pytest.mark.parametrize("wrap", [lambda c: RunnablePassthrough() | c | upper, lambda c: c.with_config(tags=["x"])])
async def test_a_chain_around_the_router_keeps_its_batch(wrap: Callable[[Any], Any]) -> None:
    gatekeeper = Counting()
    chain = PointsmanRouter(router=Router(classifier=gatekeeper, handlers=handlers()))

    assert len(await wrap(chain).abatch([CHAT, OFF, DATA])) == 3
    assert gatekeeper.passes == [3]


FAILING: Mapping[str, Any] = {"general_chat": lambda _: 1 / 0}
MIXED: list[Any] = [CHAT, DATA, 7, OFF, CHAT]


def check_mixed(answers: Sequence[Any]) -> None:
    assert [type(answer).__name__ for answer in answers] == [
        "ZeroDivisionError",
        "str",
        "InputError",
        "str",
        "ZeroDivisionError",
    ]
    assert (answers[1], answers[3]) == ("from the handbook", "so sorry")


async def test_errors_are_returned_in_their_places_and_cost_the_others_nothing() -> None:
    check_mixed(await chained(FAILING).abatch(MIXED, return_exceptions=True))
    with pytest.raises(ZeroDivisionError):
        await chained(FAILING).abatch(MIXED)


def test_errors_of_a_batch_that_is_not_async_are_returned_in_their_places() -> None:
    check_mixed(chained(FAILING).batch(MIXED, return_exceptions=True))
    with pytest.raises(ZeroDivisionError):
        chained(FAILING).batch(MIXED)


async def test_an_error_in_a_branchs_batch_costs_its_neighbours_nothing() -> None:
    def picky(value: str) -> str:
        if value == "b":
            raise OSError(value)
        return value

    chain = chained({"general_chat": picky}, script=lambda _: "general_chat")
    for answers in (
        await chain.abatch(["a", "b", "c"], return_exceptions=True),
        await asyncio.to_thread(lambda: chain.batch(["a", "b", "c"], return_exceptions=True)),
    ):
        assert (answers[0], str(answers[1]), answers[2]) == ("a", "b", "c")
        assert isinstance(answers[1], OSError)


async def test_each_run_of_a_batch_ends_with_its_own_outcome() -> None:
    recorders = [Recorder() for _ in MIXED]
    configs = [RunnableConfig(callbacks=[recorder]) for recorder in recorders]

    await chained(FAILING).abatch(MIXED, configs, return_exceptions=True)

    own = [recorder.all("start", "PointsmanRouter")[0] for recorder in recorders]
    assert [event.tags for event in own] == [
        ("route:general_chat",),
        ("route:data_platform",),
        (),
        ("route:irrelevant",),
        ("route:general_chat",),
    ]
    outcomes = [recorder.events[-1] for recorder in recorders]
    assert [event.kind for event in outcomes] == ["error", "end", "error", "end", "error"]
    assert [event.run for event in outcomes] == [event.run for event in own]


async def test_a_branch_that_raises_out_of_its_batch_fails_alone() -> None:
    """A FakeListChatModel does not know `return_exceptions`, and neither does many a branch of a user's."""

    class Raising(RunnablePassthrough[Any]):
        def batch(self, *args: Any, **kwargs: Any) -> list[Any]:
            raise OSError("down")

        async def abatch(self, *args: Any, **kwargs: Any) -> list[Any]:
            raise OSError("down")

    class Short(RunnablePassthrough[Any]):
        async def abatch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
            return inputs[1:]

    chain = chained({"data_platform": Raising(), "general_chat": Short()})

    answers = await chain.abatch([DATA, CHAT, OFF, CHAT], return_exceptions=True)
    assert [type(answer) for answer in answers] == [OSError, ValueError, str, ValueError]
    answers = await asyncio.to_thread(lambda: chain.batch([DATA, OFF], return_exceptions=True))
    assert [type(answer) for answer in answers] == [OSError, str]


async def test_a_batch_keeps_to_the_callers_concurrency() -> None:
    now, most = 0, 0

    async def busy(value: str) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(3):
            await asyncio.sleep(0)
        now -= 1
        return value

    chain = chained(dict.fromkeys(LABELS, busy))
    messages = [DATA, CHAT, OFF] * 4

    assert await chain.abatch(messages, {"max_concurrency": 2}) == messages
    assert most == 2
    assert await chain.abatch(messages) == messages
    assert most == 12


def test_a_batch_of_code_that_is_not_async_keeps_to_it_too() -> None:
    turn = threading.Lock()

    def busy(value: str) -> str:
        assert turn.acquire(blocking=False), "two at once"
        time.sleep(0.005)
        turn.release()
        return value

    messages = [DATA, CHAT, OFF] * 2
    assert chained(dict.fromkeys(LABELS, busy)).batch(messages, {"max_concurrency": 1}) == messages


def test_branches_of_a_batch_that_is_not_async_work_at_once() -> None:
    together = threading.Barrier(3, timeout=10)

    def meets(value: str) -> str:
        together.wait()
        return value

    assert chained(dict.fromkeys(LABELS, meets)).batch([DATA, CHAT, OFF]) == [DATA, CHAT, OFF]


async def test_nothing_makes_an_empty_batch() -> None:
    gatekeeper = Counting()
    chain = PointsmanRouter(router=Router(classifier=gatekeeper, handlers=handlers()))

    assert await chain.abatch([]) == []
    assert await asyncio.to_thread(chain.batch, []) == []
    assert gatekeeper.passes == []


async def test_a_batch_takes_one_config_for_all_or_one_each_and_no_other_number() -> None:
    chain = chained({"general_chat": lambda _, config: config["tags"]})

    assert await chain.abatch([CHAT, CHAT], [{"tags": ["a"]}, {"tags": ["b"]}]) == [
        ["a", "route:general_chat"],
        ["b", "route:general_chat"],
    ]
    with pytest.raises(ValueError, match="same length"):
        await chain.abatch([CHAT, CHAT], [{"tags": ["a"]}])


# --- at once -----------------------------------------------------------------------------------------------------


async def test_two_hundred_requests_at_once_do_not_hear_each_other() -> None:
    script = {f"message {number}": LABELS[number % 3] for number in range(200)}

    async def tells(value: str, config: RunnableConfig) -> AsyncIterator[Any]:
        for turn in range(3):
            await asyncio.sleep(0)
            told = config["metadata"]["pointsman"]
            yield [(value, told["id"], told["label"], config["configurable"]["user"], turn)]

    async def talk(number: int) -> None:
        message, recorder = f"message {number}", Recorder()
        config = RunnableConfig(callbacks=[recorder], configurable={"user": number}, tags=[f"tag {number}"])
        if number % 2:
            said = [word async for words in chain.astream(message, config) for word in words]
        else:
            said = await chain.ainvoke(message, config)
        own = recorder.one("start", "PointsmanRouter")
        assert own.tags == (f"tag {number}", f"route:{LABELS[number % 3]}")
        decision = own.metadata["pointsman"]  # type: ignore[index]
        assert said == [(message, decision["id"], LABELS[number % 3], number, turn) for turn in range(3)]
        identities.add(decision["id"])

    chain = chained(dict.fromkeys(LABELS, RunnableLambda(tells)), script=script)
    before = dict(chain.__dict__)
    identities: set[str] = set()

    await asyncio.gather(*map(talk, range(200)))

    assert len(identities) == 200
    assert chain.__dict__ == before


def test_requests_from_many_threads_do_not_hear_each_other() -> None:
    chain = chained(
        {"general_chat": lambda value, config: (value, config["configurable"]["user"])}, script=lambda _: "general_chat"
    )
    heard: dict[int, Any] = {}

    def talk(number: int) -> None:
        heard[number] = chain.invoke(f"message {number}", {"configurable": {"user": number}})

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert heard == {number: (f"message {number}", number) for number in range(20)}


# --- which loop --------------------------------------------------------------------------------------------------


class Settled(RecordingHandler):
    """Remembers on which loop it spoke."""

    def __init__(self) -> None:
        super().__init__("a b")
        self.loops: set[asyncio.AbstractEventLoop] = set()

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        self.loops.add(asyncio.get_running_loop())
        yield "a"
        self.loops.add(asyncio.get_running_loop())
        yield "b"


async def test_a_thread_waits_for_the_loop_that_the_router_belongs_to() -> None:
    handler = Settled()
    chain = chained(by_route={"general_llm": handler})

    assert await asyncio.to_thread(chain.invoke, CHAT) == "ab"
    assert await asyncio.to_thread(lambda: list(chain.stream(CHAT))) == ["a", "b"]
    assert await asyncio.to_thread(chain.batch, [CHAT, CHAT]) == ["ab", "ab"]
    assert handler.loops == {asyncio.get_running_loop()}


async def test_code_on_that_loop_is_told_to_await() -> None:
    chain = chained({"data_platform": upper})

    for call in (lambda: chain.invoke(DATA), lambda: chain.batch([DATA]), lambda: next(chain.stream(DATA))):
        with pytest.raises(ConfigurationError, match="await ainvoke or abatch, or iterate over astream"):
            call()


def test_without_a_running_loop_the_router_lives_on_one_of_ours() -> None:
    handler = Settled()
    chain = chained(by_route={"general_llm": handler})

    assert [chain.invoke(CHAT), "".join(chain.stream(CHAT)), *chain.batch([CHAT])] == ["ab", "ab", "ab"]
    assert handler.loops == {loops._ours.loop}


def test_a_loop_that_has_ended_is_not_waited_for() -> None:
    handler = Settled()

    async def make() -> PointsmanRouter:
        return chained(by_route={"general_llm": handler})

    chain = asyncio.run(make())

    assert chain.invoke(CHAT) == "ab"
    assert handler.loops == {loops._ours.loop}


def test_a_loop_that_comes_later_takes_the_router_over_from_ours() -> None:
    handler = Settled()
    chain = chained(by_route={"general_llm": handler})
    chain.invoke(CHAT)
    handler.loops.clear()

    async def main() -> asyncio.AbstractEventLoop:
        await chain.ainvoke(CHAT)
        await asyncio.to_thread(chain.invoke, CHAT)
        return asyncio.get_running_loop()

    assert handler.loops == set()
    assert asyncio.run(main()) in handler.loops
    assert len(handler.loops) == 1


def test_our_loop_is_started_anew_where_its_thread_is_gone() -> None:
    thread = loops._LoopThread()
    first = thread.start()
    assert thread.start() is first
    first.call_soon_threadsafe(first.stop)
    assert thread._thread is not None
    thread._thread.join()
    first.close()

    second = thread.start()
    assert second is not first
    second.call_soon_threadsafe(second.stop)
    thread._thread.join()
    second.close()


def test_a_stream_that_is_left_early_is_closed_on_the_routers_loop() -> None:
    stopped: list[asyncio.AbstractEventLoop] = []

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "x"
        finally:
            stopped.append(asyncio.get_running_loop())

    class Endless(RecordingHandler):
        def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
            return kept

    kept = endless()  # a reference, so that no garbage collection closes it
    with closing(chained(by_route={"general_llm": Endless()}).stream(CHAT)) as stream:  # type: ignore[type-var]
        assert next(stream) == "x"

    assert stopped == [loops._ours.loop]


def test_an_interrupted_caller_cancels_what_it_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupted(self: Any, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loops.wait(loops._ours.start(), endless())

    assert cancelled.wait(5)


def test_branches_of_code_that_is_not_async_run_in_the_callers_thread() -> None:
    chain = chained({"general_chat": lambda _: threading.get_ident()})

    assert chain.invoke(CHAT) == threading.get_ident()
    assert list(chain.stream(CHAT)) == [threading.get_ident()]


# --- composition -------------------------------------------------------------------------------------------------


async def test_prompt_model_and_parser_compose_with_the_router() -> None:
    chain = (
        ChatPromptTemplate([("system", "You help."), ("placeholder", "{messages}")])
        | chained({"general_chat": FakeListChatModel(responses=["Hello!"]), "data_platform": model_chain()})
        | StrOutputParser()
    )

    assert await chain.ainvoke({"messages": [HumanMessage(CHAT)]}) == "Hello!"
    assert "".join([piece async for piece in chain.astream({"messages": [("human", CHAT)]})]) == "Hello!"
    assert await chain.ainvoke({"messages": [HumanMessage(OFF)]}) == "so sorry"


async def test_fallbacks_take_over_where_a_branch_fails() -> None:
    chain = chained(FAILING).with_fallbacks([RunnableLambda(lambda _: "plan b")])

    assert await chain.ainvoke(CHAT) == "plan b"
    assert await chain.ainvoke(OFF) == "so sorry"
    assert await chain.abatch([OFF, CHAT]) == ["so sorry", "plan b"]
    assert await pieces_of(chain, CHAT) == ["plan b"]
    assert await asyncio.to_thread(chain.invoke, CHAT) == "plan b"


async def test_retries_ask_again() -> None:
    attempts: list[str] = []

    def flaky(value: str) -> str:
        attempts.append(value)
        if len(attempts) % 2:
            raise OSError("busy")
        return value

    gatekeeper = Counting()
    router = Router(classifier=gatekeeper, handlers=handlers())
    chain = PointsmanRouter(router=router, branches={"general_chat": flaky})
    again = chain.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)

    assert await again.ainvoke(CHAT) == CHAT
    assert await again.abatch([CHAT, OFF]) == [CHAT, "so sorry"]
    assert gatekeeper.passes == [1, 1, 2, 1]


async def test_a_router_can_be_a_branch_of_another_one() -> None:
    inner = chained({"general_chat": lambda _, config: config["tags"]})

    assert await chained({"general_chat": inner}).ainvoke(CHAT) == ["route:general_chat", "route:general_chat"]


async def test_functions_mappings_and_generators_are_branches_too() -> None:
    async def words(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
        async for chunk in chunks:
            yield chunk
            yield "!"

    chain = chained({"data_platform": {"loud": upper}, "general_chat": RunnableGenerator(words)})

    assert await chain.ainvoke(DATA) == {"loud": "RERUN THE JOB"}
    assert await pieces_of(chain, CHAT) == [CHAT, "!"]
    with pytest.raises(TypeError, match="Expected a Runnable, callable or dict"):
        chained({"data_platform": 7})


def test_a_router_does_not_change_and_is_not_serialised() -> None:
    chain = chained({"general_chat": upper})

    assert dumpd(chain)["type"] == "not_implemented"
    with pytest.raises(ValueError, match="frozen"):
        chain.branches = {}


# --- schemas and drawing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(DATA, id="text"),
        pytest.param([HumanMessage(DATA), AIMessage("x")], id="messages"),
        pytest.param({"messages": [HumanMessage(DATA)], "language": "en"}, id="mapping"),
        pytest.param(StringPromptValue(text=DATA), id="string-prompt"),
        pytest.param(ChatPromptValueConcrete(messages=[HumanMessage(DATA)]), id="chat-prompt"),
    ],
)
def test_the_input_schema_takes_what_a_chat_model_takes_and_the_mapping(value: Any) -> None:
    TypeAdapter(chained().input_schema).validate_python(value)


def test_the_schemas_are_json() -> None:
    chain = chained({"general_chat": FakeListChatModel(responses=["x"]), "data_platform": len})

    read, written = chain.get_input_jsonschema(), chain.get_output_jsonschema()
    assert "Messages" in read["$defs"]
    assert "string" in [form.get("type") for form in read["anyOf"]]
    assert "AIMessage" in written["$defs"]
    assert json.dumps([read, written])
    assert chained().get_output_jsonschema()["type"] == "string"


def test_a_branch_that_cannot_tell_its_output_allows_anything() -> None:
    class Untold(RunnablePassthrough[Any]):
        @property
        def OutputType(self) -> Any:  # noqa: N802
            raise TypeError("no inferable OutputType")

    schema: Any = chained({"general_chat": Untold()}).output_schema
    assert schema.model_validate({"any": "thing"}).root == {"any": "thing"}


def test_the_drawing_has_every_branch_under_its_label_or_route() -> None:
    chain = chained({"data_platform": model_chain(), "general_llm": FakeListChatModel(responses=["x"])})

    mermaid = chain.get_graph().draw_mermaid()
    for name in ("ChatPromptTemplate", "StrOutputParser", "FakeListChatModel", "RecordingHandler"):
        assert name in mermaid
    for edge in ("data_platform", "general_llm", "refusal"):
        assert f"&nbsp;{edge}&nbsp;" in mermaid
    assert len([edge for edge in chain.get_graph().edges if edge.conditional]) == 3


def test_a_drawing_of_a_chain_around_a_router_in_a_router_holds_together() -> None:
    inner = PointsmanRouter(router=routing(), branches={"data_platform": model_chain()}, name="inner")
    chain = RunnablePassthrough[Any]() | chained({"general_chat": inner}) | StrOutputParser()

    graph = chain.get_graph()
    assert graph.first_node() is not None
    assert graph.last_node() is not None
    assert "inner" in graph.draw_mermaid()
    assert [prompt.input_variables for prompt in chain.get_prompts()] == [["question"]]


def test_branches_whose_nodes_have_the_same_names_do_not_melt_into_one() -> None:
    class Compiled(RunnablePassthrough[Any]):
        """Draws itself as a LangGraph graph does, with names for ids."""

        def get_graph(self, config: RunnableConfig | None = None) -> Graph:
            graph = Graph()
            nodes = [graph.add_node(None, id=name) for name in ("__start__", "agent", "__end__")]
            graph.add_edge(nodes[0], nodes[1])
            graph.add_edge(nodes[1], nodes[2])
            return graph

    graph = chained({"general_chat": Compiled(), "data_platform": Compiled()}).get_graph()

    assert {"general_chat:agent", "data_platform:agent"} <= set(graph.nodes)


def test_a_branch_whose_drawing_has_several_ends_is_drawn_as_one_node() -> None:
    class Forked(RunnablePassthrough[Any]):
        def get_graph(self, config: RunnableConfig | None = None) -> Graph:
            graph = Graph()
            for name in ("left", "right"):
                graph.add_node(RunnablePassthrough(), id=name)
            return graph

    graph = chained({"general_chat": Forked(name="forked")}).get_graph()

    assert "forked" in [node.name for node in graph.nodes.values()]
    assert graph.first_node() is not None
    assert graph.last_node() is not None


# --- LangGraph ---------------------------------------------------------------------------------------------------


@dataclass
class State:
    messages: list[Any]
    pointsman: Any = None


@pytest.mark.parametrize("make", [lambda messages: {"messages": messages}, State])
async def test_an_edge_says_the_route_of_a_graphs_state(make: Callable[[list[Any]], Any]) -> None:
    edge = as_edge(Router(classifier=ScriptedClassifier(SCRIPT, thresholds={"irrelevant": 0.9})))

    assert await edge(make([HumanMessage(DATA), AIMessage("x"), HumanMessage(CHAT)])) == "general_llm"
    assert await edge(make([HumanMessage("hm")])) == "knowledge_base"


async def test_an_edge_behind_a_node_follows_its_decision_without_asking_again() -> None:
    gatekeeper = Counting()
    chain = PointsmanRouter(router=Router(classifier=gatekeeper, handlers=handlers()))
    node, edge = chain.as_node(), chain.as_edge(decision_key="pointsman")
    state: dict[str, Any] = {"messages": [HumanMessage(OFF)]}

    with pytest.raises(InputError, match="the graph's state has no 'pointsman'; `as_node` puts decisions there"):
        await edge(state)
    state |= json.loads(json.dumps(await node(state)))

    assert await edge(state) == "refusal"
    assert state["pointsman"]["label"] == "irrelevant"
    assert gatekeeper.passes == [1]


async def test_the_keys_of_the_state_can_be_chosen() -> None:
    router = Router(classifier=ScriptedClassifier(SCRIPT))
    state = {"talk": [HumanMessage(CHAT)]}

    [(key, decision)] = (await as_node(router, messages_key="talk", decision_key="gate")(state)).items()
    assert (key, decision["route"]) == ("gate", "general_llm")
    assert await as_edge(router, messages_key="talk")(state) == "general_llm"
    with pytest.raises(InputError, match="has no 'messages'"):
        await as_edge(router)(state)
    with pytest.raises(InputError, match="a HumanMessage is needed"):
        await as_edge(router)({"messages": [AIMessage("x")]})


def test_an_edge_is_annotated_with_where_it_can_lead() -> None:
    hints = get_type_hints(as_edge(Router(classifier=ScriptedClassifier(SCRIPT))))

    assert hints["return"] == Literal["knowledge_base", "general_llm", "refusal"]


async def test_a_langgraph_graph_takes_edge_and_node() -> None:
    graphs = pytest.importorskip("langgraph.graph")
    from typing_extensions import TypedDict

    class Talk(TypedDict, total=False):
        messages: list[Any]
        pointsman: dict[str, Any]
        answer: str

    router = Router(classifier=ScriptedClassifier(SCRIPT))
    builder = graphs.StateGraph(Talk)
    builder.add_node("gate", as_node(router))
    for route in ("knowledge_base", "general_llm", "refusal"):
        builder.add_node(route, lambda state, route=route: {"answer": f"{route}: {state['pointsman']['label']}"})
    builder.add_edge(graphs.START, "gate")
    builder.add_conditional_edges("gate", as_edge(router, decision_key="pointsman"))
    graph = builder.compile()

    assert (await graph.ainvoke({"messages": [HumanMessage(OFF)]}))["answer"] == "refusal: irrelevant"
    drawn = {(edge.source, edge.target) for edge in graph.get_graph().edges if edge.conditional}
    assert drawn == {("gate", "knowledge_base"), ("gate", "general_llm"), ("gate", "refusal")}


# --- the decision model ------------------------------------------------------------------------------------------


def choice(*labels: str) -> Choice:
    return Choice(instructions="?", criteria=dict.fromkeys(labels))


def deciding(gatekeeper: ScriptedClassifier | None = None) -> PointsmanDecisionModel:
    return PointsmanDecisionModel(
        router=Router(classifier=gatekeeper or ScriptedClassifier(SCRIPT, bundle="20260101-abc"))
    )


async def test_a_decision_model_answers_with_the_label_and_its_probabilities() -> None:
    model = deciding()
    response = await model.ainvoke({"state": DATA, "questions": {"who": model.question}})

    answer = response.choices["who"]
    assert answer.choice == "data_platform"
    assert answer.probabilities == pytest.approx({"data_platform": 0.98, "general_chat": 0.01, "irrelevant": 0.01})
    assert answer.confidence == pytest.approx((0.98 - 1 / 3) / (2 / 3))
    assert response.model == "20260101-abc"
    assert response.request_id
    assert list(model.question.criteria) == LABELS


def test_a_decision_model_answers_code_that_is_not_async() -> None:
    model = deciding()
    request: Any = {"state": [HumanMessage(CHAT)], "questions": {"a": model.question, "b": model.question}}

    assert [answer.choice for answer in model.invoke(request).choices.values()] == ["general_chat", "general_chat"]
    assert [response.choices["a"].choice for response in model.batch([request, request])] == ["general_chat"] * 2
    assert model.batch([]) == []


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(DATA, id="text"),
        pytest.param(HumanMessage(DATA), id="message"),
        pytest.param([AIMessage("x"), HumanMessage(DATA)], id="messages"),
        pytest.param({"messages": [{"role": "user", "content": DATA}]}, id="mapping"),
    ],
)
async def test_a_decision_model_reads_any_conversation_as_its_state(state: Any) -> None:
    model = deciding()
    response = await model.ainvoke({"state": state, "questions": {"who": model.question}})

    assert response.choices["who"].choice == "data_platform"


async def test_a_batch_of_decisions_is_one_pass_and_each_has_its_own_outcome() -> None:
    gatekeeper, recorder = Counting(), Recorder()
    model = deciding(gatekeeper)
    requests: Any = [
        {"state": DATA, "questions": {"who": model.question}},
        {"state": DATA, "questions": {"who": choice("yes", "no")}},
        {"state": 7, "questions": {"who": model.question}},
        {"state": OFF, "questions": {"who": model.question}},
    ]

    answers = await model.abatch(requests, {"callbacks": [recorder]}, return_exceptions=True)

    assert gatekeeper.passes == [2]
    assert [type(answer).__name__ for answer in answers] == [
        "ClassifierResponse",
        "InputError",
        "InputError",
        "ClassifierResponse",
    ]
    assert answers[3].choices["who"].choice == "irrelevant"
    assert [event.metadata["ls_provider"] for event in recorder.all("start")] == ["pointsman"] * 4  # type: ignore[index]
    with pytest.raises(InputError):
        await model.abatch(requests)
    assert await model.abatch([]) == []


FOREIGN = [
    pytest.param({"who": choice("yes", "no")}, "must be the labels of the bundle, data_.*; got yes, no", id="foreign"),
    pytest.param({"who": choice(*LABELS[:2])}, "got data_platform, general_chat; use", id="some-of-the-labels"),
    pytest.param({"who": choice(*LABELS, "other")}, "got .*, other; use", id="one-more"),
    pytest.param({"who": Noul(instructions="?")}, "only a Choice can be answered, got 'noul'", id="noul"),
    pytest.param({"who": Score(instructions="?", criteria=[1, 2])}, "got 'score'", id="score"),
    pytest.param({"who": {"type": "choice"}}, "got 'dict'", id="plain"),
    pytest.param({}, "at least one question, got none", id="none"),
]


@pytest.mark.parametrize(("questions", "complaint"), FOREIGN)
async def test_a_question_the_bundle_cannot_answer_is_refused_before_the_gatekeeper_is_asked(
    questions: Any, complaint: str
) -> None:
    gatekeeper = ScriptedClassifier(SCRIPT)
    with pytest.raises(InputError, match=complaint):
        await deciding(gatekeeper).ainvoke({"state": DATA, "questions": questions})

    assert gatekeeper.windows == []


async def test_a_decision_model_does_not_make_an_answer_up(caplog: pytest.LogCaptureFixture) -> None:
    model = deciding()
    with pytest.raises(GatekeeperError, match="its error is in the log"):
        await model.ainvoke({"state": "boom", "questions": {"who": model.question}})

    assert "out of order" in caplog.text


async def test_a_bundle_of_one_label_is_always_sure() -> None:
    only = (Label(name="all", route="knowledge_base"),)
    model = deciding(ScriptedClassifier(lambda _: "all", labels=only, confidence=1.0))
    response = await model.ainvoke({"state": "x", "questions": {"who": model.question}})

    assert response.choices["who"].confidence == 1.0


def test_the_schemas_of_a_decision_model_are_json() -> None:
    model = deciding()

    assert json.dumps([model.get_input_jsonschema(), model.get_output_jsonschema()])
    TypeAdapter(model.input_schema).validate_python({"state": DATA, "questions": {"who": model.question}})
    assert dumpd(model)["type"] == "not_implemented"


def test_without_decision_models_in_langchain_only_their_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core.decisions", None)
    monkeypatch.delitem(sys.modules, "pointsman.integrations.langchain.decisions", raising=False)

    with pytest.raises(MissingDependencyError, match=r"langchain-core has since 1\.8; .* pip install --upgrade"):
        langchain.PointsmanDecisionModel  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        langchain.nonsense  # noqa: B018


# --- the example -------------------------------------------------------------------------------------------------


def test_the_example_answers_both_conversations(installation: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)], check=True, capture_output=True, encoding="utf-8", cwd=installation
    )

    assert ran.stderr == ""
    assert len([line for line in ran.stdout.splitlines() if line.startswith("[")]) == 2


@pytest.mark.model
@pytest.mark.timeout(600)
def test_the_example_routes_both_languages_with_the_shipped_bundle(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)], check=True, capture_output=True, encoding="utf-8", cwd=tmp_path
    )

    labels = [line.split()[0] for line in ran.stdout.splitlines() if line.startswith("[")]
    assert labels == ["[data_platform]", "[general_chat]"]
