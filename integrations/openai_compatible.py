"""Answer with any OpenAI-compatible `/chat/completions`: OpenAI, vLLM, Ollama, LM Studio, llama.cpp, gateways.

Not a client for the whole API: one request, one streamed text. Retries and fallbacks are the router's business.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from pydantic import SecretStr
from yarl import URL

from pointsman.integrations._events import LARGEST_EVENT, read_events
from pointsman.router import ConfigurationError, Conversation, Decision, HandlerError, Role

__all__ = ["OpenAICompatible"]

_CONNECT_TIMEOUT = 10.0  # seconds
_DONE = "[DONE]"
_SHOWN = 300  # characters of what the endpoint said that go into an error
_ADVICE = {
    400: "see its message; the model may not exist there, or the conversation may be too long for it",
    401: "check POINTSMAN_LLM__API_KEY",
    403: "check POINTSMAN_LLM__API_KEY and what it is allowed to use",
    404: "check POINTSMAN_LLM__BASE_URL (it ends in /v1 with most endpoints) and POINTSMAN_LLM__MODEL",
    413: "the conversation is too long for it",
    429: "it is over its rate or spending limit; wait, or raise the limit",
}


class OpenAICompatible:
    """Streams the answer of a language model. One pooled session, opened with the first message, closed by `aclose`."""

    def __init__(
        self, *, base_url: str, model: str, api_key: SecretStr | str | None = None, timeout: float = 60.0
    ) -> None:
        """Connect to nothing yet.

        Args:
            base_url: what stands before `/chat/completions`, such as `http://localhost:11434/v1`.
            model: the model's name at the endpoint.
            api_key: sent as bearer token; never part of a log line, an error or the repr.
            timeout: seconds without a byte after which the endpoint is given up.

        Raises:
            ConfigurationError: the URL is not http(s), or the key cannot be sent in a header.
        """
        self._url = _checked_url(base_url) / "chat" / "completions"
        self._model = model
        self._key = _checked_key(api_key)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"OpenAICompatible(url={self._shown_url!r}, model={self._model!r})"

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        """Yield the reply as it comes.

        The whole conversation is sent but for tool messages, whose calls a `Conversation` does not keep.

        Raises:
            HandlerError: the endpoint is not reached, refuses, breaks off, or sends something else than a reply; the
                message says which and what to do.
        """
        body = {"model": self._model, "messages": _messages(conversation), "stream": True}
        try:
            async with self._open().post(self._url, json=body, allow_redirects=False) as response:
                await self._check(response)
                pieces = self._whole(response) if response.content_type == "application/json" else self._parts(response)
                async for piece in pieces:
                    yield piece
        except (TimeoutError, aiohttp.ClientError) as error:
            raise HandlerError(self._connection_trouble(error)) from error

    async def aclose(self) -> None:
        """Close the connections; twice is fine."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def _shown_url(self) -> str:
        return str(self._url.with_user(None).with_query(None))

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise HandlerError("the LLM handler is closed; send no message after `aclose()`")
        if self._session is None:  # here and not in __init__: a session belongs to the running loop
            headers = {"Authorization": f"Bearer {self._key.get_secret_value()}"} if self._key else {}
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers=headers)
        return self._session

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status == 200:  # noqa: PLR2004 -- the only answer that streams
            return
        if 300 <= status < 400:  # noqa: PLR2004
            where = response.headers.get("Location", "nowhere")
            raise HandlerError(
                f"{self._shown_url} redirects to {where}; set POINTSMAN_LLM__BASE_URL to the final address"
            )
        said = await response.content.read(LARGEST_EVENT)
        server = "it is in trouble; try again later" if status >= 500 else "check its address and model"  # noqa: PLR2004
        raise HandlerError(
            f"the LLM endpoint {self._shown_url} answered {status}: {self._excerpt(_error_text(said))}; "
            f"{_ADVICE.get(status, server)}"
        )

    async def _parts(self, response: aiohttp.ClientResponse) -> AsyncIterator[str]:
        opening = bytearray()
        spoke, reason = False, None
        async for data in read_events(response.content, opening):
            if data == _DONE:
                reason = reason or "stop"
                break
            payload = self._object(data)
            choice = _first_choice(payload)
            reason = choice.get("finish_reason") or reason
            text = (choice.get("delta") or {}).get("content")
            if isinstance(text, str) and text:
                spoke = True
                yield text
        if reason is None and not spoke:
            raise HandlerError(
                f"{self._shown_url} sent no event stream, it starts {self._excerpt(bytes(opening))!r}; "
                "check that POINTSMAN_LLM__BASE_URL is an OpenAI-compatible API"
            )
        if reason is None:
            raise HandlerError(f"the reply of {self._shown_url} broke off in the middle; ask again")
        if not spoke:
            raise HandlerError(f"{self._shown_url} ended without a text (finish_reason {reason!r}); try another model")

    async def _whole(self, response: aiohttp.ClientResponse) -> AsyncIterator[str]:
        """Yield the reply of an endpoint that does not stream."""
        content = await response.content.read(LARGEST_EVENT)
        while more := await response.content.read(LARGEST_EVENT):
            content += more
            if len(content) > LARGEST_EVENT:
                raise HandlerError(
                    f"{self._shown_url} sent more than {LARGEST_EVENT} bytes in one piece; it is no chat API"
                )
        payload = self._object(content.decode("utf-8", errors="replace"))
        text = (_first_choice(payload).get("message") or {}).get("content")
        if not isinstance(text, str) or not text:
            raise HandlerError(
                f"{self._shown_url} answered without a text: {self._excerpt(content)!r}; try another model"
            )
        yield text

    def _object(self, data: str) -> dict[str, Any]:
        try:
            payload = json.loads(data)
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            raise HandlerError(
                f"{self._shown_url} sent something that is not a JSON object: {self._excerpt(data)!r}; "
                "check that POINTSMAN_LLM__BASE_URL is an OpenAI-compatible API"
            )
        if payload.get("error") or payload.get("object") == "error":
            said = self._excerpt(_error_text(data))
            raise HandlerError(f"the LLM endpoint {self._shown_url} stopped with an error: {said}; ask again")
        return payload

    def _connection_trouble(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"{self._shown_url} did not accept a connection in {_CONNECT_TIMEOUT:g} s; is it up, and reachable?"
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"cannot connect to {self._shown_url}: {error}; is it running? Check POINTSMAN_LLM__BASE_URL"
        if isinstance(error, TimeoutError):
            return (
                f"{self._shown_url} sent nothing for {self._timeout.sock_read:g} s; "
                "raise POINTSMAN_LLM__TIMEOUT if the model is that slow"
            )
        return f"the connection to {self._shown_url} broke ({type(error).__name__}: {error}); ask again"

    def _excerpt(self, said: str | bytes) -> str:
        """Return the beginning of what the endpoint said in one line; the key, should it be echoed, is masked."""
        text = said if isinstance(said, str) else said.decode("utf-8", errors="replace")
        if self._key:
            text = text.replace(self._key.get_secret_value(), "***")
        text = " ".join(text.split())
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _checked_url(base_url: str) -> URL:
    try:
        url = URL(base_url.rstrip("/"))
    except ValueError as error:
        raise ConfigurationError(f"the LLM's `base_url` is not a URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigurationError(
            f"the LLM's `base_url` must be an http(s) URL such as http://localhost:11434/v1, got {base_url!r}"
        )
    return url


def _checked_key(api_key: SecretStr | str | None) -> SecretStr | None:
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key or ""
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError("the LLM's `api_key` holds a character that no header can carry; copy it again")
    return SecretStr(key) if key else None


def _messages(conversation: Conversation) -> list[dict[str, str]]:
    return [
        {"role": str(message.role), "content": message.content}
        for message in conversation.messages
        if message.role is not Role.TOOL and (message.content or message.role is not Role.ASSISTANT)
    ]


def _first_choice(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the first choice of a chunk, empty where it has none (usage, keep-alive)."""
    choices = payload.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _error_text(said: bytes | str) -> str:
    """Return the message in an error body of whatever shape: `{"error": {"message"}}`, `{"error"}`, `{"detail"}`."""
    text = said if isinstance(said, str) else said.decode("utf-8", errors="replace")
    try:
        found = json.loads(text)
        while isinstance(found, dict):
            found = next(found[key] for key in ("error", "message", "detail") if found.get(key))
    except (ValueError, RecursionError, StopIteration):
        return text or "(no text)"
    return str(found)
