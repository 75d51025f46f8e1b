"""What a command talks to, on an event loop of its own, for commands that read and write one thing after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pointsman.integrations.cli.boundary import about_options

if TYPE_CHECKING:
    from pointsman.integrations.settings import Settings
    from pointsman.router import Classifier, Router

__all__ = ["opened_gatekeeper", "opened_router"]


@contextmanager
def opened_router(settings: Settings) -> Iterator[tuple[Router, asyncio.Runner]]:
    """Yield a router with its handlers, and the runner to drive it with; both are closed at the end."""
    from pointsman.integrations.assembly import open_router

    with asyncio.Runner() as runner:
        with about_options():
            router = runner.run(open_router(settings))
        try:
            yield router, runner
        finally:
            runner.run(router.aclose())


@contextmanager
def opened_gatekeeper(settings: Settings) -> Iterator[tuple[Classifier, asyncio.Runner]]:
    """Yield a gatekeeper alone, for what is decided and not answered, and the runner; both are closed at the end."""
    from pointsman.integrations.assembly import open_gatekeeper

    with asyncio.Runner() as runner:
        with about_options():
            gatekeeper = runner.run(open_gatekeeper(settings))
        try:
            yield gatekeeper, runner
        finally:
            runner.run(gatekeeper.aclose())
