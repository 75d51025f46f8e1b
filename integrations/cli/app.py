"""`pointsman`: the commands, and the frame that turns every error into one paragraph and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pointsman import __version__
from pointsman.integrations.cli import boundary
from pointsman.integrations.cli.adapters import adapters
from pointsman.integrations.cli.chat import chat
from pointsman.integrations.cli.classify import classify
from pointsman.integrations.cli.demo import demo
from pointsman.integrations.cli.doctor import doctor
from pointsman.integrations.cli.evaluate import evaluate, try_out
from pointsman.integrations.cli.interactive import interactive
from pointsman.integrations.cli.menu import menu
from pointsman.integrations.cli.train import train

__all__ = ["app", "main"]

_HELP = """Send each message to the knowledge base, the general LLM or a polite refusal.

Data goes to stdout, progress to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 a gate was not met, 4 bad data.
Settings: options, else POINTSMAN_* variables, else pointsman.toml."""

app = typer.Typer(
    name="pointsman",
    help=_HELP,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in (
    ("demo", demo),
    ("classify", classify),
    ("chat", chat),
    ("interactive", interactive),
    ("train", train),
    ("test", try_out),
    ("evaluate", evaluate),
    ("doctor", doctor),
):
    app.command(name)(command)
app.add_typer(adapters, name="adapters")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line on `args` (by default the process's) and return the exit code."""
    return boundary.run(app, sys.argv[1:] if args is None else args)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"pointsman {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and debug logs. Also: POINTSMAN_DEBUG=1.")
    ] = False,
) -> None:
    if debug:
        boundary.enable_debugging()
    if context.invoked_subcommand is not None:
        return
    if sys.stdin.isatty() and sys.stdout.isatty():
        menu(main)
    else:
        sys.stdout.write(f"{context.get_help()}\n")
