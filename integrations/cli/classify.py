"""`pointsman classify`: one decision a line, in the order of the input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from pointsman.integrations.cli.boundary import FAILED, OptionError
from pointsman.integrations.cli.lines import Row, batches
from pointsman.integrations.cli.options import (
    BaseOption,
    BundleOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    settings_from,
)
from pointsman.integrations.cli.output import one_line, print_json
from pointsman.integrations.cli.session import opened_gatekeeper
from pointsman.router import Conversation, Decision, Reason, Router

__all__ = ["classify"]


def classify(
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Messages.", show_default=False)] = None,
    *,
    source: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE|-", help='JSON lines of {"text"} or {"messages"}; - reads stdin.'),
    ] = None,
    as_json: JsonOption = False,
    bundle: BundleOption = None,
    base: BaseOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
) -> None:
    """Label messages, one decision a line. Other keys of an input line come back under `input`."""
    if bool(text) == bool(source):
        raise OptionError('expected messages or --input, and not both: pointsman classify "why is my DAG stuck?"')
    settings = settings_from(config, bundle=bundle, base=base, device=device)
    failed = 0
    with opened_gatekeeper(settings) as (gatekeeper, runner):
        router = Router(classifier=gatekeeper)
        for batch in batches(source) if source else _typed(text or []):
            decisions = runner.run(router.decide_all([row.conversation for row in batch]))
            for row, decision in zip(batch, decisions, strict=True):
                failed += decision.reason is Reason.GATEKEEPER_FAILED
                _print(row, decision, as_json=as_json)
            sys.stdout.flush()
    if failed:
        sys.stderr.write(f"pointsman: the gatekeeper failed on {failed} messages; the log above says why\n")
        raise typer.Exit(FAILED)


def _typed(texts: Sequence[str]) -> Iterator[Sequence[Row]]:
    # whatever the locale took the bytes of the command line for, they are UTF-8
    decoded = (os.fsencode(text).decode("utf-8", errors="replace") for text in texts)
    yield [Row(conversation=Conversation.of(text)) for text in decoded]


def _print(row: Row, decision: Decision, *, as_json: bool) -> None:
    if as_json:
        print_json({**decision.as_dict(), "input": dict(row.others)})
        return
    text = one_line(row.conversation.last_user_message)
    sys.stdout.write(f"{decision.label:<13}  {decision.confidence:.2f}  {decision.route:<14}  {text}\n")
