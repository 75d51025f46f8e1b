"""Say politely that this is not what the assistant is for, in the user's language, and what it can do instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from pointsman.router.conversation import Conversation
from pointsman.router.decision import Decision
from pointsman.router.errors import ConfigurationError
from pointsman.router.text import detect_language

__all__ = ["Refusal"]

_TEXTS = {
    "en": (
        "I'm the data-platform assistant, so this one is outside what I can help with. "
        "I can answer questions on pipelines, tables, SQL, data quality, access and reports. "
        "If your question is about one of these, please tell me a little more."
    ),
    "zh": (
        "我是数据平台助手，这个问题超出了我能帮忙的范围。"
        "我可以回答数据同步、任务调度、数据表与 SQL、数据质量、权限和报表方面的问题。"
        "如果您的问题与这些有关，请再多说一点。"
    ),
}


class Refusal:
    """A fixed, localised text; no model is asked."""

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        """Take the texts by language code; `en` must be among them and serves every other language."""
        self._texts = dict(texts or _TEXTS)
        if "en" not in self._texts:
            raise ConfigurationError(f"the refusal needs a text under 'en', got {sorted(self._texts)!r}")

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        """Yield the refusal in the language of the latest user message."""
        yield self._texts.get(detect_language(conversation.last_user_message), self._texts["en"])

    async def aclose(self) -> None:
        """Nothing is held."""
