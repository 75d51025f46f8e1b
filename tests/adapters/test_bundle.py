import errno
import hashlib
import json
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pointsman.adapters import Bundle, Manifest
from pointsman.router import BundleCorruptError, BundleError, BundleNotFoundError

SMALL = 20_000
"""Bytes; of longer files a sample is flipped."""


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return tiny_bundle.copy_to(tmp_path / "copy").path


def refill(source: Path) -> Callable[[Path], None]:
    """Return a `fill` for `Bundle.write` that copies adapter and glossary."""

    def fill(stage: Path) -> None:
        shutil.copytree(source / "adapter", stage / "adapter")
        shutil.copy(source / "glossary.tsv", stage / "glossary.tsv")

    return fill


def reseal(folder: Path, **files: bytes) -> None:
    """Replace files and write the manifest that fits them, as somebody who knows the format would."""
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    entries = {name: entry.model_dump() for name, entry in manifest.files.items()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        entries[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    changed = Manifest.model_validate({**manifest.model_dump(), "files": entries}).sealed()
    (folder / "manifest.json").write_bytes(changed.to_bytes())


def test_a_bundle_holds_these_files_and_no_local_path(tiny_bundle: Bundle, tiny_base: Path) -> None:
    files = {file.relative_to(tiny_bundle.path).as_posix() for file in tiny_bundle.path.rglob("*") if file.is_file()}

    assert files == {
        "manifest.json",
        "README.md",
        "glossary.tsv",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert tiny_bundle.path.name == tiny_bundle.id
    for name in files:
        content = (tiny_bundle.path / name).read_bytes()
        assert str(tiny_base).encode() not in content, name
        assert b"/tmp" not in content, name
    config = json.loads((tiny_bundle.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "pointsman/tiny-bert"


def test_opening_what_was_written_gives_the_same(tiny_bundle: Bundle) -> None:
    again = Bundle.open(tiny_bundle.path)

    assert again == tiny_bundle
    assert again.id == tiny_bundle.manifest.id
    glossary = again.glossary()
    assert glossary is not None
    assert glossary.entries["血缘"] == "lineage"


def test_every_byte_of_every_file_is_guarded(copy: Path) -> None:
    rng = random.Random(0)
    for file in sorted(path for path in copy.rglob("*") if path.is_file()):
        content = file.read_bytes()
        places = range(len(content)) if len(content) <= SMALL else sorted(rng.sample(range(len(content)), 200))
        with file.open("r+b", buffering=0) as damaged:
            for place in places:
                _put(damaged.fileno(), place, bytes([content[place] ^ (1 << rng.randrange(8))]))
                with pytest.raises(BundleError):
                    Bundle.open(copy)
                _put(damaged.fileno(), place, content[place : place + 1])
    Bundle.open(copy)


@pytest.mark.parametrize("name", ["README.md", "glossary.tsv", "adapter/adapter_model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "grown", "emptied"])
def test_a_file_of_another_length_is_refused_by_name(copy: Path, name: str, damage: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes({"truncated": content[:-1], "grown": content + b"\n", "emptied": b""}[damage])

    with pytest.raises(BundleCorruptError, match=name):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "name", ["README.md", "glossary.tsv", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
)
def test_a_missing_file_is_refused_by_name(copy: Path, name: str) -> None:
    (copy / name).unlink()

    with pytest.raises(BundleCorruptError, match=f"lacks {name}"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["adapter/adapter_model.bin", "adapter/config.json", "notes.txt", ".hidden"])
def test_a_file_the_manifest_does_not_know_is_refused_by_name(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"\x80\x04.")

    with pytest.raises(BundleCorruptError, match=f"holds {name}"):
        Bundle.open(copy)


def test_a_pickle_is_refused_even_with_a_manifest_that_names_it(copy: Path) -> None:
    reseal(copy, **{"adapter/adapter_model.bin": b"\x80\x04."})

    with pytest.raises(BundleCorruptError, match=r"not 'adapter/adapter_model\.bin'"):
        Bundle.open(copy)


def test_a_pickle_instead_of_the_weights_is_refused(copy: Path) -> None:
    (copy / "adapter/adapter_model.safetensors").rename(copy / "adapter/adapter_model.bin")

    with pytest.raises(BundleCorruptError, match=r"lacks adapter/adapter_model\.safetensors"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "adapter/adapter_model.safetensors"])
def test_a_link_to_the_very_file_is_refused(copy: Path, tmp_path: Path, name: str) -> None:
    (copy / name).rename(tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(BundleCorruptError, match="link"):
        Bundle.open(copy)


def test_a_link_to_a_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "more").symlink_to(tmp_path)

    with pytest.raises(BundleCorruptError, match="holds more"):
        Bundle.open(copy)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(copy: Path) -> None:
    (copy / "README.md").unlink()
    os.mkfifo(copy / "README.md")

    with pytest.raises(BundleCorruptError, match=r"README\.md"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["README.md", "adapter/adapter_config.json"])
def test_an_oversized_file_is_refused_even_with_a_manifest_that_fits(copy: Path, name: str) -> None:
    reseal(copy, **{name: b"x" * ((1 << 20) + 1)})

    with pytest.raises(BundleCorruptError, match=r"1048577 bytes; at most 1048576"):
        Bundle.open(copy)


def test_an_oversized_manifest_is_refused_without_being_read(copy: Path) -> None:
    with (copy / "manifest.json").open("r+b") as file:
        file.truncate(1 << 32)  # sparse: nothing is written

    with pytest.raises(BundleCorruptError, match="4294967296 bytes"):
        Bundle.open(copy)


def test_a_newer_schema_asks_for_an_upgrade(copy: Path) -> None:
    values = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(values | {"schema_version": 2, "news": True}))

    with pytest.raises(BundleError, match="schema version 2; this Pointsman reads 1: upgrade it") as caught:
        Bundle.open(copy)
    assert not isinstance(caught.value, BundleCorruptError)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b"not json", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 1}']
)
def test_what_is_no_manifest_is_refused(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)

    with pytest.raises(BundleCorruptError, match="is not a manifest"):
        Bundle.open(copy)


def test_a_manifest_that_says_the_same_in_other_bytes_is_refused(copy: Path) -> None:
    values = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(values))

    with pytest.raises(BundleCorruptError, match="changed after it was written"):
        Bundle.open(copy)


def test_a_folder_without_a_bundle_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"manifest\.json, found none"):
        Bundle.open(tmp_path)
    with pytest.raises(FileNotFoundError):
        Bundle.open(tmp_path / "nowhere")


def test_writing_gives_a_bundle_that_opens(tiny_bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    written = Bundle.write(target, fill=refill(tiny_bundle.path), manifest=tiny_bundle.manifest, card="# card\n")

    assert Bundle.open(target) == written
    assert (target / "README.md").read_text() == "# card\n"
    assert written.id != tiny_bundle.id  # another card, another content


def test_a_target_that_exists_is_left_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("precious")

    with pytest.raises(BundleError, match="exists already"):
        Bundle.write(tmp_path / "there", fill=refill(tiny_bundle.path), manifest=tiny_bundle.manifest)
    with pytest.raises(BundleError, match="exists already"):
        tiny_bundle.copy_to(tmp_path / "there")

    assert [file.name for file in (tmp_path / "there").iterdir()] == ["mine.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("step", ["fill", "sync", "rename"])
def test_a_full_disk_leaves_nothing_behind(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fill = refill(tiny_bundle.path)
    if step == "fill":
        fill = fail
    elif step == "sync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail)

    with pytest.raises(BundleError, match="No space left on device"):
        Bundle.write(tmp_path / "new", fill=fill, manifest=tiny_bundle.manifest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [100, 4_000, 20_000])
def test_a_write_the_system_refuses_leaves_nothing_behind(tiny_bundle: Bundle, tmp_path: Path, limit: int) -> None:
    with largest_file(limit), pytest.raises(BundleError, match="File too large"):
        tiny_bundle.copy_to(tmp_path / "new")

    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_would_not_open_is_not_written(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def fill(stage: Path) -> None:
        refill(tiny_bundle.path)(stage)
        (stage / "adapter" / "adapter_model.bin").write_bytes(b"")

    with pytest.raises(BundleCorruptError):
        Bundle.write(tmp_path / "new", fill=fill, manifest=tiny_bundle.manifest)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_bundle_is_not_copied(copy: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(copy)
    (copy / "README.md").write_text("changed")

    with pytest.raises(BundleCorruptError):
        bundle.copy_to(tmp_path / "second")
    assert not (tmp_path / "second").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse to write files beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _put(descriptor: int, place: int, content: bytes) -> None:
    os.pwrite(descriptor, content, place)
