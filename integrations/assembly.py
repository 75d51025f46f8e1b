"""Put a router together from settings: the bundle's gatekeeper, and a handler for each of the three routes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

from pointsman.adapters import Gatekeeper, Store, open_bundle
from pointsman.integrations.openai_compatible import OpenAICompatible
from pointsman.integrations.settings import Settings
from pointsman.router import Handler, KnowledgeBase, Limits, MicroBatcher, Refusal, Router, SmallTalk

__all__ = ["open_gatekeeper", "open_router"]

_MARGIN = 15.0
"""Seconds; connecting included."""


async def open_gatekeeper(settings: Settings) -> Gatekeeper:
    """Return the gatekeeper of the bundle that is set, verified and warm. Close it, or hand it to a `Router`.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
        BaseModelError: the base is not found or has other weights than the bundle was trained on.
        ConfigurationError: the device does not exist.
    """
    bundle = await asyncio.to_thread(open_bundle, settings.bundle, Store(settings.store))
    return await Gatekeeper.open(bundle, base=settings.base, device=settings.device)


async def open_router(settings: Settings) -> Router:
    """Return a router for `async with`: knowledge base, general LLM (small talk where none is set) and refusal.

    Raises:
        ConfigurationError: the knowledge base has no pages, or the bundle has a route that none of the three takes.
        BundleError: there is no such bundle, or it is damaged.
        BaseModelError: the base is not found or has other weights than the bundle was trained on.
    """
    folder = settings.knowledge_base.folder
    handlers: dict[str, Handler] = {
        "knowledge_base": await asyncio.to_thread(KnowledgeBase.from_folder, folder),
        "general_llm": _general_llm(settings),
        "refusal": Refusal(),
    }
    async with AsyncExitStack() as opened:  # closes what was opened where a later step fails
        for handler in handlers.values():
            opened.push_async_callback(handler.aclose)
        gatekeeper = await open_gatekeeper(settings)
        opened.push_async_callback(gatekeeper.aclose)
        router = Router(
            classifier=MicroBatcher(gatekeeper), handlers=handlers, limits={"general_llm": _limits(settings)}
        )
        opened.pop_all()
    return router


def _general_llm(settings: Settings) -> Handler:
    llm = settings.llm
    if llm.base_url is None or llm.model is None:
        return SmallTalk()
    return OpenAICompatible(base_url=llm.base_url, model=llm.model, api_key=llm.api_key, timeout=llm.timeout)


def _limits(settings: Settings) -> Limits:
    """Let the endpoint be silent for as long as the settings say; its own error then comes first, and says more."""
    usual = Limits()
    first = max(usual.first_chunk, settings.llm.timeout + _MARGIN)
    return replace(usual, first_chunk=first, total=max(usual.total, first))
