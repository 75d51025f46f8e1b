"""What only a process of its own can show: imports, locale, signals, pipes, terminals."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pointsman import __version__

COMMAND = [sys.executable, "-m", "pointsman.integrations.cli"]


def ran(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args],
        check=False,
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("args", [["--help"], ["classify", "--help"], ["train", "--help"], ["--version"], []])
def test_help_loads_no_model_library(args: list[str]) -> None:
    heavy = "{'torch', 'transformers', 'peft', 'accelerate', 'numpy', 'scipy', 'aiohttp', 'tokenizers'}"
    code = (
        "import sys; from pointsman.integrations.cli import main; "
        f"code = main({args!r}); print(code, sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_without_a_terminal_bare_pointsman_prints_its_help() -> None:
    done = ran()
    assert done.returncode == 0
    assert done.stdout == ran("--help").stdout
    for command in ("demo", "classify", "chat", "train", "test", "interactive", "evaluate", "adapters", "doctor"):
        assert f"  {command} " in done.stdout


def test_version_prints_one_line() -> None:
    assert ran("--version").stdout == f"pointsman {__version__}\n"


def test_chinese_survives_a_c_locale(installation: Path) -> None:
    done = ran("classify", "数据清洗流程是什么？", LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("数据清洗流程是什么？\n")


def test_debugging_shows_the_traceback() -> None:
    done = ran("--debug", "classify")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "Traceback" not in ran("classify").stderr


def test_control_c_exits_with_130_and_keeps_what_was_decided(installation: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "classify", "--input", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b'{"text": "hello"}\n')
        process.stdin.flush()
        assert process.stdout.readline().endswith(b"hello\n")  # a slow pipe is answered at once

        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b""


def test_a_reader_that_leaves_is_no_error_message(installation: Path) -> None:
    command = " ".join(COMMAND)
    done = subprocess.run(
        ["bash", "-c", f"""yes '{{"text": "hello"}}' | {command} classify --input - | head -1"""],
        check=True,
        capture_output=True,
    )
    assert done.stdout.endswith(b"hello\n")
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_paragraph() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "--help"], check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "pointsman: No space left on device; free some space and run it again; nothing half-written was kept\n"
    )


def test_on_a_terminal_bare_pointsman_opens_the_menu() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(COMMAND, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while "选择 choose> ".encode() not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, b"q\n")
        assert process.wait(60) == 0
    os.close(ours)
    assert "训练 train" in shown.decode()
