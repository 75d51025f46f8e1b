"""What spares a handler that is failing: a circuit breaker for its route, and a budget for the retries of all routes.

Pure: no tasks, no I/O, and the clock is handed in. `dispatch` asks before it calls a handler, and reports afterwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pointsman.router.checks import check_at_least, check_seconds
from pointsman.router.errors import ConfigurationError

__all__ = ["Breaker", "BreakerSettings", "BreakerState", "RetryBudget"]

_SAVED = 100
"""First attempts whose share of retries can be saved up: the burst that a budget allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens, and when it lets a call try again."""

    failures: int = 5
    """This many in a row open it."""
    cooldown: float = 30.0
    """Seconds from there to the probe."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "failures")
        check_seconds(self, "cooldown")


class BreakerState(StrEnum):
    """What a breaker does with the next call."""

    CLOSED = "closed"
    """Lets it through."""
    OPEN = "open"
    """Refuses it."""
    HALF_OPEN = "half_open"
    """Lets it through as the probe, unless one is under way."""


class Breaker:
    """Stops calls to what keeps failing, and lets one through now and then to see whether it has recovered.

    closed ──failures in a row──▶ open ──cooldown──▶ half-open ──the probe succeeds──▶ closed
                                   ▲                     │
                                   └──the probe fails────┘

    Ask `allow` before a call and report afterwards with one of `succeeded`, `failed` and `cancelled`. Where calls
    overlap, give the `epoch` in which the call was let through: a call that began before the breaker last changed says
    nothing about now, so its report is left out (as in Sony's gobreaker, which calls it the generation).
    """

    def __init__(self, settings: BreakerSettings | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start closed; `clock` returns seconds."""
        self._settings = settings or BreakerSettings()
        self._clock = clock
        self._epoch = 0
        self._failures = 0
        self._opened: float | None = None  # when; None while closed
        self._probing = False

    @property
    def state(self) -> BreakerState:
        """What the next call will meet."""
        if self._opened is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._probing or not self.retry_after else BreakerState.OPEN

    @property
    def epoch(self) -> int:
        """A number that changes with the breaker: when it opens, when it lets a probe through, when it closes."""
        return self._epoch

    @property
    def retry_after(self) -> float:
        """Seconds until a call may be let through, 0 if one may now; while a probe is under way, a whole cooldown."""
        if self._opened is None:
            return 0.0
        passed = 0.0 if self._probing else self._clock() - self._opened
        return max(self._settings.cooldown - passed, 0.0)

    def allow(self) -> bool:
        """Return whether a call may be made now; of a half-open breaker that call is the probe, and the only one."""
        if self._opened is None:
            return True
        if self.retry_after:
            return False
        self._probing = True
        self._epoch += 1
        return True

    def succeeded(self, epoch: int | None = None) -> None:
        """Count a success: it ends a row of failures, and the probe's closes the breaker."""
        if self._counts(epoch):
            self._failures = 0
            if self._probing:
                self._change(opened=None)

    def failed(self, epoch: int | None = None) -> bool:
        """Count a failure and return whether it opened the breaker, for the first time or again."""
        if not self._counts(epoch):
            return False
        self._failures += 1
        if not self._probing and self._failures < self._settings.failures:
            return False
        self._change(opened=self._clock())
        return True

    def cancelled(self, epoch: int | None = None) -> None:
        """Count nothing; where the call was the probe, the next one may be."""
        if self._counts(epoch):
            self._probing = False

    def _counts(self, epoch: int | None) -> bool:
        return epoch in (None, self._epoch) and (self._opened is None or self._probing)

    def _change(self, *, opened: float | None) -> None:
        self._opened, self._failures, self._probing = opened, 0, False
        self._epoch += 1


class RetryBudget:
    """Keeps retries to a share of the first attempts, so that they cannot multiply the load on what is failing.

    A token bucket: a first attempt pays `share` of a token in, a retry takes a whole one out. It starts full and holds
    the share of 100 first attempts, so that n of them lead to at most n x (1 + share) + 100 x share attempts, whatever
    fails. With a fixed number of retries alone, n messages would become n x (1 + retries) just when that hurts most.

    Source: Finagle's RetryBudget (https://finagle.github.io/blog/2016/02/08/retry-budgets/); gRPC throttles retries
    with the same bucket, filled by successes instead (https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
    """

    def __init__(self, share: float) -> None:
        """Allow `share` retries for one first attempt, 0 to 1; with 0 there are none."""
        if not 0 <= share <= 1:
            raise ConfigurationError(f"`retry_share` must lie in 0..1, got {share!r}")
        self._share = share
        self._full = self._tokens = float(math.ceil(share * _SAVED))

    def deposit(self) -> None:
        """Note a first attempt."""
        self._tokens = min(self._tokens + self._share, self._full)

    def withdraw(self) -> bool:
        """Take the token for one retry; return whether there was one."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
