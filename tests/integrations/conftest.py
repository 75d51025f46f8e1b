import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pointsman.adapters import Bundle
from pointsman.integrations.cli import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Pointsman = Callable[..., Ran]


@pytest.fixture
def installation(tiny_base: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; the tiny bundle is set, the store is `store` in the directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("POINTSMAN_BASE", str(tiny_base))
    monkeypatch.setenv("POINTSMAN_BUNDLE", str(tiny_bundle.path))
    monkeypatch.setenv("POINTSMAN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("NO_COLOR", "1")
    return work


@pytest.fixture
def pointsman(installation: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Pointsman:
    """Run a command line in this process."""

    def run(*args: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Ran(code=code, out=captured.out, err=captured.err)

    return run
