"""The gatekeeper: an engine behind the router's `Classifier` protocol, in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from pointsman.adapters.bundle import Bundle
from pointsman.adapters.engine import Engine, TorchEngine
from pointsman.router import GatekeeperClosed, GatekeeperError, Policy, Scores, Window

__all__ = ["Gatekeeper"]


class Gatekeeper:
    """Labels windows with a bundle. The model lives in one thread; the event loop never blocks.

    Use it as `async with await Gatekeeper.open(bundle) as gatekeeper`, or hand it to a `Router`, which closes it.
    """

    def __init__(self, engine: Engine, *, bundle: str, policy: Policy, executor: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._bundle = bundle
        self._policy = policy
        self._executor: ThreadPoolExecutor | None = executor

    @classmethod
    async def open(cls, bundle: Bundle, **settings: Any) -> Self:
        """Load a bundle in the gatekeeper's own thread and label one message to warm it.

        Args:
            bundle: what to serve.
            settings: passed to `TorchEngine.load`: base, device, max_batch_tokens.

        Raises:
            BaseModelError: the base is not found or has other weights than the bundle was trained on.
            BundleCorruptError: the adapter does not fit the base.
        """

        def load() -> TorchEngine:
            engine = TorchEngine.load(bundle, **settings)
            engine.run([Window(message="warm-up")])
            return engine

        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gatekeeper")
        try:
            engine = await asyncio.get_running_loop().run_in_executor(executor, load)
        except BaseException:
            await asyncio.to_thread(executor.shutdown)
            raise
        return cls(engine, bundle=bundle.id, policy=bundle.manifest.policy(), executor=executor)

    @property
    def bundle(self) -> str:
        """The id of the bundle that is served."""
        return self._bundle

    @property
    def policy(self) -> Policy:
        """The policy the bundle was calibrated for."""
        return self._policy

    async def classify(self, windows: Sequence[Window]) -> list[Scores]:
        """Return one `Scores` a window, in order.

        Raises:
            GatekeeperClosed: after `aclose`.
            GatekeeperError: the engine failed; its error is the cause.
        """
        if self._executor is None:
            raise GatekeeperClosed("the gatekeeper is closed; open it again")
        run: Callable[[Sequence[Window]], list[Scores]] = self._engine.run
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, run, windows)
        except GatekeeperError:
            raise
        except Exception as error:  # the engine may fail in any way; the caller gets it as the cause
            raise GatekeeperError(f"the engine failed on {len(windows)} messages: {error}") from error

    async def aclose(self) -> None:
        """Wait for what is running and stop the thread. Safe to call twice."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
