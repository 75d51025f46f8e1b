import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pointsman.router import ConfigurationError
from pointsman.router.breaker import Breaker, BreakerSettings, BreakerState, RetryBudget

COOLDOWN = 30.0
FAILURES = 3


class Clock:
    """Stands still until it is told to go on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock | None = None) -> Breaker:
    return Breaker(BreakerSettings(failures=FAILURES, cooldown=COOLDOWN), clock=clock or Clock())


@pytest.mark.parametrize(
    ("story", "state", "allows"),
    [
        pytest.param("", "closed", True, id="new"),
        pytest.param("f f", "closed", True, id="one-failure-short"),
        pytest.param("f f f", "open", False, id="a-row-of-failures-opens-it"),
        pytest.param("f f s f f", "closed", True, id="a-success-ends-the-row"),
        pytest.param("f f c f", "open", False, id="a-cancelled-call-does-not-end-the-row"),
        pytest.param("c c c c", "closed", True, id="cancelled-calls-are-no-failures"),
        pytest.param("f f f wait", "half_open", True, id="the-cooldown-half-opens-it"),
        pytest.param("f f f wait probe", "half_open", False, id="one-probe-at-a-time"),
        pytest.param("f f f wait probe wait", "half_open", False, id="however-long-it-takes"),
        pytest.param("f f f wait probe s", "closed", True, id="its-success-closes"),
        pytest.param("f f f wait probe s f f", "closed", True, id="and-the-row-starts-anew"),
        pytest.param("f f f wait probe f", "open", False, id="its-failure-opens-again"),
        pytest.param("f f f wait probe f wait", "half_open", True, id="for-another-cooldown"),
        pytest.param("f f f wait probe c", "half_open", True, id="cancelled-it-makes-room-for-the-next"),
        pytest.param("f f f s", "open", False, id="a-late-success-does-not-close"),
        pytest.param("f f f wait s", "half_open", True, id="not-even-after-the-cooldown"),
        pytest.param("f f f wait f", "half_open", True, id="nor-does-a-late-failure-open-again"),
    ],
)
def test_a_breaker_follows_its_table(story: str, state: str, *, allows: bool) -> None:
    clock = Clock()
    tested = breaker(clock)
    for step in story.split():
        if step == "wait":
            clock.now += COOLDOWN
        elif step == "probe":
            assert tested.allow()
        else:
            {"s": tested.succeeded, "f": tested.failed, "c": tested.cancelled}[step]()

    assert tested.state == state
    assert tested.allow() is allows


def test_it_says_which_failure_opened_it() -> None:
    clock = Clock()
    tested = breaker(clock)

    assert [tested.failed() for _ in range(FAILURES + 1)] == [False, False, True, False]
    clock.now += COOLDOWN
    assert tested.allow()
    assert tested.failed()


def test_it_says_how_long_it_refuses() -> None:
    clock = Clock()
    tested = breaker(clock)
    assert tested.retry_after == 0
    for _ in range(FAILURES):
        tested.failed()

    assert tested.retry_after == COOLDOWN
    clock.now += 20
    assert tested.retry_after == COOLDOWN - 20
    clock.now += 20
    assert tested.retry_after == 0
    assert tested.allow()
    assert tested.retry_after == COOLDOWN  # nobody knows when the probe will be back


@pytest.mark.parametrize("report", ["succeeded", "failed", "cancelled"])
def test_a_call_from_before_it_opened_cannot_speak_for_the_probe(report: str) -> None:
    clock = Clock()
    tested = breaker(clock)
    assert tested.allow()
    old = tested.epoch
    for _ in range(FAILURES):
        tested.failed()
    clock.now += COOLDOWN
    assert tested.allow()

    getattr(tested, report)(old)

    assert tested.state is BreakerState.HALF_OPEN
    assert not tested.allow()
    tested.succeeded(tested.epoch)
    assert tested.allow()
    assert tested.retry_after == 0


class AnyCalls(RuleBasedStateMachine):
    """Calls that overlap and end in any order, on a clock that jumps, against what a breaker promises."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = breaker(self.clock)
        self.probe: int | None = None  # the epoch of the probe under way
        self.row = 0  # failures, of calls that began since the breaker closed
        self.closed_since: int | None = 0  # the epoch it closed in; None while it is not closed
        self.opened = 0.0

    @rule(target=calls)
    def call(self) -> int | None:
        ready = self.clock.now - self.opened >= COOLDOWN
        expected = self.closed_since is not None or (ready and self.probe is None)
        assert self.breaker.allow() is expected
        if not expected:
            return None
        if self.closed_since is None:
            self.probe = self.breaker.epoch
        return self.breaker.epoch

    @rule(call=consumes(calls))
    def succeed(self, call: int | None) -> None:
        if call is None:
            return
        self.breaker.succeeded(call)
        if call == self.probe:
            assert self.breaker.state is BreakerState.CLOSED
            self.probe, self.row, self.closed_since = None, 0, self.breaker.epoch
        elif call == self.closed_since:
            self.row = 0

    @rule(call=consumes(calls))
    def fail(self, call: int | None) -> None:
        if call is None:
            return
        current = call in (self.probe, self.closed_since)
        self.row += current
        opens = current and (call == self.probe or self.row == FAILURES)
        assert self.breaker.failed(call) is opens
        if opens:
            assert self.breaker.state is BreakerState.OPEN
            self.probe, self.row, self.closed_since, self.opened = None, 0, None, self.clock.now

    @rule(call=consumes(calls))
    def cancel(self, call: int | None) -> None:
        if call is None:
            return
        self.breaker.cancelled(call)
        if call == self.probe:
            self.probe = None

    @rule(seconds=st.sampled_from([1.0, COOLDOWN / 2, COOLDOWN]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def there_is_never_a_second_probe(self) -> None:
        assert self.probe is None or not self.breaker.allow()

    @invariant()
    def it_is_closed_until_a_row_of_failures_and_after_a_good_probe(self) -> None:
        assert (self.breaker.state is BreakerState.CLOSED) is (self.closed_since is not None)


TestAnyCalls = AnyCalls.TestCase


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"failures": 0}, "`failures` must be at least 1, got 0", id="no-failure-to-open-on"),
        pytest.param({"cooldown": 0.0}, "`cooldown` must be more than 0 seconds, got 0.0", id="no-cooldown"),
        pytest.param({"cooldown": math.nan}, "got nan", id="not-a-number"),
    ],
)
def test_settings_that_make_no_breaker_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        BreakerSettings(**settings)  # type: ignore[arg-type]


def test_a_retry_budget_starts_with_a_burst_and_then_allows_the_share() -> None:
    budget = RetryBudget(0.25)
    assert [budget.withdraw() for _ in range(26)] == [True] * 25 + [False]

    granted = []
    for _ in range(12):
        budget.deposit()
        granted.append(budget.withdraw())

    assert granted == [False, False, False, True] * 3


def test_a_quiet_time_saves_up_no_more_than_the_burst() -> None:
    budget = RetryBudget(0.25)
    for _ in range(10_000):
        budget.deposit()

    assert sum(budget.withdraw() for _ in range(100)) == 25


def test_a_share_of_nothing_allows_no_retry_at_all() -> None:
    budget = RetryBudget(0)
    budget.deposit()

    assert not budget.withdraw()


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_beyond_the_whole_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match=r"`retry_share` must lie in 0\.\.1, got"):
        RetryBudget(share)
