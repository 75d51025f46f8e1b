"""From what LangChain hands over to a decision: any chat input becomes a `Conversation`, many share one pass.

Not the dispatch: `langchain` takes it from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    MessageLikeRepresentation,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue
from typing_extensions import TypedDict  # pydantic reads no other one below Python 3.12

from pointsman.integrations.langchain import loops
from pointsman.router import Conversation, Decision, InputError, Message, Role, Router

__all__ = ["Case", "ChatInput", "Messages", "conversation_of", "decide", "decide_now"]

ChatInput = str | PromptValue | Sequence[MessageLikeRepresentation] | Mapping[str, Any]
"""What a chat model or an agent is given; of a mapping, `messages` is read."""

_ROLES: tuple[tuple[type[BaseMessage], Role], ...] = (
    (HumanMessage, Role.USER),
    (AIMessage, Role.ASSISTANT),
    (SystemMessage, Role.SYSTEM),
    (ToolMessage, Role.TOOL),
    (FunctionMessage, Role.TOOL),
)
_CHAT_ROLES = {"human": Role.USER, "ai": Role.ASSISTANT}


class Messages(TypedDict):
    """The mapping form of an input, as agents and graphs keep it."""

    messages: list[AnyMessage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A conversation and what was decided about it."""

    conversation: Conversation
    decision: Decision


def conversation_of(value: object) -> Conversation:
    """Return what was said, from a text, messages in any form LangChain knows, a prompt value, or `{"messages": ...}`.

    Raises:
        InputError: the value has another shape, or holds no human message.
    """
    if isinstance(value, Mapping):
        if "messages" not in value:
            raise InputError(f"a mapping must have the key 'messages' to be routed, got {sorted(map(str, value))!r}")
        value = value["messages"]
    if isinstance(value, str | Conversation):
        return Conversation.of(value)
    if isinstance(value, BaseMessage):
        value = [value]
    if not isinstance(value, PromptValue | Sequence) or isinstance(value, bytes | bytearray):
        raise InputError(
            f"expected a text, messages, a prompt value or {{'messages': [...]}}, got {type(value).__name__}"
        )
    try:
        messages = convert_to_messages(value)
    except Exception as error:  # LangChain raises half a dozen kinds for what is no message
        raise InputError(f"the messages cannot be read: {error}") from error
    if not any(_role(message) == Role.USER for message in messages):
        found = ", ".join(type(message).__name__ for message in messages) or "no message at all"
        raise InputError(f"a HumanMessage is needed to route on, got {found}")
    return Conversation(
        messages=tuple(Message.of({"role": _role(message), "content": message.content}) for message in messages)
    )


async def decide(router: Router, values: Iterable[object]) -> list[Case | Exception]:
    """Return one case a value, in order, from one pass of the gatekeeper; what failed is its error instead."""
    loops.settle(router)
    read = [_conversation_or_error(value) for value in values]
    conversations = [item for item in read if isinstance(item, Conversation)]
    try:
        decisions = iter(await router.decide_all(conversations) if conversations else ())
    except Exception as error:  # noqa: BLE001 -- the run of each conversation ends with it
        return [error if isinstance(item, Conversation) else item for item in read]
    return [
        Case(conversation=item, decision=next(decisions)) if isinstance(item, Conversation) else item for item in read
    ]


def decide_now(router: Router, values: Iterable[object]) -> list[Case | Exception]:
    """Return what `decide` does, to code that is not async."""
    return loops.wait(loops.loop_of(router), decide(router, values))


def _conversation_or_error(value: object) -> Conversation | InputError:
    try:
        return conversation_of(value)
    except InputError as error:
        return error


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return _CHAT_ROLES.get(message.role, message.role)
    return next((role for kind, role in _ROLES if isinstance(message, kind)), message.type)
