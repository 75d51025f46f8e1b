"""`pointsman chat`: a conversation through the router, in the terminal or line by line from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

import typer

from pointsman.integrations.cli.boundary import FAILED, show_error
from pointsman.integrations.cli.options import (
    BaseOption,
    BundleOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    settings_from,
)
from pointsman.integrations.cli.output import print_json
from pointsman.integrations.cli.session import opened_router
from pointsman.router import Decision, HandlerError, Message, Role, Router

__all__ = ["asked", "chat"]

_WELCOME = "/reset starts a new conversation, /quit ends it.   /reset 重新开始，/quit 退出。\n"


def chat(
    *,
    as_json: JsonOption = False,
    bundle: BundleOption = None,
    base: BaseOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
) -> None:
    """Talk to the router, and see where each message goes."""
    settings = settings_from(config, bundle=bundle, base=base, device=device)
    messages: list[Message] = []
    failed = False
    with opened_router(settings) as (router, runner):
        for text in asked("you> ", _WELCOME):
            if text == "/reset":
                messages = []
                continue
            messages.append(Message(role=Role.USER, content=text))
            try:
                reply = runner.run(_answer(router, messages, as_json=as_json))
            except HandlerError as error:  # of this one message; the conversation goes on
                show_error(error)
                messages.pop()
                failed = True
            else:
                messages.append(Message(role=Role.ASSISTANT, content=reply))
    if failed and not sys.stdin.isatty():
        raise typer.Exit(FAILED)


def asked(prompt: str, welcome: str) -> Iterator[str]:
    """Yield what is typed or piped, line by line and without blank ones, until /quit or the end of the input."""
    terminal = sys.stdin.isatty()
    if terminal:
        sys.stderr.write(welcome)
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401 -- gives input() a history and editing
        if not sys.stdout.isatty():
            sys.stderr.write(prompt)
            prompt = ""
    while True:
        sys.stdout.flush()
        try:
            line = input(prompt) if terminal else sys.stdin.readline()
        except EOFError:
            sys.stderr.write("\n")
            return
        if not line and not terminal:
            return
        text = line.strip()
        if text in {"/quit", "/exit"}:
            return
        if text:
            yield text


async def _answer(router: Router, messages: list[Message], *, as_json: bool) -> str:
    pieces: list[str] = []
    decision: Decision | None = None
    try:
        async for item in router.stream(messages):
            if isinstance(item, Decision):
                decision = item
                _write("" if as_json else f"[{item.label} {item.confidence:.2f} -> {item.route}]\n")
            else:
                pieces.append(item)
                _write("" if as_json else item)
    finally:
        if not as_json:
            _write("\n\n")
    reply = "".join(pieces)
    if as_json and decision is not None:
        print_json({"decision": decision.as_dict(), "text": reply})
    return reply


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
