"""Every error Pointsman raises on purpose.

* PointsmanError
  x ConfigurationError (also ValueError)
  x MissingDependencyError (also ImportError)
  x InputError (also ValueError)
  x DataError (also ValueError)
  x BundleError
    + BundleNotFoundError (also FileNotFoundError)
    + BundleCorruptError (also ValueError)
  x BaseModelError
    + BaseModelNotFoundError (also FileNotFoundError)
  x GatekeeperError
    + GatekeeperClosed
    + GatekeeperOutOfMemory (also MemoryError)
    + GatekeeperOverloaded
  x HandlerError
    + HandlerOverloaded
    + HandlerTimeout (also TimeoutError)
    + HandlerUnavailable
"""

__all__ = [
    "BaseModelError",
    "BaseModelNotFoundError",
    "BundleCorruptError",
    "BundleError",
    "BundleNotFoundError",
    "ConfigurationError",
    "DataError",
    "GatekeeperClosed",
    "GatekeeperError",
    "GatekeeperOutOfMemory",
    "GatekeeperOverloaded",
    "HandlerError",
    "HandlerOverloaded",
    "HandlerTimeout",
    "HandlerUnavailable",
    "InputError",
    "MissingDependencyError",
    "PointsmanError",
]


class PointsmanError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigurationError(PointsmanError, ValueError):
    """A setting is missing, malformed or contradicts another one."""


class MissingDependencyError(PointsmanError, ImportError):
    """An optional dependency is not installed; the message names the command that installs it."""


class InputError(PointsmanError, ValueError):
    """A message or a conversation does not have the expected shape."""


class DataError(PointsmanError, ValueError):
    """A file of labelled messages cannot be used; the message names the file and the line."""


class BundleError(PointsmanError):
    """Something is wrong with a bundle or with the store that keeps it."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """There is no bundle under this id or path."""


class BundleCorruptError(BundleError, ValueError):
    """A bundle's files are not what its manifest says; the message names the file."""


class BaseModelError(PointsmanError):
    """The base model cannot be used: incomplete, of an unknown family, or not the one the bundle was trained on."""


class BaseModelNotFoundError(BaseModelError, FileNotFoundError):
    """The base model was found in none of the places that are searched."""


class GatekeeperError(PointsmanError):
    """The gatekeeper could not label a message."""


class GatekeeperClosed(GatekeeperError):
    """The gatekeeper was used outside `async with`."""


class GatekeeperOutOfMemory(GatekeeperError, MemoryError):
    """The batch did not fit in memory; the message says which setting to lower."""


class GatekeeperOverloaded(GatekeeperError):
    """More messages wait for the gatekeeper than it may let wait, or they waited too long."""


class HandlerError(PointsmanError):
    """A handler could not answer."""


class HandlerOverloaded(HandlerError):
    """A handler has as much to answer as it can; its turn did not come in time."""


class HandlerTimeout(HandlerError, TimeoutError):
    """A handler was given up: its next piece did not come in the time of its route."""


class HandlerUnavailable(HandlerError):
    """A handler is not asked for now, since it failed too often in a row."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds until it may be asked again."""
