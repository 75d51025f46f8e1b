"""A bundle: one directory with everything one gatekeeper version needs but the base weights.

    manifest.json   adapter/adapter_config.json   adapter/adapter_model.safetensors   glossary.tsv   README.md

Opening one verifies every byte; nothing of it is ever executed or unpickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pointsman.adapters.files import sha256_of, staged_directory
from pointsman.adapters.glossary import Glossary
from pointsman.adapters.manifest import FileEntry, Manifest
from pointsman.router import BundleCorruptError, BundleError, BundleNotFoundError

__all__ = ["ADAPTER", "GLOSSARY", "MANIFEST", "Bundle"]

MANIFEST = "manifest.json"
ADAPTER = "adapter"
GLOSSARY = "glossary.tsv"
CARD = "README.md"

_WEIGHTS = f"{ADAPTER}/adapter_model.safetensors"
_CONFIG = f"{ADAPTER}/adapter_config.json"
_REQUIRED = {_WEIGHTS, _CONFIG}
_MIB = 1 << 20
_SIZE_CAPS = {_WEIGHTS: 512 * _MIB, _CONFIG: _MIB, GLOSSARY: 64 * _MIB, CARD: _MIB}
_MANIFEST_CAP = 4 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Return the bundle in `path` after checking its manifest, the hash and size of every file, and its file list.

        Raises:
            BundleNotFoundError: there is no bundle in `path`.
            BundleCorruptError: a file is missing, unexpected, too large or changed; the message names it.
            BundleError: a file cannot be read, or a newer Pointsman wrote the bundle.
        """
        manifest_path = path / MANIFEST
        if not manifest_path.is_file():
            raise BundleNotFoundError(f"expected a bundle folder with a {MANIFEST}, found none in {path}")
        manifest = _read_manifest(manifest_path)
        files = [file for file in path.rglob("*") if file.is_symlink() or not file.is_dir()]
        found = {file.relative_to(path).as_posix() for file in files} - {MANIFEST}
        if missing := sorted((manifest.files.keys() | _REQUIRED) - found):
            raise BundleCorruptError(f"{path} lacks {', '.join(missing)}; copy the bundle again")
        if unexpected := sorted(found - manifest.files.keys()):
            raise BundleCorruptError(f"{path} holds {', '.join(unexpected)}, unknown to its manifest; remove it")
        for name, entry in manifest.files.items():
            try:
                _verify(path / name, name, entry)
            except OSError as error:
                raise BundleError(f"cannot read {path / name}: {error.strerror or error}") from error
        return cls(path=path, manifest=manifest)

    @classmethod
    def write(cls, target: Path, *, fill: Callable[[Path], None], manifest: Manifest, card: str = "") -> Bundle:
        """Write a new bundle to `target`, all or nothing, and return it verified.

        Args:
            target: a folder that does not exist yet.
            fill: writes `adapter/` and, if there is one, `glossary.tsv` into the folder it is given.
            manifest: its `files` and `id` are filled in here.
            card: the text of the bundle's README.md.

        Raises:
            BundleError: the target exists, the disk is full, or the folder is not writable.
        """
        try:
            with staged_directory(target) as stage:
                fill(stage)
                (stage / CARD).write_text(card, encoding="utf-8")
                files = {
                    file.relative_to(stage).as_posix(): FileEntry(sha256=sha256_of(file), size=file.stat().st_size)
                    for file in sorted(stage.rglob("*"))
                    if file.is_file()
                }
                sealed = manifest.model_copy(update={"files": files}).sealed()
                (stage / MANIFEST).write_bytes(sealed.to_bytes())
                cls.open(stage)
        except OSError as error:
            raise BundleError(f"the bundle was not written to {target}: {error}") from error
        return cls(path=target, manifest=sealed)

    def copy_to(self, target: Path) -> Bundle:
        """Copy the bundle to a folder that does not exist yet, all or nothing, and return the verified copy.

        Raises:
            BundleError: the target exists, the disk is full, or the folder is not writable.
        """
        try:
            with staged_directory(target) as stage:
                shutil.copytree(self.path, stage, dirs_exist_ok=True)
                type(self).open(stage)
        except OSError as error:
            raise BundleError(f"the bundle was not copied to {target}: {error}") from error
        return Bundle(path=target, manifest=self.manifest)

    @property
    def id(self) -> str:
        """The bundle's id."""
        return self.manifest.id

    @property
    def adapter(self) -> Path:
        """The folder that plain PEFT loads."""
        return self.path / ADAPTER

    def glossary(self) -> Glossary | None:
        """Return the words that were added to the base's vocabulary, or None."""
        path = self.path / GLOSSARY
        return Glossary.read(path) if path.exists() else None


def _read_manifest(path: Path) -> Manifest:
    if path.is_symlink():
        raise BundleCorruptError(f"{path} is a link; a bundle holds plain files only")
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _MANIFEST_CAP else b""
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    if size > _MANIFEST_CAP:
        raise BundleCorruptError(f"{path} is {size} bytes; a manifest has at most {_MANIFEST_CAP}")
    try:
        version = json.loads(content).get("schema_version")
        if isinstance(version, int) and version > 1:
            raise BundleError(f"{path} has schema version {version}; this Pointsman reads 1: upgrade it")
        manifest = Manifest.model_validate_json(content)
    except (ValidationError, ValueError, AttributeError, RecursionError) as error:
        raise BundleCorruptError(f"{path} is not a manifest: {error}") from error
    if not manifest.is_sealed() or manifest.to_bytes() != content:
        raise BundleCorruptError(f"{path} was changed after it was written: its content does not match its id")
    return manifest


def _verify(path: Path, name: str, entry: FileEntry) -> None:
    if name not in _SIZE_CAPS:
        raise BundleCorruptError(f"{path}: a bundle holds {', '.join(sorted(_SIZE_CAPS))}, not {name!r}")
    if path.is_symlink() or not path.is_file():
        raise BundleCorruptError(f"{path} is a link or no file; a bundle holds plain files only")
    size = path.stat().st_size
    if size > _SIZE_CAPS[name]:
        raise BundleCorruptError(f"{path} is {size} bytes; at most {_SIZE_CAPS[name]} are accepted")
    if size != entry.size or sha256_of(path) != entry.sha256:
        raise BundleCorruptError(f"{path} is not the file its manifest describes; copy the bundle again")
