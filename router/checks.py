"""Checks that settings make of themselves; what they raise names the setting, its bound and the value found."""

from __future__ import annotations

from pointsman.router.errors import ConfigurationError

__all__ = ["check_at_least", "check_seconds"]


def check_at_least(settings: object, least: int, *names: str) -> None:
    """Raise a `ConfigurationError` where one of the numbers is below `least`, or NaN."""
    for name in names:
        value = getattr(settings, name)
        if not value >= least:
            raise ConfigurationError(f"`{name}` must be at least {least}, got {value!r}")


def check_seconds(settings: object, *names: str) -> None:
    """Raise a `ConfigurationError` where one of the times is not above 0, or NaN."""
    for name in names:
        value = getattr(settings, name)
        if not value > 0:
            raise ConfigurationError(f"`{name}` must be more than 0 seconds, got {value!r}")
