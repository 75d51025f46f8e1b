"""Put Pointsman into a LangChain chain: one branch is LCEL, the others are the router's own handlers.

python examples/langchain_chain.py
"""

import asyncio

from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from pointsman.integrations import load_settings, open_router
from pointsman.integrations.langchain import PointsmanRouter

ENGLISH = [
    HumanMessage("why is my DAG stuck?"),
    AIMessage("A sensor waits."),
    HumanMessage("how do I rerun that task?"),
]
CHINESE = [HumanMessage("你好"), AIMessage("您好！"), HumanMessage("谢谢你，你真好")]


async def main() -> None:
    model = FakeListChatModel(responses=["不客气！"])  # put your own here: ChatOpenAI(...), ChatOllama(...)
    chat = ChatPromptTemplate([("system", "You are kind."), MessagesPlaceholder("talk")]) | model | StrOutputParser()
    async with await open_router(load_settings()) as router:
        chain = PointsmanRouter(router=router, branches={"general_chat": chat})
        for conversation in (ENGLISH, CHINESE):
            async for event in chain.astream_events(conversation, version="v2"):
                if event["event"] == "on_custom_event":  # the decision, before the first word
                    print(f"[{event['data']['label']}]", end=" ")
                elif event["event"] == "on_chain_stream" and event["name"] == "PointsmanRouter":
                    print(event["data"]["chunk"], end="")
            print()


if __name__ == "__main__":
    asyncio.run(main())
