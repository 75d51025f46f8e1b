"""Messages and conversations, as chat backends send them.

Not the text that the model reads: see `window` for what is kept of a conversation and `text` for its normal form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from pointsman.router.errors import InputError

__all__ = ["Conversation", "ConversationLike", "Message", "Role"]


class Role(StrEnum):
    """Who speaks, in the words of the OpenAI chat format."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn."""

    role: Role
    content: str

    @classmethod
    def of(cls, value: Message | Mapping[str, object]) -> Message:
        """Return a message from `{"role": ..., "content": text | list of parts | None}`.

        Of a list of parts the text parts are kept, one a line; images and other parts are left out.

        Raises:
            InputError: the role is unknown or the content is neither text nor a list of parts.
        """
        if isinstance(value, Message):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"a message must be an object with `role` and `content`, got {type(value).__name__}")
        role = value.get("role")
        if role not in tuple(Role):
            raise InputError(f"`role` must be one of {', '.join(Role)}, got {role!r}")
        return cls(role=Role(str(role)), content=_text(value.get("content")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Turns in order; the last user message is the one to be routed."""

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        if not any(message.role is Role.USER for message in self.messages):
            raise InputError(f"a conversation needs a user message, got {len(self.messages)} messages and none of them")

    @classmethod
    def of(cls, value: ConversationLike) -> Conversation:
        """Return a conversation from a text, a list of messages, or a conversation.

        Raises:
            InputError: the value has another shape, or holds no user message.
        """
        if isinstance(value, Conversation):
            return value
        if isinstance(value, str):
            return cls(messages=(Message(role=Role.USER, content=value),))
        if not isinstance(value, Sequence):
            raise InputError(f"a conversation must be a text or a list of messages, got {type(value).__name__}")
        messages = cast("Sequence[Message | Mapping[str, object]]", value)  # mypy takes a str for one of these
        return cls(messages=tuple(Message.of(message) for message in messages))

    @property
    def last_user_message(self) -> str:
        """The text of the latest user message."""
        return next(message.content for message in reversed(self.messages) if message.role is Role.USER)


ConversationLike = str | Sequence[Message | Mapping[str, object]] | Conversation


def _text(content: object) -> str:
    if content is None:  # an assistant turn that only calls tools
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        raise InputError(f"`content` must be a text or a list of parts, got {type(content).__name__}")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(str(part["text"]))
    return "\n".join(texts)
