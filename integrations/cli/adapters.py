"""`pointsman adapters`: the bundles in the store, and which of them is in force."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.integrations.cli.boundary import FAILED
from pointsman.integrations.cli.options import ConfigOption, JsonOption, StoreOption, settings_from
from pointsman.integrations.cli.output import one_line, print_json, print_table

if TYPE_CHECKING:
    from pointsman.adapters import Bundle, Store

__all__ = ["adapters"]

Reference = Annotated[str, typer.Argument(metavar="ID|FOLDER", help="Id of a bundle, or its folder.")]

adapters = typer.Typer(help="List, check and switch gatekeeper bundles.", rich_markup_mode=None)


@adapters.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(f"{context.get_help()}\n")


@adapters.command("list")
def list_(*, as_json: JsonOption = False, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Show the bundles; `*` marks the one in force."""
    from pointsman.router import BundleError

    kept = _store(store, config)
    current = kept.current()
    rows: list[dict[str, Any]] = []
    for bundle_id in kept.ids():
        try:
            rows.append(_summary(kept.open(bundle_id), current=bundle_id == current))
        except BundleError as error:
            rows.append({"id": bundle_id, "current": bundle_id == current, "error": str(error)})
    if (shipped := _shipped()) is not None and shipped.id not in kept.ids():
        rows.append({**_summary(shipped, current=current is None), "shipped": True})
    if as_json:
        for row in rows:
            print_json(row)
        return
    columns = ["", "id", "created", "#macro-F1", "#examples", "base"]
    print_table(f"Bundles in {kept.root}", columns, [_columns(row) for row in rows])


@adapters.command()
def show(
    reference: Reference, *, as_json: JsonOption = False, store: StoreOption = None, config: ConfigOption = None
) -> None:
    """Show what a bundle is, and its figures."""
    bundle = _open(reference, _store(store, config))
    manifest = bundle.manifest.model_dump(mode="json")
    if as_json:
        print_json({**manifest, "path": str(bundle.path)})
        return
    rows = [["path", str(bundle.path)]]
    rows += [[name, _shown(value)] for name, value in _summary(bundle, current=False).items() if name != "current"]
    rows += [["parent", _shown(bundle.manifest.parent)], ["labels", ", ".join(e.name for e in bundle.manifest.labels)]]
    rows += [
        [f"threshold {name}", f"{entry.value:.4f} (at most {entry.budget:.1%} {entry.error}, n = {entry.n})"]
        for name, entry in bundle.manifest.thresholds.items()
    ]
    rows += [["files", one_line(", ".join(f"{name} ({file.size} B)" for name, file in bundle.manifest.files.items()))]]
    print_table(bundle.id, ["", "value"], rows)


@adapters.command()
def verify(
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID|FOLDER", help="By default all of the store.", show_default=False),
    ] = None,
    *,
    as_json: JsonOption = False,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Check every byte of bundles.

    Exits with 1 where one is not what its manifest says.
    """
    from pointsman.router import BundleError

    kept = _store(store, config)
    damaged = 0
    for reference in references or [*kept.ids(), *([str(s.path)] if (s := _shipped()) else [])]:
        problem = None
        try:
            _open(reference, kept)
        except BundleError as error:
            problem = str(error)
            damaged += 1
        if as_json:
            print_json({"bundle": reference, "ok": problem is None, "problem": problem})
        else:
            sys.stdout.write(
                f"{'ok' if problem is None else 'DAMAGED'}  {reference}" + f"  {problem or ''}".rstrip() + "\n"
            )
    if damaged:
        sys.stdout.flush()
        sys.stderr.write(f"pointsman: {damaged} bundles are damaged; copy them again or roll back\n")
        raise typer.Exit(FAILED)


@adapters.command()
def add(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A bundle's folder.")],
    *,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy a bundle into the store; prints its id."""
    from pointsman.adapters import Bundle

    kept = _store(store, config)
    added = kept.add(Bundle.open(folder))
    sys.stdout.write(f"{added.id}\n")
    sys.stderr.write(f"added to {kept.root}; next: pointsman adapters promote {added.id}\n")


@adapters.command()
def promote(
    bundle_id: Annotated[str, typer.Argument(metavar="ID")], *, store: StoreOption = None, config: ConfigOption = None
) -> None:
    """Put a bundle in force; prints its id.

    One of the store, or the shipped one.
    """
    kept = _store(store, config)
    if (shipped := _shipped()) is not None and shipped.id == bundle_id:
        kept.add(shipped)
    sys.stdout.write(f"{kept.promote(bundle_id).id}\n")


@adapters.command()
def rollback(*, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Put the bundle before back in force; prints its id."""
    sys.stdout.write(f"{_store(store, config).rollback().id}\n")


def _store(folder: str | None, config: Path | None) -> Store:
    from pointsman.adapters import Store

    return Store(settings_from(config, store=folder).store)


def _open(reference: str, store: Store) -> Bundle:
    from pointsman.adapters import open_bundle

    if reference in store.ids():
        return store.open(reference)
    return open_bundle(reference, store)


def _shipped() -> Bundle | None:
    from pointsman.adapters import shipped_bundle
    from pointsman.router import BundleNotFoundError

    try:
        return shipped_bundle()
    except BundleNotFoundError:
        return None


def _summary(bundle: Bundle, *, current: bool) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "id": bundle.id,
        "current": current,
        "created": manifest.created.isoformat(),
        "macro_f1": manifest.metrics.get("macro_f1"),
        "examples": manifest.data.examples,
        "base": manifest.base.hub_id,
    }


def _columns(row: dict[str, Any]) -> list[str]:
    mark = "*" if row["current"] else ""
    if "error" in row:
        return [mark, row["id"], "DAMAGED", "", "", row["error"]]
    name = f"{row['id']} (shipped)" if row.get("shipped") else row["id"]
    return [mark, name, row["created"], _shown(row["macro_f1"]), _shown(row["examples"]), row["base"]]


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
