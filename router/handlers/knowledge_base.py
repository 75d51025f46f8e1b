"""Answer from the organisation's own pages: the passages that fit the question, quoted with their source.

Needs no model and no service. It does not write prose of its own: put a RAG chain in its place for that.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

from pointsman.router.conversation import Conversation, Role
from pointsman.router.decision import Decision
from pointsman.router.errors import ConfigurationError, HandlerError
from pointsman.router.handlers._index import LONGEST_QUESTION, PassageIndex
from pointsman.router.handlers._passages import Passage, read_passages
from pointsman.router.text import detect_language

__all__ = ["KnowledgeBase", "Passage"]

_SHOWN = 0.5  # of the best score; weaker passages are found by `search` but not put into a reply
_LEANING = re.compile(  # a message that says by itself that it goes on with the one before
    r"\A\W*(and|also|so|then|but|what about|how about|what if|same)\b|\b(it|its|they|them|that one)\b"
    r"|\A\W*(那|还有|然后|如果|要是|另外)|它|呢\W*\Z",
    re.IGNORECASE,
)

_FOUND = {
    "en": "Here is what the knowledge base says:",
    "zh": "知识库里是这样写的：",
}
_NOT_FOUND = {
    "en": (
        "I found nothing in the knowledge base that answers this, and I don't want to guess. "
        "Please ask the data team, or put the question another way."
    ),
    "zh": "我在知识库里没有找到能回答这个问题的内容，也不想乱猜。请联系数据团队，或者换一种说法再问一次。",
}


class KnowledgeBase:
    """Searches a set of passages and streams the best of them.

    Use it as a handler, or alone as `async with KnowledgeBase.from_folder(...) as knowledge`.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Index the passages: a moment's work that blocks, see `from_folder`.

        Raises:
            ConfigurationError: there are none.
            MissingDependencyError: this Python's SQLite lacks FTS5.
        """
        self._index = PassageIndex(passages)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="knowledge-base")
        self._closed = False

    @classmethod
    def from_folder(cls, path: str | PathLike[str]) -> Self:
        """Return a knowledge base of the `*.md`, `*.txt` and `*.html` pages below a folder.

        Blocks while it reads and indexes: call it before the event loop starts, or with `asyncio.to_thread`.

        Raises:
            ConfigurationError: the folder is missing or holds no text, or a file is not UTF-8; the message names it.
            MissingDependencyError: this Python's SQLite lacks FTS5.
        """
        return cls(read_passages(Path(path)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def search(self, question: str, limit: int = 3) -> list[Passage]:
        """Return at most `limit` passages, best first; none when nothing fits. Runs in the knowledge base's own thread.

        Raises:
            ConfigurationError: `limit` is below 1.
            HandlerError: the knowledge base is closed.
        """
        if limit < 1:
            raise ConfigurationError(f"`limit` must be at least 1, got {limit!r}")
        return await self._find(question, limit)

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        """Yield one sentence, then the best passages with their titles and sources; or that nothing was found.

        Where the latest message leans on what was said ("and for last month?") or finds nothing alone, the user
        message before it is searched with it.

        Raises:
            HandlerError: the knowledge base is closed.
        """
        latest, *before = (message.content for message in reversed(conversation.messages) if message.role is Role.USER)
        contexts = ["", *before[:1]]
        if _LEANING.search(latest[:LONGEST_QUESTION]):
            contexts.reverse()
        language = detect_language(latest[:LONGEST_QUESTION])
        for context in contexts:
            if passages := await self._find(latest, 3, context):
                break
        else:
            yield _NOT_FOUND[language]
            return
        yield _FOUND[language]
        for passage in passages:
            if passage.score >= _SHOWN * passages[0].score:
                yield f"\n\n**{passage.title}** ({passage.source})\n\n{passage.text}"

    async def aclose(self) -> None:
        """Close the database once the searches under way are done; twice is fine."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._worker, self._index.close)
            await asyncio.to_thread(self._worker.shutdown)  # would join its thread on the event loop

    async def _find(self, question: str, limit: int, context: str = "") -> list[Passage]:
        if self._closed:
            raise HandlerError("the knowledge base is closed; search before `aclose()`")
        search = self._index.search
        return await asyncio.get_running_loop().run_in_executor(self._worker, search, question, limit, context)
