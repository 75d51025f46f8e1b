"""`pointsman train`: from labelled files to a bundle."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from pointsman.integrations.cli.boundary import OptionError, about_options
from pointsman.integrations.cli.options import BaseOption, ConfigOption, JsonOption, settings_from
from pointsman.integrations.cli.output import err_console, print_json, print_table

if TYPE_CHECKING:
    from pointsman.training import Findings, Progress, Recipe, Trained

__all__ = ["train"]

_WORK = ".training"
"""In the output folder: the checkpoint of a run that was cut off."""


def train(
    *,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="What to train on and how; by default as shipped.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", metavar="PATH", help="Labelled file or folder, repeatable; in place of the recipe's."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Gets the bundle; by default the store.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Start anew, or go on where a run in this folder was cut off.")
    ] = False,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="no, bf16 or fp16.")] = None,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank", min=1)] = None,
    lora_alpha: Annotated[float | None, typer.Option("--lora-alpha")] = None,
    lora_dropout: Annotated[float | None, typer.Option("--lora-dropout")] = None,
    glossary_words: Annotated[
        int | None, typer.Option("--glossary-words", min=0, help="Chinese words to add to the vocabulary.")
    ] = None,
    as_json: JsonOption = False,
    base: BaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Train a gatekeeper on labelled messages and write its bundle."""
    settings = settings_from(config, base=base)
    target = output or settings.store
    chosen = _recipe(
        recipe,
        data,
        fit={
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
            "precision": precision,
        },
        lora={"rank": lora_rank, "alpha": lora_alpha, "dropout": lora_dropout},
        glossary_words=glossary_words,
    )
    if fresh:
        (target / _WORK / "checkpoint.pt").unlink(missing_ok=True)
    elif (target / _WORK / "checkpoint.pt").exists():
        sys.stderr.write(f"going on from {target / _WORK / 'checkpoint.pt'}; --fresh starts anew\n")
    from pointsman.training import train as trained

    try:
        with _Bar() as bar:
            result = trained(
                chosen,
                target,
                work=target / _WORK,
                base=settings.base,
                on_findings=_print_findings,
                on_progress=bar.advance,
            )
    finally:
        _remove_if_empty(target / _WORK)
    _print_result(result, target, stored=target == settings.store, as_json=as_json)


def _recipe(
    path: Path | None,
    data: list[Path] | None,
    *,
    fit: dict[str, Any],
    lora: dict[str, Any],
    glossary_words: int | None,
) -> Recipe:
    from pointsman.training import Recipe

    with about_options():
        recipe = Recipe.read(path) if path else Recipe.read()
        precision = fit["precision"]
        if precision not in {None, "no", "bf16", "fp16"}:
            raise OptionError(f"--precision must be no, bf16 or fp16, got {precision!r}")
        update: dict[str, Any] = {
            "fit": replace(recipe.fit, **_given(fit)),
            "lora": replace(recipe.lora, **_given(lora)),
        }
        if data:
            update["data"] = tuple(data)
        if glossary_words is not None:
            update["glossary"] = recipe.glossary.model_copy(update={"words": glossary_words})
        recipe = recipe.model_copy(update=update)
        recipe.data_files()  # a path that is not there is known before the model is loaded
    return recipe


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _print_findings(findings: Findings) -> None:
    counts = ", ".join(f"{count} {label}" for label, count in findings.per_label.items())
    lines = [f"{findings.n} examples: {counts}", *(f"warning: {sentence}" for sentence in findings.warnings())]
    err_console().print("\n".join(lines))


def _print_result(result: Trained, target: Path, *, stored: bool, as_json: bool) -> None:
    bundle, heldout = result.bundle, result.heldout
    step = f"promote {bundle.id}" if stored else f"add {target / bundle.id}"
    sys.stderr.write(f"next: pointsman evaluate FILE --bundle {bundle.path}; pointsman adapters {step}\n")
    figures: dict[str, Any] = {
        "bundle": bundle.id,
        "path": str(bundle.path),
        "seconds": round(result.seconds, 1),
        "trainable_share": result.fit.trainable / result.fit.total,
        "epochs": len(result.fit.history),
        "best_epoch": result.fit.best_epoch + 1,
        "validation_macro_f1": result.fit.validation,
        "heldout_macro_f1": heldout.macro_f1 if heldout else None,
        "heldout_n": heldout.n if heldout else 0,
    }
    if as_json:
        print_json(figures)
    else:
        rows = [[name.replace("_", " "), _shown(value)] for name, value in figures.items() if value is not None]
        print_table("Trained", ["figure", "value"], rows)


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


class _Bar:
    """Steps, loss, validation macro-F1 and time left, on stderr; without a terminal one line an epoch."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}  F1 {task.fields[validation]}"),
        )
        self._bar = Progress(*columns, console=err_console(), disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("", total=None, epoch="-", loss="-", validation="-")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def advance(self, progress: Progress) -> None:
        """Show where training is."""
        fields: dict[str, Any] = {"epoch": progress.epoch + 1, "loss": f"{progress.loss:.3f}"}
        if progress.validation is not None:
            fields["validation"] = f"{progress.validation:.3f}"
            if self._bar.disable:
                shown = f"epoch {progress.epoch + 1}: loss {progress.loss:.3f}, validation F1 {progress.validation:.3f}"
                sys.stderr.write(f"{shown}, step {progress.step} of {progress.total}\n")
        self._bar.update(self._task, completed=progress.step, total=progress.total, **fields)
