"""Versioned bundles in one folder, one of them `current`.

`current` is a small text file: the id in force on its first line, those before it below, newest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pointsman.adapters.bundle import Bundle
from pointsman.adapters.files import write_atomically
from pointsman.router import BundleCorruptError, BundleError, BundleNotFoundError

__all__ = ["Store", "open_bundle", "shipped_bundle"]

_HISTORY = 50
_SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True, slots=True)
class Store:
    """The bundles below `root`; the folder need not exist before the first `add`."""

    root: Path

    def ids(self) -> list[str]:
        """Return the ids of all bundles, in order of the day they were made."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))

    def open(self, bundle_id: str) -> Bundle:
        """Return a bundle after verifying it.

        Raises:
            BundleNotFoundError: there is none of this id; the message lists those there are.
            BundleCorruptError: it is damaged, or lies under an id that is not its own.
        """
        if bundle_id not in self.ids():
            raise BundleNotFoundError(f"no bundle {bundle_id!r} in {self.root}; there are {self.ids() or 'none'}")
        bundle = Bundle.open(self.root / bundle_id)
        if bundle.id != bundle_id:
            raise BundleCorruptError(f"{bundle.path} holds the bundle {bundle.id}; rename the folder to that id")
        return bundle

    def add(self, bundle: Bundle) -> Bundle:
        """Copy a bundle into the store under its id; one that is there already is verified and returned.

        Raises:
            BundleError: the copy could not be written; the store is then as it was.
        """
        if bundle.id in self.ids():
            return self.open(bundle.id)
        return bundle.copy_to(self.root / bundle.id)

    def current(self) -> str | None:
        """Return the id in force, or None where nothing was promoted yet."""
        return next(iter(self.history()), None)

    def history(self) -> list[str]:
        """Return the ids that are and were in force, newest first.

        Raises:
            BundleError: `current` cannot be read.
        """
        path = self.root / "current"
        try:
            return path.read_text(encoding="utf-8").split() if path.is_file() else []
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"cannot read {path}: {error}; promote a bundle again after removing it") from error

    def promote(self, bundle_id: str) -> Bundle:
        """Make a bundle the current one, after verifying it.

        Raises:
            BundleNotFoundError: there is none of this id.
            BundleCorruptError: it is damaged; the current one stays.
        """
        bundle = self.open(bundle_id)
        if bundle_id != self.current():
            self._write([bundle_id, *self.history()])
        return bundle

    def rollback(self) -> Bundle:
        """Make the bundle before the current one current again.

        Raises:
            BundleError: there is nothing to go back to.
            BundleCorruptError: the earlier bundle is damaged; the current one stays.
        """
        history = self.history()
        if len(history) < 2:  # noqa: PLR2004 -- the current one and one before it
            raise BundleError(f"nothing to roll back to in {self.root}: {len(history)} bundle was promoted so far")
        bundle = self.open(history[1])
        self._write(history[1:])
        return bundle

    def _write(self, history: list[str]) -> None:
        try:
            write_atomically(self.root / "current", "".join(f"{item}\n" for item in history[:_HISTORY]).encode())
        except OSError as error:
            raise BundleError(f"`current` in {self.root} was not changed: {error}") from error


def shipped_bundle() -> Bundle:
    """Return the bundle that comes with Pointsman.

    Raises:
        BundleNotFoundError: this installation carries none.
    """
    if not (ids := _shipped_ids()):
        raise BundleNotFoundError(f"this installation carries no bundle in {_SHIPPED}; train one: pointsman train")
    return Bundle.open(_SHIPPED / ids[-1])


def open_bundle(reference: str | Path | None, store: Store) -> Bundle:
    """Return the bundle that `reference` means: a folder, an id in `store`, or None for the current or shipped one.

    Raises:
        BundleNotFoundError: it is neither a bundle folder nor an id of the store.
        BundleCorruptError: the bundle is damaged.
    """
    if reference is None:
        current = store.current()
        return store.open(current) if current else shipped_bundle()
    if Path(reference).is_dir():
        return Bundle.open(Path(reference))
    if str(reference) not in store.ids() and str(reference) in _shipped_ids():
        return shipped_bundle()
    return store.open(str(reference))


def _shipped_ids() -> list[str]:
    return sorted(path.name for path in _SHIPPED.iterdir() if path.is_dir()) if _SHIPPED.is_dir() else []
