"""`pointsman evaluate` and `pointsman test`: a trained model on labelled files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from pointsman.integrations.cli.boundary import GATE, about_options
from pointsman.integrations.cli.options import (
    BaseOption,
    BundleOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    settings_from,
)
from pointsman.integrations.cli.output import err_console, print_json

if TYPE_CHECKING:
    from pointsman.integrations.settings import Settings
    from pointsman.training import Evaluation

__all__ = ["evaluate", "try_out"]

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Labelled JSONL or CSV files.", show_default=False)
]
Mistakes = Annotated[int, typer.Option("--mistakes", min=0, metavar="N", help="Show the N most confident mistakes.")]


def evaluate(
    files: Files,
    *,
    as_json: JsonOption = False,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE.html", help="Write a report.")] = None,
    mistakes: Mistakes = 0,
    fail_under: Annotated[
        float | None, typer.Option("--fail-under", min=0, max=1, metavar="F1", help="Exit with 3 below this macro-F1.")
    ] = None,
    bundle: BundleOption = None,
    base: BaseOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
) -> None:
    """Score a bundle on labelled files.

    Accuracy, macro-F1, slices, calibration, and what its routing costs.
    """
    settings = settings_from(config, bundle=bundle, base=base, device=device)
    evaluation = _evaluated(settings, files)
    _show(evaluation, as_json=as_json, mistakes=mistakes)
    if report is not None:
        from pointsman.training.report import write_report

        write_report(evaluation, report)
        sys.stderr.write(f"report: {report}\n")
    if fail_under is not None and evaluation.macro_f1 < fail_under:
        sys.stderr.write(
            f"pointsman: macro-F1 is {evaluation.macro_f1:.4f}, below the {fail_under} that was asked for\n"
        )
        raise typer.Exit(GATE)


def try_out(
    files: Files,
    *,
    as_json: JsonOption = False,
    mistakes: Mistakes = 20,
    bundle: BundleOption = None,
    base: BaseOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
) -> None:
    """Try a trained model on labelled files and show its mistakes."""
    settings = settings_from(config, bundle=bundle, base=base, device=device)
    _show(_evaluated(settings, files), as_json=as_json, mistakes=mistakes)


def _evaluated(settings: Settings, files: list[Path]) -> Evaluation:
    from pointsman.adapters import Store, TorchEngine, open_bundle
    from pointsman.training import evaluate as evaluated
    from pointsman.training import read_examples

    found = open_bundle(settings.bundle, Store(settings.store))
    policy = found.manifest.policy()
    examples = read_examples(files, labels=[label.name for label in policy.labels])  # before the model: it may be bad
    with about_options():
        engine = TorchEngine.load(found, base=settings.base, device=settings.device)
    with _Progress(len(examples)) as advance:
        return evaluated(engine, examples, policy=policy, bundle=found.id, on_progress=advance)


class _Progress:
    """A progress bar on stderr that is called with the number done so far."""

    def __init__(self, total: int) -> None:
        from rich.progress import Progress

        self._bar = Progress(console=err_console(), transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("evaluating", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def __call__(self, done: int) -> None:
        self._bar.update(self._task, completed=done)


def _show(evaluation: Evaluation, *, as_json: bool, mistakes: int) -> None:
    if as_json:
        print_json(evaluation.as_dict(mistakes=mistakes))
        sys.stdout.flush()
        return
    from pointsman.integrations.cli.tables import print_evaluation

    print_evaluation(evaluation, mistakes=mistakes)
