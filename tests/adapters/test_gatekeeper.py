import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pointsman.adapters import Bundle, Gatekeeper
from pointsman.router import (
    BaseModelError,
    Classifier,
    ConfigurationError,
    GatekeeperClosed,
    GatekeeperError,
    GatekeeperOutOfMemory,
    Policy,
    Reason,
    Router,
    Scores,
    Window,
)

WINDOW = Window(message="hello")
SCORES = Scores(probabilities={"data_platform": 0.2, "general_chat": 0.7, "irrelevant": 0.1})


class FakeEngine:
    """Waits for `go`, then answers; or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = threading.Event()
        self.running = threading.Event()
        self.threads: set[str] = set()
        self._error = error

    def run(self, windows: Sequence[Window]) -> list[Scores]:
        self.threads.add(threading.current_thread().name)
        self.running.set()
        assert self.go.wait(30)
        if self._error is not None:
            raise self._error
        return [SCORES for _ in windows]


def gatekeeper(engine: FakeEngine) -> Gatekeeper:
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gatekeeper")
    return Gatekeeper(engine, bundle="fake", policy=Policy(), executor=executor)


async def test_the_loop_runs_on_while_the_model_thinks() -> None:
    engine = FakeEngine()
    async with gatekeeper(engine) as keeper:
        answer = asyncio.create_task(keeper.classify([WINDOW]))
        assert await asyncio.to_thread(engine.running.wait, 30)
        turns = 0
        for _ in range(1000):
            await asyncio.sleep(0)
            turns += 1
        assert not answer.done()
        engine.go.set()
        assert await answer == [SCORES]

    assert turns == 1000
    assert {name.split("_")[0] for name in engine.threads} == {"gatekeeper"}


async def test_after_closing_it_says_so_and_closing_twice_is_fine() -> None:
    keeper = gatekeeper(FakeEngine())
    await keeper.aclose()
    await keeper.aclose()

    with pytest.raises(GatekeeperClosed, match="open it again"):
        await keeper.classify([WINDOW])


async def test_closing_waits_for_what_is_running() -> None:
    engine = FakeEngine()
    keeper = gatekeeper(engine)
    answer = asyncio.create_task(keeper.classify([WINDOW]))
    assert await asyncio.to_thread(engine.running.wait, 30)
    closing = asyncio.create_task(keeper.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    engine.go.set()

    assert await answer == [SCORES]
    await closing


@pytest.mark.parametrize(
    "error",
    [pytest.param(RuntimeError("boom"), id="foreign"), pytest.param(ConfigurationError("nan"), id="bad-scores")],
)
async def test_a_failing_engine_is_a_gatekeeper_error_with_its_cause(error: Exception) -> None:
    engine = FakeEngine(error)
    engine.go.set()
    async with gatekeeper(engine) as keeper:
        with pytest.raises(GatekeeperError, match="failed on 1 messages") as caught:
            await keeper.classify([WINDOW])

    assert caught.value.__cause__ is error


async def test_out_of_memory_keeps_its_advice() -> None:
    engine = FakeEngine(GatekeeperOutOfMemory("lower max_batch_tokens"))
    engine.go.set()
    async with gatekeeper(engine) as keeper:
        with pytest.raises(GatekeeperOutOfMemory, match="lower max_batch_tokens"):
            await keeper.classify([WINDOW])


async def test_a_cancelled_caller_does_not_hurt_the_next() -> None:
    engine = FakeEngine()
    async with gatekeeper(engine) as keeper:
        first = asyncio.create_task(keeper.classify([WINDOW]))
        assert await asyncio.to_thread(engine.running.wait, 30)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        engine.go.set()
        assert await keeper.classify([WINDOW, WINDOW]) == [SCORES, SCORES]


async def test_an_opened_bundle_routes(tiny_bundle: Bundle, tiny_base: Path) -> None:
    keeper = await Gatekeeper.open(tiny_bundle, base=str(tiny_base))
    assert isinstance(keeper, Classifier)
    assert keeper.policy == tiny_bundle.manifest.policy()
    async with Router(classifier=keeper) as router:
        decisions = await router.decide_all(["hello", "数据表为什么没有数据"])

    assert [decision.bundle for decision in decisions] == [tiny_bundle.id] * 2
    assert all(decision.reason is not Reason.GATEKEEPER_FAILED for decision in decisions)
    with pytest.raises(GatekeeperClosed):  # the router closed it
        await keeper.classify([WINDOW])


async def test_two_open_at_once_and_agree(tiny_bundle: Bundle, tiny_base: Path) -> None:
    first, second = await asyncio.gather(*(Gatekeeper.open(tiny_bundle, base=str(tiny_base)) for _ in range(2)))
    async with first, second:
        left, right = await asyncio.gather(first.classify([WINDOW]), second.classify([WINDOW]))

    assert left[0].probabilities == pytest.approx(dict(right[0].probabilities), abs=1e-6)


async def test_a_bundle_that_does_not_open_leaves_no_thread(tiny_bundle: Bundle, tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(BaseModelError):
        await Gatekeeper.open(tiny_bundle, base=str(tmp_path / "nowhere"))

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gatekeeper")]
    assert threading.active_count() <= before + 1  # the loop's own pool may have grown
