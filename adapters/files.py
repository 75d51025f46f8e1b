"""Hashes, and writes that leave the old or the new state but never half of one."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["sha256_of", "staged_directory", "write_atomically"]


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: written beside it, fsynced, renamed.

    Raises:
        OSError: the disk is full or the folder is not writable; `path` is then as it was.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; it becomes `target` when the block ends well, else it is removed.

    Raises:
        FileExistsError: `target` exists already.
        OSError: the disk is full or the parent folder is not writable.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already; choose another folder or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield stage
        for path in (*stage.rglob("*"), stage):
            _sync(path)
        stage.chmod(0o755)
        stage.rename(target)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Flush a file's content or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
