"""The stand-in for a general LLM where none is configured: it says so, and does not pretend to understand."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pointsman.router.conversation import Conversation
from pointsman.router.decision import Decision
from pointsman.router.text import detect_language

__all__ = ["SmallTalk"]

_TEXTS = {
    "en": (
        "Hello! No general LLM is configured here, so I can't chat for real. "
        "Ask me about the data platform, or set `POINTSMAN_LLM__BASE_URL` and `POINTSMAN_LLM__MODEL` to connect one."
    ),
    "zh": (
        "您好！这里还没有接入通用大模型，所以我没法真正陪您聊天。"
        "您可以问我数据平台的问题，或者设置 `POINTSMAN_LLM__BASE_URL` 和 `POINTSMAN_LLM__MODEL` 来接入一个。"
    ),
}


class SmallTalk:
    """One honest sentence in the user's language."""

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        """Yield that no LLM is configured, and how to configure one."""
        yield _TEXTS[detect_language(conversation.last_user_message)]

    async def aclose(self) -> None:
        """Nothing is held."""
