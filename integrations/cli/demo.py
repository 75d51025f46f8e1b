"""`pointsman demo`: our sample conversations through the whole router, with the shipped bundle and handbook."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pointsman.integrations.cli.boundary import FAILED
from pointsman.integrations.cli.options import (
    BaseOption,
    BundleOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    settings_from,
)
from pointsman.integrations.cli.output import one_line, print_json, print_table
from pointsman.integrations.cli.session import opened_router
from pointsman.router import Reply, Router

__all__ = ["SAMPLES", "demo"]

SAMPLES = Path(__file__).parent.parent / "sample" / "conversations.jsonl"

_FIRST = 12
_PASSING = 0.8
_NEXT = """Next:
  pointsman chat                                  talk to it                     和它聊天
  pointsman classify "why is my DAG stuck?"       one decision a line            逐行分类
  pointsman train --data your.jsonl               train it on your messages      用自己的数据训练
  pointsman doctor                                what is installed and missing  检查环境
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    messages: list[dict[str, str]]
    label: str


def demo(
    *,
    everything: Annotated[bool, typer.Option("--all", help="All sample conversations, not the first twelve.")] = False,
    as_json: JsonOption = False,
    bundle: BundleOption = None,
    base: BaseOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
) -> None:
    """Send sample conversations through the router."""
    settings = settings_from(config, bundle=bundle, base=base, device=device)
    samples = _read()[: None if everything else _FIRST]
    started = time.perf_counter()
    sys.stderr.write("loading the gatekeeper ...\n")
    with opened_router(settings) as (router, runner):
        loaded = time.perf_counter()
        replies = runner.run(_replay(router, samples))
    finished = time.perf_counter()
    right = sum(reply.decision.label == sample.label for sample, reply in zip(samples, replies, strict=True))
    summary = {
        "right": right,
        "total": len(samples),
        "loading_seconds": round(loaded - started, 2),
        "replay_seconds": round(finished - loaded, 2),
    }
    if as_json:
        for sample, reply in zip(samples, replies, strict=True):
            print_json(_row(sample, reply))
        print_json({"summary": summary})
    else:
        _print_table(samples, replies)
        share = f"{right} of {len(samples)} labels are right"
        sys.stdout.write(f"{share}; loaded in {loaded - started:.1f} s, replayed in {finished - loaded:.2f} s\n")
        sys.stderr.write(f"\n{_NEXT}")
    if right < _PASSING * len(samples):
        sys.stdout.flush()
        sys.stderr.write(f"pointsman: expected {_PASSING:.0%} right labels; check the bundle with pointsman doctor\n")
        raise typer.Exit(FAILED)


def _read() -> list[_Sample]:
    rows = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    return [_Sample(messages=row["messages"], label=row["label"]) for row in rows]


async def _replay(router: Router, samples: Sequence[_Sample]) -> list[Reply]:
    return await asyncio.gather(*(router.route(sample.messages) for sample in samples))


def _row(sample: _Sample, reply: Reply) -> dict[str, Any]:
    return {
        "messages": sample.messages,
        "truth": sample.label,
        "decision": reply.decision.as_dict(),
        "text": reply.text,
    }


def _print_table(samples: Sequence[_Sample], replies: Sequence[Reply]) -> None:
    rows = []
    for sample, reply in zip(samples, replies, strict=True):
        decision = reply.decision
        earlier = "… " if len(sample.messages) > 1 else ""
        right = decision.label if decision.label == sample.label else f"{decision.label} (not {sample.label})"
        message = one_line(earlier + sample.messages[-1]["content"], 60)
        rows.append(
            [message, right, f"{decision.confidence:.2f}", decision.route, one_line(_first_line(reply.text), 60)]
        )
    print_table("Sample conversations", ["message", "label", "#confidence", "route", "answer"], rows)


def _first_line(text: str) -> str:
    """Return the first line that says something: not the sentence that announces the passages."""
    lines = [line.replace("**", "").strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith((":", "："))), "")
