"""Where errors end: one paragraph on stderr and an exit code. A traceback only for those who ask for one.

0 ok · 1 failed · 2 usage · 3 a gate was not met · 4 bad data · 130 interrupted
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable

import typer

from pointsman.router import ConfigurationError, DataError, InputError, PointsmanError

__all__ = ["OptionError", "about_options", "enable_debugging", "is_debugging", "run", "show_error"]

FAILED, USAGE, GATE, BAD_DATA, INTERRUPTED = 1, 2, 3, 4, 130

_DEBUG = "POINTSMAN_DEBUG"
_ADVICE: Mapping[int, str] = {
    errno.ENOSPC: "free some space and run it again; nothing half-written was kept",
    errno.EDQUOT: "your disk quota is used up; free some space and run it again",
    errno.EACCES: "change its permissions or choose another place",
    errno.EPERM: "change its permissions or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file, not a folder",
}


class OptionError(ConfigurationError):
    """What was typed, set in the environment or written in a configuration file cannot be used."""


@runtime_checkable
class _CommandLineError(Protocol):
    """An error of the option parser (its class moved between typer's releases)."""

    exit_code: int

    def format_message(self) -> str: ...


@contextmanager
def about_options() -> Iterator[None]:
    """Mark configuration errors of the block as caused by options, so that they exit with 2."""
    try:
        yield
    except OptionError:
        raise
    except ConfigurationError as error:
        raise OptionError(str(error)) from error


def run(app: typer.Typer, args: Sequence[str]) -> int:
    """Return the exit code of the command line `args`; no exception but a shell's `SystemExit` gets out."""
    _speak_utf8()
    try:
        with _logging_to_stderr(), warnings.catch_warnings():
            # what model libraries tell their own callers; a user can do nothing about it
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate|torch)\b")
            code = app(args=list(args), prog_name="pointsman", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 -- the user gets it, in a paragraph
        return show_error(error)
    finally:
        _flush_or_drop()


def show_error(error: Exception) -> int:
    """Write the error to stderr in one paragraph and return its exit code."""
    if is_debugging():
        traceback.print_exception(error)
    message, code = _explain(error)
    paragraph = "\n".join(line for line in message.splitlines() if line.strip())
    sys.stderr.write(f"pointsman: {paragraph}\n")
    sys.stderr.flush()
    return code


def enable_debugging() -> None:
    """Show tracebacks and debug logs from here on."""
    os.environ[_DEBUG] = "1"
    logging.getLogger("pointsman").setLevel(logging.DEBUG)


def is_debugging() -> bool:
    """Return whether tracebacks are wanted."""
    return os.environ.get(_DEBUG, "0") not in {"", "0"}


def _explain(error: Exception) -> tuple[str, int]:  # noqa: PLR0911 -- one a kind
    match error:
        case DataError() | InputError():
            return str(error), BAD_DATA
        case OptionError():
            return str(error), USAGE
        case PointsmanError():
            return str(error), FAILED
        case _CommandLineError():
            context = getattr(error, "ctx", None)
            path = getattr(context, "command_path", "pointsman")
            return f"{error.format_message()} See: {path} --help", error.exit_code
        case OSError():
            return _explain_os_error(error), FAILED
        case MemoryError():
            return "out of memory; close other programs, or classify less at a time", FAILED
        case _:
            return f"unexpected {type(error).__name__}: {error}; {_DEBUG}=1 shows where, please report it", FAILED


def _explain_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    advice = _ADVICE.get(error.errno or 0)
    return f"{where}{error.strerror or error}" + (f"; {advice}" if advice else "")


def _speak_utf8() -> None:
    """Read and write UTF-8 whatever the locale says; a lone surrogate becomes an escape, in JSON a valid one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")


class _OneLine(logging.Formatter):
    """Leave the traceback out unless one is wanted; the message says what happened."""

    def formatException(self, ei: object) -> str:  # noqa: N802 -- logging's name
        return super().formatException(ei) if is_debugging() else ""  # type: ignore[arg-type]


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Show our own log on stderr in the block."""
    logger = logging.getLogger("pointsman")
    before = logger.handlers, logger.level, logger.propagate
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG if is_debugging() else logging.WARNING)
    try:
        yield
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)


def _flush_or_drop() -> None:
    """Write what is left on stdout; where that fails, its reader gone or its disk full, let the rest go.

    Otherwise the interpreter would try again at exit, complain in its own words, and exit with 120.
    """
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
