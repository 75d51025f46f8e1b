import json
import shutil
from pathlib import Path

import pytest

from pointsman.adapters import Bundle, Store

from .conftest import Pointsman


@pytest.fixture
def other_bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The same weights under another manifest, so under another id."""

    def fill(stage: Path) -> None:
        shutil.copytree(tiny_bundle.path / "adapter", stage / "adapter")
        shutil.copy(tiny_bundle.path / "glossary.tsv", stage)

    manifest = tiny_bundle.manifest.model_copy(update={"parent": tiny_bundle.id})
    return Bundle.write(tmp_path / "other", fill=fill, manifest=manifest)


def test_bundles_are_added_promoted_and_rolled_back(
    pointsman: Pointsman, tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    for bundle in (tiny_bundle, other_bundle):
        assert pointsman("adapters", "add", bundle.path).out == f"{bundle.id}\n"
        assert pointsman("adapters", "promote", bundle.id).out == f"{bundle.id}\n"
    assert Store(tmp_path / "store").current() == other_bundle.id

    assert pointsman("adapters", "rollback").out == f"{tiny_bundle.id}\n"

    rows = {row["id"]: row for row in map(json.loads, pointsman("adapters", "list", "--json").lines)}
    assert rows[tiny_bundle.id]["current"] is True
    assert rows[other_bundle.id]["current"] is False
    assert tiny_bundle.id in pointsman("adapters", "list").out


def test_the_promoted_bundle_is_the_one_that_classifies(
    pointsman: Pointsman, other_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POINTSMAN_BUNDLE")
    pointsman("adapters", "add", other_bundle.path)
    pointsman("adapters", "promote", other_bundle.id)
    assert json.loads(pointsman("classify", "hello", "--json").out)["bundle"] == other_bundle.id


def test_show_prints_the_manifest(pointsman: Pointsman, tiny_bundle: Bundle) -> None:
    shown = json.loads(pointsman("adapters", "show", tiny_bundle.path, "--json").out)
    assert (shown["id"], shown["path"]) == (tiny_bundle.id, str(tiny_bundle.path))
    assert "pointsman/tiny-bert" in pointsman("adapters", "show", tiny_bundle.path).out


def test_verify_finds_the_damaged_one(pointsman: Pointsman, tiny_bundle: Bundle, tmp_path: Path) -> None:
    pointsman("adapters", "add", tiny_bundle.path)
    assert pointsman("adapters", "verify").code == 0

    weights = tmp_path / "store" / tiny_bundle.id / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    ran = pointsman("adapters", "verify", "--json")
    assert ran.code == 1
    row = next(row for row in map(json.loads, ran.lines) if row["bundle"] == tiny_bundle.id)
    assert not row["ok"]
    assert "adapter_model.safetensors" in row["problem"]
    assert "1 bundles are damaged" in ran.err
    assert "DAMAGED" in pointsman("adapters", "list").out
    assert pointsman("adapters", "promote", tiny_bundle.id).code == 1


def test_another_store_is_chosen_by_option(pointsman: Pointsman, tiny_bundle: Bundle, tmp_path: Path) -> None:
    pointsman("adapters", "add", tiny_bundle.path, "--store", tmp_path / "elsewhere")
    assert Store(tmp_path / "elsewhere").ids() == [tiny_bundle.id]
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(["show", "nothing"], id="show"),
        pytest.param(["promote", "nothing"], id="promote"),
        pytest.param(["rollback"], id="rollback"),
        pytest.param(["add", "."], id="add"),
    ],
)
def test_what_is_not_there_is_an_error(pointsman: Pointsman, args: list[str], tmp_path: Path) -> None:
    ran = pointsman("adapters", *args)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("pointsman: ")
    assert not (tmp_path / "store").exists()


def test_adapters_alone_shows_its_commands(pointsman: Pointsman) -> None:
    ran = pointsman("adapters")
    assert ran.code == 0
    assert "rollback" in ran.out
