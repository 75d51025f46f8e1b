import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def ran(name: str, folder: Path) -> str:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name)], check=True, capture_output=True, encoding="utf-8", cwd=folder
    ).stdout


def test_a_handler_of_ones_own(tmp_path: Path) -> None:
    assert "[knowledge_base] You asked: where does dwd_orders come from?" in ran("own_handler.py", tmp_path)


def test_messages_are_routed(installation: Path) -> None:
    out = ran("route_messages.py", installation)
    assert len(out.splitlines()) > 4
    assert "你好" in out
