"""Label a few messages and answer one, with whatever `pointsman.toml` and POINTSMAN_* variables say.

python examples/route_messages.py
"""

import asyncio

from pointsman.integrations import load_settings, open_router


async def main() -> None:
    async with await open_router(load_settings()) as router:
        for message in ("why is my DAG stuck?", "你好", "book me a table for four"):
            decision = await router.decide(message)
            print(f"{decision.label:13}  {decision.confidence:.2f}  {message}")

        async for item in router.stream("数据清洗流程是什么？"):  # the decision first, then the answer as it comes
            print(item if isinstance(item, str) else f"\n{item.label} -> {item.route}", end="")
        print()


if __name__ == "__main__":
    asyncio.run(main())
