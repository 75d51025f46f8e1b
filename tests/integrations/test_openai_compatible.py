import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from pointsman.integrations import OpenAICompatible
from pointsman.router import ConfigurationError, Conversation, Handler, HandlerError, Router
from pointsman.router.testing import RecordingHandler, ScriptedClassifier, decided

KEY = "sk-very-secret"
CONVERSATION = Conversation.of("hello")
DECISION = decided("general_chat", "general_llm")

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """A server on loopback that remembers what it was asked."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)

    def handler(self, **settings: Any) -> OpenAICompatible:
        return OpenAICompatible(base_url=self.url, model="small", **settings)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Endpoint]:
    async def record(request: web.Request) -> web.StreamResponse:
        endpoint.bodies.append(await request.json())
        endpoint.authorizations.append(request.headers.get("Authorization"))
        return await answer(request)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", record)
    server = TestServer(app)
    await server.start_server()
    endpoint = Endpoint(url=str(server.make_url("/v1")))
    try:
        yield endpoint
    finally:
        await server.close()


def event(content: str | None = None, **choice: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    payload = {"choices": [{"index": 0, "delta": delta, **choice}]}
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


DONE = b"data: [DONE]\n\n"
HELLO = event("Hel") + event("lo, 世界") + event(finish_reason="stop") + DONE


def sending(*chunks: bytes, content_type: str = "text/event-stream") -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        return response

    return answer


def saying(text: str, status: int, content_type: str = "application/json", **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, status=status, content_type=content_type, headers=headers)

    return answer


async def reply_of(handler: OpenAICompatible, conversation: Conversation = CONVERSATION) -> list[str]:
    try:
        return [piece async for piece in handler.stream(conversation, DECISION)]
    finally:
        await handler.aclose()


async def error_of(answer: Answer, **settings: Any) -> str:
    async with serving(answer) as endpoint:
        with pytest.raises(HandlerError) as caught:
            await reply_of(endpoint.handler(**settings))
        return str(caught.value)


async def test_a_reply_comes_in_pieces() -> None:
    async with serving(sending(HELLO)) as endpoint:
        assert await reply_of(endpoint.handler()) == ["Hel", "lo, 世界"]


async def test_the_whole_conversation_goes_out_with_model_and_key() -> None:
    conversation = Conversation.of(
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None},  # a call, which is not kept
            {"role": "tool", "content": "42"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "谢谢"},
        ]
    )
    async with serving(sending(HELLO)) as endpoint:
        await reply_of(endpoint.handler(api_key=KEY), conversation)

    assert endpoint.authorizations == [f"Bearer {KEY}"]
    assert endpoint.bodies == [
        {
            "model": "small",
            "stream": True,
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "hello"},
                {"role": "user", "content": "谢谢"},
            ],
        }
    ]


async def test_without_a_key_none_is_sent() -> None:
    async with serving(sending(HELLO)) as endpoint:
        await reply_of(endpoint.handler())
    assert endpoint.authorizations == [None]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([HELLO[i : i + 1] for i in range(len(HELLO))], id="byte by byte"),
        pytest.param([HELLO.replace(b"\n", b"\r\n")], id="CRLF"),
        pytest.param([HELLO.replace(b"\n", b"\r")], id="CR"),
        pytest.param([b": keep-alive\n\n", b"event: message\nid: 1\n", HELLO], id="comments and other fields"),
        pytest.param([HELLO.replace(b"data: ", b"data:")], id="no space"),
        pytest.param([HELLO.replace(b'{"choices"', b'{\ndata: "choices"')], id="data in several lines"),
        pytest.param([HELLO.replace(DONE, b"")], id="no DONE"),
        pytest.param([HELLO.removesuffix(b"\n\n")], id="no end of line"),
        pytest.param([event("Hel"), b'data: {"choices": [], "usage": {}}\n\n', event("lo, 世界"), DONE], id="usage"),
        pytest.param([event("Hel"), event(), event("lo, 世界"), DONE], id="empty delta"),
    ],
)
async def test_every_spelling_of_a_stream_is_read(chunks: list[bytes]) -> None:
    async with serving(sending(*chunks)) as endpoint:
        assert await reply_of(endpoint.handler()) == ["Hel", "lo, 世界"]


async def test_an_endpoint_that_does_not_stream_is_understood() -> None:
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]})
    async with serving(saying(body, 200)) as endpoint:
        assert await reply_of(endpoint.handler()) == ["Hello"]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(401, '{"error": {"message": "bad key sk-very-secret"}}', "check POINTSMAN_LLM__API_KEY", id="401"),
        pytest.param(403, "{}", "what it is allowed to use", id="403"),
        pytest.param(404, "<html>nothing here</html>", "it ends in /v1", id="404"),
        pytest.param(400, '{"detail": [{"msg": "too long"}]}', "too long", id="400"),
        pytest.param(429, '{"error": "slow down"}', "slow down; it is over its rate", id="429"),
        pytest.param(500, "", "(no text); it is in trouble", id="500"),
        pytest.param(503, "x" * 5000, "try again later", id="503"),
        pytest.param(418, "teapot", "teapot; check its address and model", id="others"),
    ],
)
async def test_a_refusal_says_what_the_endpoint_said_and_what_to_do(status: int, body: str, expected: str) -> None:
    message = await error_of(saying(body, status), api_key=KEY)

    assert f"answered {status}" in message
    assert expected in message
    assert KEY not in message
    assert len(message) < 700


async def test_a_redirect_is_not_followed() -> None:
    message = await error_of(saying("", 307, Location="http://elsewhere.example/v1"), api_key=KEY)
    assert "redirects to http://elsewhere.example/v1; set POINTSMAN_LLM__BASE_URL" in message


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(sending(b"<html>login</html>", content_type="text/html"), "no event stream", id="a web page"),
        pytest.param(sending(), "no event stream", id="nothing"),
        pytest.param(sending(b"\x00\xff\xfe" * 2000), "no event stream", id="binary"),
        pytest.param(sending(b"data: hello\n\n"), "not a JSON object: 'hello'", id="no JSON"),
        pytest.param(sending(b"data: [1]\n\n"), "not a JSON object", id="a list"),
        pytest.param(sending(b"data: " + b"[" * 100_000 + b"\n\n"), "not a JSON object", id="deep"),
        pytest.param(
            sending(event(finish_reason="length"), DONE), "without a text (finish_reason 'length')", id="empty"
        ),
        pytest.param(sending(b'data: {"error": {"message": "overloaded"}}\n\n'), "overloaded; ask again", id="error"),
        pytest.param(sending(b'data: {"object": "error", "message": "no"}\n\n'), "with an error: no", id="old error"),
        pytest.param(saying("{}", 200), "answered without a text", id="JSON without choices"),
        pytest.param(saying("nope", 200), "not a JSON object", id="JSON that is none"),
        pytest.param(saying('{"choices": ["x"]}', 200), "answered without a text", id="strange choices"),
    ],
)
async def test_garbage_is_a_handler_error(answer: Answer, expected: str) -> None:
    assert expected in await error_of(answer)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        pytest.param(b"", "broke off in the middle", id="ends"),
        pytest.param(
            b'data: {"error": {"message": "boom sk-very-secret"}}\n\n', "boom ***; ask again", id="error object"
        ),
        pytest.param(b"data: nonsense\n\n", "not a JSON object", id="garbage"),
    ],
)
async def test_trouble_in_the_middle_comes_after_the_pieces_before_it(rest: bytes, expected: str) -> None:
    async with serving(sending(event("Hel"), rest)) as endpoint:
        handler = endpoint.handler(api_key=KEY)
        pieces = handler.stream(CONVERSATION, DECISION)
        assert await anext(pieces) == "Hel"
        with pytest.raises(HandlerError) as caught:
            await anext(pieces)
        await handler.aclose()

    assert expected in str(caught.value)
    assert KEY not in str(caught.value)


async def test_a_connection_that_is_cut_is_a_handler_error() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(event("Hel"))
        assert request.transport is not None
        request.transport.abort()
        return response

    assert "broke (" in await error_of(cut)


async def test_nobody_listening_is_a_handler_error() -> None:
    url = f"http://127.0.0.1:{unused_port()}/v1"
    with pytest.raises(HandlerError, match=r"cannot connect to http://127.0.0.1:\d+.* is it running\?"):
        await reply_of(OpenAICompatible(base_url=url, model="small"))


async def test_silence_is_given_up_after_the_timeout() -> None:
    released = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    async with serving(hang) as endpoint:
        with pytest.raises(HandlerError, match=r"sent nothing for 0\.05 s; raise POINTSMAN_LLM__TIMEOUT"):
            await reply_of(endpoint.handler(timeout=0.05))
        released.set()


async def test_a_long_reply_may_take_longer_than_the_timeout() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(6):
            await response.write(event("x"))
            await asyncio.sleep(0.05)  # what is tested is time
        await response.write(DONE)
        return response

    async with serving(drip) as endpoint:
        assert await reply_of(endpoint.handler(timeout=0.2)) == ["x"] * 6


async def test_an_event_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.integrations._events.LARGEST_EVENT", 10_000)
    assert "more than 10000 bytes" in await error_of(sending(b"data: ", *[b"x" * 1000] * 20))


async def test_the_session_is_shared_and_closed_once() -> None:
    async with serving(sending(HELLO)) as endpoint:
        handler = endpoint.handler()
        for _ in range(3):
            assert [piece async for piece in handler.stream(CONVERSATION, DECISION)]
        assert handler._session is not None
        session = handler._session
        await handler.aclose()
        await handler.aclose()

    assert session.closed
    with pytest.raises(HandlerError, match="closed"):
        await anext(handler.stream(CONVERSATION, DECISION))


async def test_a_reader_that_leaves_early_frees_the_connection() -> None:
    gone = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(event("x"))
                await asyncio.sleep(0)
        except (ConnectionError, asyncio.CancelledError):
            gone.set()
            raise

    async with serving(endless) as endpoint:
        handler = endpoint.handler()
        async with aclosing(handler.stream(CONVERSATION, DECISION)) as pieces:  # type: ignore[type-var]
            assert await anext(pieces) == "x"
        await asyncio.wait_for(gone.wait(), 5)
        await handler.aclose()


async def test_the_key_is_in_no_repr_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(sending(HELLO)) as endpoint:
        handler = endpoint.handler(api_key=KEY)
        shown = repr(handler)
        await reply_of(handler)

    assert "small" in shown
    assert KEY not in shown + caplog.text


def test_a_password_in_the_url_is_not_shown() -> None:
    shown = repr(OpenAICompatible(base_url="http://ana:hunter2@localhost/v1", model="m"))
    assert "hunter2" not in shown
    assert "localhost/v1/chat/completions" in shown


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "", "http://[::1"])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        OpenAICompatible(base_url=url, model="m")


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        OpenAICompatible(base_url="http://localhost/v1", model="m", api_key="sk-secret\nX-Evil: 1")
    assert "sk-secret" not in str(caught.value)


async def test_it_works_as_a_handler_of_a_router() -> None:
    async with serving(sending(HELLO)) as endpoint:
        llm = endpoint.handler()
        assert isinstance(llm, Handler)
        other = RecordingHandler()
        router = Router(
            classifier=ScriptedClassifier({"hello": "general_chat"}),
            handlers={"general_llm": llm, "knowledge_base": other, "refusal": other},
        )
        async with router:
            assert (await router.route("hello")).text == "Hello, 世界"
