"""Every wrong input ends in one paragraph on stderr, the right exit code, and nothing half-written."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pointsman.adapters import Bundle
from pointsman.adapters import files as adapter_files

from .conftest import Pointsman, Ran
from .test_cli_train import RECIPE

GOOD = '{"text": "hello there", "label": "general_chat"}\n'


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_one_paragraph(ran: Ran, code: int, *messages: str) -> None:
    assert ran.code == code, ran.err
    assert ran.err.startswith("pointsman: ")
    assert "\n\n" not in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err) < 1500
    for message in messages:
        assert message in ran.err


@pytest.fixture
def files(installation: Path, labelled_file: Path) -> Path:
    """The working directory with one file of each kind."""
    for name, content in {
        "good.jsonl": GOOD.encode(),
        "binary.jsonl": b"\x00\x01\x89PNG\xff\xfe" * 100,
        "utf16.jsonl": GOOD.encode("utf-16"),
        "broken.jsonl": GOOD.encode() + b'{"text": "a",\n',
        "list.jsonl": b"[1, 2]\n",
        "label.jsonl": GOOD.encode() + b'{"text": "a", "label": "weather"}\n',
        "unlabelled.jsonl": b'{"text": "a"}\n',
        "empty.jsonl": b"",
        "blank.jsonl": b"\n \n",
        "headless.csv": b"question,answer\na,b\n",
        "unknown.toml": b"devise = 'cpu'\n",
        "broken.toml": b"[llm\n",
        "recipe.toml": RECIPE.format(data=labelled_file).encode(),
        "unknown_recipe.toml": b"[fit]\nepoch = 3\n",
    }.items():
        (installation / name).write_bytes(content)
    (installation / "folder").mkdir()
    return installation


LABELLED = [
    pytest.param("gone.jsonl", ["gone.jsonl", "No such file"], id="missing"),
    pytest.param("folder", ["folder", "Is a directory"], id="a folder"),
    pytest.param("binary.jsonl", ["binary.jsonl", "not UTF-8 text"], id="binary"),
    pytest.param("utf16.jsonl", ["utf16.jsonl", "not UTF-8 text"], id="UTF-16"),
    pytest.param("broken.jsonl", ["broken.jsonl:2", "not JSON"], id="bad JSON line"),
    pytest.param("list.jsonl", ["list.jsonl:1", "expected a JSON object"], id="no object"),
    pytest.param("label.jsonl", ["label.jsonl:2", "`label` must be one of", "'weather'"], id="unknown label"),
    pytest.param("unlabelled.jsonl", ["unlabelled.jsonl:1", "`label` must be one of"], id="no label"),
    pytest.param("empty.jsonl", ["empty.jsonl is empty"], id="empty"),
    pytest.param("blank.jsonl", ["blank.jsonl is empty"], id="blank"),
    pytest.param("headless.csv", ["headless.csv:1", "lacks label, text"], id="CSV header"),
]


@pytest.mark.parametrize("command", ["evaluate", "test"])
@pytest.mark.parametrize(("file", "messages"), LABELLED)
def test_a_labelled_file_that_cannot_be_used(
    pointsman: Pointsman, files: Path, command: str, file: str, messages: list[str]
) -> None:
    before = files_below(files)
    ran = pointsman(command, "good.jsonl", file, "--json")

    is_one_paragraph(ran, 4, *messages)
    assert ran.out == ""
    assert files_below(files) == before


@pytest.mark.parametrize(("file", "messages"), [case for case in LABELLED if case.id not in {"missing", "a folder"}])
def test_training_data_that_cannot_be_used(pointsman: Pointsman, files: Path, file: str, messages: list[str]) -> None:
    before = files_below(files)
    ran = pointsman("train", "--recipe", "recipe.toml", "--data", file, "--output", "out")

    is_one_paragraph(ran, 4, *messages)
    assert files_below(files) == before


@pytest.mark.parametrize(
    ("file", "messages"),
    [case for case in LABELLED if case.id not in {"unknown label", "no label", "CSV header"}],
)
def test_messages_that_cannot_be_classified(pointsman: Pointsman, files: Path, file: str, messages: list[str]) -> None:
    is_one_paragraph(pointsman("classify", "--input", file, "--json"), 4, *messages)


@pytest.mark.parametrize(
    ("args", "code", "messages"),
    [
        pytest.param(["classify", "a", "--bogus"], 2, ["--bogus", "pointsman classify --help"], id="unknown option"),
        pytest.param(["clasify", "a"], 2, ["clasify"], id="unknown command"),
        pytest.param(["classify"], 2, ["expected messages or --input"], id="nothing to classify"),
        pytest.param(["classify", "a", "--input", "good.jsonl"], 2, ["not both"], id="text and file"),
        pytest.param(["evaluate"], 2, ["FILE"], id="missing argument"),
        pytest.param(["evaluate", "good.jsonl", "--fail-under", "2"], 2, ["--fail-under"], id="out of range"),
        pytest.param(["classify", "a", "--device", "abacus"], 2, ["'abacus'", "device='cpu'"], id="device"),
        pytest.param(["classify", "a", "--config", "gone.toml"], 2, ["gone.toml"], id="missing config"),
        pytest.param(["classify", "a", "--config", "broken.toml"], 2, ["not TOML"], id="broken config"),
        pytest.param(["classify", "a", "--config", "unknown.toml"], 2, ["did you mean `device`"], id="unknown key"),
        pytest.param(["train", "--recipe", "unknown_recipe.toml"], 2, ["epoch"], id="unknown recipe key"),
        pytest.param(["classify", "a", "--bundle", "./gone"], 1, ["bundle"], id="missing bundle"),
        pytest.param(["classify", "a", "--bundle", "folder"], 1, ["manifest.json", "folder"], id="no bundle"),
        pytest.param(["classify", "a", "--base", "./gone"], 1, ["./gone"], id="missing base"),
        pytest.param(["classify", "a", "--base", "folder"], 1, ["model.safetensors"], id="empty base"),
    ],
)
def test_an_option_that_cannot_be_used(
    pointsman: Pointsman, files: Path, args: list[str], code: int, messages: list[str]
) -> None:
    before = files_below(files)
    ran = pointsman(*args)

    is_one_paragraph(ran, code, *messages)
    assert ran.out == ""
    assert files_below(files) == before


def test_a_base_with_other_weights(pointsman: Pointsman, tiny_base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_base, tmp_path / "other")
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    ran = pointsman("classify", "a", "--base", other)

    is_one_paragraph(ran, 1, "was trained on base weights", "--base")


@pytest.mark.parametrize(
    "file",
    [
        "manifest.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "glossary.tsv",
        "README.md",
    ],
)
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999], ids=["beginning", "middle", "end"])
def test_a_bundle_that_is_damaged_in_one_byte(
    pointsman: Pointsman, tiny_bundle: Bundle, tmp_path: Path, file: str, place: float
) -> None:
    copy = shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    content = bytearray((copy / file).read_bytes())
    content[int(place * len(content))] ^= 1
    (copy / file).write_bytes(content)

    for args in (["classify", "a", "--bundle", copy], ["adapters", "add", copy]):
        ran = pointsman(*args)
        is_one_paragraph(ran, 1, file)
        assert ran.out == ""
    assert not (tmp_path / "store").exists()


def test_a_bundle_that_lacks_a_file(pointsman: Pointsman, tiny_bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    (copy / "adapter" / "adapter_model.safetensors").unlink()
    is_one_paragraph(pointsman("classify", "a", "--bundle", copy), 1, "adapter_model.safetensors")


def full(call: str, *, after: int = 0) -> ModuleType:
    """Return `os` as it is on a disk that is full after so many calls."""
    calls = 0

    def fail(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return SimpleNamespace(**{**vars(os), call: fail})  # type: ignore[return-value]


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param([], id="add"),
        pytest.param(["adapters", "add", "{bundle}"], id="promote"),
    ],
)
def test_a_full_disk_leaves_the_store_as_it_was(
    pointsman: Pointsman, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: list[str]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    if prepare:
        assert pointsman(*(part.format(bundle=tiny_bundle.path) for part in prepare)).code == 0
    before = files_below(store)
    monkeypatch.setattr(adapter_files, "os", full("fsync"))

    ran = pointsman("adapters", *(["promote", tiny_bundle.id] if prepare else ["add", tiny_bundle.path]))

    is_one_paragraph(ran, 1, "No space left on device")
    assert files_below(store) == before


@pytest.mark.parametrize(
    ("after", "left"),
    [
        pytest.param(0, set(), id="at the checkpoint"),
        pytest.param(2, {".training/checkpoint.pt"}, id="at the bundle"),  # so that the run can go on
    ],
)
def test_a_disk_that_fills_up_in_training_leaves_nothing_half_written(
    pointsman: Pointsman, files: Path, monkeypatch: pytest.MonkeyPatch, after: int, left: set[str]
) -> None:
    monkeypatch.setattr(adapter_files, "os", full("fsync", after=after))
    ran = pointsman("train", "--recipe", "recipe.toml", "--epochs", "1", "--output", "out")

    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("pointsman: ")
    assert "No space left on device" in ran.err.splitlines()[-1]
    assert set(files_below(files / "out")) == left
    assert {path.name for path in (files / "out").iterdir()} <= {".training"}


def denied(monkeypatch: pytest.MonkeyPatch, name: str, method: str) -> None:
    """Have one file or folder refuse one method; root may do everything, so permissions alone would not."""
    original: Callable[..., object] = getattr(Path, method)

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, method, refuse)


@pytest.mark.parametrize(
    ("args", "name", "method", "code"),
    [
        pytest.param(["evaluate", "good.jsonl"], "good.jsonl", "open", 4, id="labelled file"),
        pytest.param(["classify", "--input", "good.jsonl"], "good.jsonl", "open", 4, id="input"),
        pytest.param(["classify", "a", "--config", "unknown.toml"], "unknown.toml", "read_text", 2, id="config"),
        pytest.param(["train", "--recipe", "recipe.toml"], "store", "mkdir", 1, id="output"),
        pytest.param(["adapters", "list"], "store", "is_dir", 1, id="store"),
    ],
)
def test_what_may_not_be_read_or_written(
    pointsman: Pointsman,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    name: str,
    method: str,
    code: int,
) -> None:
    before = files_below(files)
    denied(monkeypatch, name, method)
    ran = pointsman(*args)
    monkeypatch.undo()

    is_one_paragraph(ran, code, name, "Permission denied")
    assert files_below(files) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_real_file_without_permission(pointsman: Pointsman, files: Path) -> None:
    (files / "good.jsonl").chmod(0)
    is_one_paragraph(pointsman("evaluate", "good.jsonl"), 4, "Permission denied")


def test_an_error_that_nobody_expected_is_still_one_paragraph(
    pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("pointsman.adapters.open_bundle", explode)
    monkeypatch.setattr("pointsman.integrations.assembly.open_bundle", explode)
    is_one_paragraph(pointsman("classify", "a"), 1, "unexpected RuntimeError: boom", "POINTSMAN_DEBUG=1")

    monkeypatch.setenv("POINTSMAN_DEBUG", "1")
    ran = pointsman("classify", "a")
    assert ran.code == 1
    assert "Traceback" in ran.err
