"""Put a handler of your own behind a route. Needs no model: a scripted classifier takes the gatekeeper's place.

python examples/own_handler.py
"""

import asyncio
from collections.abc import AsyncIterator

from pointsman.router import Conversation, Decision, Handler, Refusal, Router, SmallTalk
from pointsman.router.testing import ScriptedClassifier


class Lineage:
    """Answers from your own service; this one knows a single table."""

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        yield f"You asked: {conversation.last_user_message}\n"
        yield "dwd_orders <- ods_orders <- the shop's MySQL"

    async def aclose(self) -> None:
        """Close your connections here."""


async def main() -> None:
    classifier = ScriptedClassifier({"where does dwd_orders come from?": "data_platform", "thanks!": "general_chat"})
    handlers: dict[str, Handler] = {"knowledge_base": Lineage(), "general_llm": SmallTalk(), "refusal": Refusal()}
    async with Router(classifier=classifier, handlers=handlers) as router:
        for message in ("where does dwd_orders come from?", "thanks!"):
            reply = await router.route(message)
            print(f"[{reply.decision.route}] {reply.text}")


if __name__ == "__main__":
    asyncio.run(main())
