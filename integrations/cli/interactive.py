"""`pointsman interactive`: question after question, each with its category and confidence. Nothing is answered."""

from __future__ import annotations

import sys

from pointsman.integrations.cli.chat import asked
from pointsman.integrations.cli.options import (
    BaseOption,
    BundleOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    settings_from,
)
from pointsman.integrations.cli.output import print_json
from pointsman.integrations.cli.session import opened_gatekeeper
from pointsman.router import Decision, Router

__all__ = ["interactive"]

_WELCOME = "Type a question; /quit ends.   输入问题，/quit 退出。\n"


def interactive(
    *,
    as_json: JsonOption = False,
    bundle: BundleOption = None,
    base: BaseOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
) -> None:
    """Classify question after question, unanswered."""
    settings = settings_from(config, bundle=bundle, base=base, device=device)
    with opened_gatekeeper(settings) as (gatekeeper, runner):
        router = Router(classifier=gatekeeper)
        labels = gatekeeper.policy.labels
        names = {label.name: " / ".join(label.display.values()) or label.name for label in labels}
        ids = {label.name: number for number, label in enumerate(labels)}
        for text in asked("问题 question> ", _WELCOME):
            decision = runner.run(router.decide(text))
            if as_json:
                print_json(decision.as_dict())
            else:
                _print(decision, names[decision.label], ids[decision.label])
            sys.stdout.flush()


def _print(decision: Decision, name: str, number: int) -> None:
    others = ", ".join(f"{label} {share:.1%}" for label, share in decision.probabilities.items())
    sys.stdout.write(
        f"类别 category:     {name} ({number})\n置信度 confidence: {decision.confidence:.1%}   ({others})\n\n"
    )
