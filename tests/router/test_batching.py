import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.router import (
    BatchLimits,
    Classifier,
    ConfigurationError,
    GatekeeperClosed,
    GatekeeperError,
    GatekeeperOutOfMemory,
    GatekeeperOverloaded,
    MicroBatcher,
    Reason,
    Router,
    Scores,
    Window,
)
from pointsman.router.testing import ScriptedClassifier


class HeldClassifier(ScriptedClassifier):
    """Remembers its batches and answers each one only when it is let go."""

    def __init__(self, *, held: bool = True) -> None:
        super().__init__(lambda window: "irrelevant" if "?" in window.message else "data_platform")
        self.batches: list[list[str]] = []
        self.begun = asyncio.Semaphore(0)
        self.error: Exception | None = None
        self._turns = asyncio.Semaphore(0)
        self._held = held
        self.at_once = 0
        self.most_at_once = 0

    async def classify(self, windows: Sequence[Window]) -> list[Scores]:
        self.batches.append([window.message for window in windows])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.release()
        try:
            if self._held:
                await self._turns.acquire()
            else:
                await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        if self.error is not None:
            raise self.error
        return await super().classify(windows)

    def let_go(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._turns.release()


def one(message: str) -> list[Window]:
    return [Window(message=message)]


async def start(batcher: MicroBatcher, *messages: str) -> list[asyncio.Task[list[Scores]]]:
    """Call once a message and return when all calls wait."""
    tasks = [asyncio.create_task(batcher.classify(one(message))) for message in messages]
    await asyncio.sleep(0)
    return tasks


async def test_an_idle_classifier_gets_the_first_message_at_once_and_then_all_that_came_meanwhile() -> None:
    held = HeldClassifier()
    batcher = MicroBatcher(held)

    first = await start(batcher, "a")
    await held.begun.acquire()
    rest = await start(batcher, "b", "c", "d")
    held.let_go(2)
    await asyncio.gather(*first, *rest)

    assert held.batches == [["a"], ["b", "c", "d"]]


async def test_callers_that_ask_at_the_same_moment_share_a_batch_and_each_gets_its_own_answer() -> None:
    held = HeldClassifier(held=False)
    batcher = MicroBatcher(held)

    answers = await asyncio.gather(*(batcher.classify(one(m)) for m in ("why?", "load the table", "who?")))

    assert [scores.label for [scores] in answers] == ["irrelevant", "data_platform", "irrelevant"]
    assert [sorted(batch) for batch in held.batches] == [["load the table", "who?", "why?"]]


async def test_the_classifier_never_works_on_two_batches_at_once() -> None:
    held = HeldClassifier(held=False)
    batcher = MicroBatcher(held, BatchLimits(windows=3))

    await asyncio.gather(*(batcher.classify(one(f"message {n}")) for n in range(50)))

    assert held.most_at_once == 1
    assert max(map(len, held.batches)) == 3


async def test_a_batch_takes_the_oldest_window_and_those_that_are_like_it_in_length() -> None:
    held = HeldClassifier()
    batcher = MicroBatcher(held, BatchLimits(windows=2))

    tasks = await start(batcher, "busy")
    await held.begun.acquire()
    tasks += await start(batcher, "short", "a very much longer message", "brief", "another rather long message")
    held.let_go(3)
    await asyncio.gather(*tasks)

    assert held.batches[1:] == [["short", "brief"], ["a very much longer message", "another rather long message"]]


async def test_a_batch_keeps_to_its_characters_and_a_message_beyond_them_goes_alone() -> None:
    held = HeldClassifier()
    batcher = MicroBatcher(held, BatchLimits(characters=10))

    tasks = await start(batcher, "busy")
    await held.begun.acquire()
    tasks += await start(batcher, "x" * 100, "12345", "67890", "abc")
    held.let_go(9)
    await asyncio.gather(*tasks)

    assert held.batches[1:] == [["x" * 100], ["12345", "67890"], ["abc"]]


async def test_windows_of_one_call_come_back_in_order_over_several_batches() -> None:
    batcher = MicroBatcher(HeldClassifier(held=False), BatchLimits(windows=4))
    messages = ["ok" * (n % 7) + ("?" if n % 3 else "!") for n in range(40)]

    scores = await batcher.classify([Window(message=message) for message in messages])

    assert [score.label == "irrelevant" for score in scores] == ["?" in message for message in messages]


async def test_a_call_without_windows_asks_nobody() -> None:
    held = HeldClassifier()

    assert await MicroBatcher(held).classify([]) == []
    assert held.batches == []


async def test_a_cancelled_caller_takes_its_waiting_windows_along_and_does_not_hurt_its_batch() -> None:
    held = HeldClassifier()
    batcher = MicroBatcher(held)

    [leaves, stays] = await start(batcher, "leaves", "stays")
    await held.begun.acquire()
    [never] = await start(batcher, "never asked")
    leaves.cancel()
    never.cancel()
    held.let_go(2)

    assert [scores.label for scores in await stays] == ["data_platform"]
    assert held.batches == [["leaves", "stays"]]
    with pytest.raises(asyncio.CancelledError):
        await leaves
    with pytest.raises(asyncio.CancelledError):
        await never


async def test_a_failed_batch_reaches_every_caller_in_it_and_the_next_one_starts_clean() -> None:
    held = HeldClassifier(held=False)
    held.error = ZeroDivisionError("in the model")
    batcher = MicroBatcher(held)

    failed = await asyncio.gather(*(batcher.classify(one(m)) for m in "ab"), return_exceptions=True)
    held.error = None
    fine = await batcher.classify(one("c"))

    assert [type(error) for error in failed] == [GatekeeperError, GatekeeperError]
    assert failed[0] is not failed[1]
    assert all(isinstance(error, BaseException) and error.__cause__ is not None for error in failed)
    assert fine[0].label == "data_platform"


async def test_an_error_of_the_gatekeeper_keeps_its_class_and_its_words() -> None:
    held = HeldClassifier(held=False)
    held.error = GatekeeperOutOfMemory("lower max_batch_tokens")

    with pytest.raises(GatekeeperOutOfMemory, match=r"^lower max_batch_tokens$"):
        await MicroBatcher(held).classify(one("a"))


async def test_a_classifier_that_answers_too_little_fails_its_batch() -> None:
    class Forgetful(HeldClassifier):
        async def classify(self, windows: Sequence[Window]) -> list[Scores]:
            return (await super().classify(windows))[1:]

    with pytest.raises(GatekeeperError, match="expected 1 scores, got 0"):
        await MicroBatcher(Forgetful(held=False)).classify(one("a"))


async def test_a_full_queue_refuses_the_next_caller_and_keeps_the_others() -> None:
    held = HeldClassifier()
    batcher = MicroBatcher(held, BatchLimits(waiting=2))

    tasks = await start(batcher, "at work")
    await held.begun.acquire()
    tasks += await start(batcher, "waits", "waits too")
    with pytest.raises(GatekeeperOverloaded, match="2 messages wait for the gatekeeper already, 2 may"):
        await batcher.classify(one("one too many"))
    held.let_go(2)

    assert len(await asyncio.gather(*tasks)) == 3


async def test_a_call_larger_than_the_queue_is_taken_when_nobody_waits() -> None:
    batcher = MicroBatcher(HeldClassifier(held=False), BatchLimits(waiting=2, windows=2))

    assert len(await batcher.classify([Window(message=str(n)) for n in range(9)])) == 9


async def test_a_caller_that_waits_too_long_for_its_batch_is_told_so() -> None:
    held = HeldClassifier()
    batcher = MicroBatcher(held, BatchLimits(patience=0.01))

    [working] = await start(batcher, "at work")
    await held.begun.acquire()
    with pytest.raises(GatekeeperOverloaded, match=r"no batch began within 0.01 s"):
        await batcher.classify(one("late"))
    held.let_go()

    assert len(await working) == 1  # what has begun is finished, however long it takes
    assert held.batches == [["at work"]]


async def test_closing_answers_those_who_wait_and_refuses_the_next() -> None:
    held = HeldClassifier()
    batcher = MicroBatcher(held)

    tasks = await start(batcher, "at work")
    await held.begun.acquire()
    tasks += await start(batcher, "waits")
    closing = asyncio.create_task(batcher.aclose())
    await asyncio.sleep(0)
    with pytest.raises(GatekeeperClosed):
        await batcher.classify(one("too late"))
    held.let_go(2)
    await closing
    await batcher.aclose()

    assert len(await asyncio.gather(*tasks)) == 2
    assert held.closed == 2


async def test_nobody_waits_for_ever_when_the_worker_is_cancelled() -> None:
    held = HeldClassifier()
    batcher = MicroBatcher(held)

    tasks = await start(batcher, "at work")
    await held.begun.acquire()
    tasks += await start(batcher, "waits")
    [worker] = [task for task in asyncio.all_tasks() if task.get_name() == "micro-batcher"]
    worker.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    held.let_go()

    assert [type(end) for end in ends] == [GatekeeperClosed, GatekeeperClosed]
    assert len(await batcher.classify(one("afterwards"))) == 1


def test_one_batcher_serves_one_event_loop_after_another() -> None:
    batcher = MicroBatcher(ScriptedClassifier(lambda window: "general_chat"))

    for _ in range(2):
        assert len(asyncio.run(batcher.classify(one("hello")))) == 1


async def test_a_second_event_loop_at_the_same_time_is_refused() -> None:
    held = HeldClassifier()
    batcher = MicroBatcher(held)
    tasks = await start(batcher, "at work")
    await held.begun.acquire()

    with pytest.raises(ConfigurationError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, batcher.classify(one("elsewhere")))

    held.let_go()
    await asyncio.gather(*tasks)


async def test_an_overloaded_gatekeeper_does_not_cost_the_user_an_answer() -> None:
    held = HeldClassifier()
    router = Router(classifier=MicroBatcher(held, BatchLimits(waiting=1)))

    tasks = [asyncio.create_task(router.decide(text)) for text in ("at work", "waits", "one too many")]
    await held.begun.acquire()
    late = await router.decide("and another")
    held.let_go(2)
    decisions = await asyncio.gather(*tasks)

    assert late.reason is Reason.GATEKEEPER_FAILED
    assert late.route == "knowledge_base"
    assert {decision.reason for decision in decisions} <= {Reason.CONFIDENT, Reason.GATEKEEPER_FAILED}


def test_a_batcher_is_a_classifier_and_shows_what_is_behind_it() -> None:
    scripted = ScriptedClassifier({}, bundle="b1")
    batcher = MicroBatcher(scripted)

    assert isinstance(batcher, Classifier)
    assert batcher.bundle == "b1"
    assert batcher.policy is scripted.policy


@pytest.mark.parametrize(
    "wrong",
    [{"windows": 0}, {"characters": 0}, {"waiting": 0}, {"patience": 0.0}, {"patience": float("nan")}],
)
def test_limits_that_let_nothing_through_are_refused(wrong: dict[str, float]) -> None:
    [name] = wrong

    with pytest.raises(ConfigurationError, match=f"`{name}` must be"):
        BatchLimits(**wrong)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(
    calls=st.lists(st.lists(st.text(alphabet="ab?", min_size=1, max_size=12), max_size=4), min_size=1, max_size=25),
    leaving=st.sets(st.integers(min_value=0, max_value=24), max_size=6),
    windows=st.integers(min_value=1, max_value=5),
    characters=st.integers(min_value=1, max_value=40),
)
def test_whoever_stays_gets_the_answer_to_his_own_windows_whatever_the_others_do(
    calls: list[list[str]], leaving: set[int], windows: int, characters: int
) -> None:
    async def play() -> None:
        held = HeldClassifier(held=False)
        batcher = MicroBatcher(held, BatchLimits(windows=windows, characters=characters))
        tasks = [asyncio.create_task(batcher.classify([Window(message=m) for m in call])) for call in calls]
        await asyncio.sleep(0)
        for number in leaving & set(range(len(tasks))):
            tasks[number].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.aclose()

        for number, (call, end) in enumerate(zip(calls, ends, strict=True)):
            if number in leaving and isinstance(end, asyncio.CancelledError):
                continue
            assert isinstance(end, list)
            assert [scores.label == "irrelevant" for scores in end] == ["?" in message for message in call]
        assert held.most_at_once <= 1
        for batch in held.batches:
            assert len(batch) <= windows
            assert sum(map(len, batch)) <= characters or len(batch) == 1

    asyncio.run(play())
