import json
from pathlib import Path
from typing import Any

import pytest

from pointsman.adapters import Bundle, Store

from .conftest import Pointsman

RECIPE = """
data = ["{data}"]
base = "pointsman/tiny-bert"
glossary.words = 0
template = {{ max_tokens = 48, context_tokens = 16 }}
fit = {{ epochs = 3, batch_size = 16, learning_rate = 1e-2, patience = 0 }}
split = {{ validation = 0.1, calibration = 0.15, heldout = 0.15 }}
"""


@pytest.fixture
def recipe(labelled_file: Path, installation: Path) -> Path:
    path = installation / "recipe.toml"
    path.write_text(RECIPE.format(data=labelled_file), encoding="utf-8")
    return path


def test_train_writes_a_bundle_into_the_store(pointsman: Pointsman, recipe: Path, tmp_path: Path) -> None:
    ran = pointsman("train", "--recipe", recipe, "--json")

    figures = json.loads(ran.out)
    bundle = Store(tmp_path / "store").open(figures["bundle"])
    assert ran.code == 0
    assert (figures["path"], figures["epochs"]) == (str(bundle.path), 3)
    assert 0 < figures["trainable_share"] < 1
    assert "60 examples: 20 data_platform" in ran.err
    assert "epoch 3: loss" in ran.err
    assert f"pointsman adapters promote {bundle.id}" in ran.err
    assert [path.name for path in (tmp_path / "store").iterdir()] == [bundle.id]  # no checkpoint is left


def test_options_win_over_the_recipe(pointsman: Pointsman, recipe: Path, installation: Path) -> None:
    ran = pointsman(
        *("train", "--recipe", recipe, "--output", installation / "out", "--json"),
        *("--epochs", "1", "--seed", "7", "--lora-rank", "2", "--lora-alpha", "4", "--batch-size", "8"),
    )

    figures = json.loads(ran.out)
    used: Any = Bundle.open(Path(figures["path"])).manifest.training["recipe"]
    assert used["fit"]["epochs"] == 1
    assert used["fit"]["seed"] == 7
    assert used["lora"] == {**used["lora"], "rank": 2, "alpha": 4}
    assert "pointsman adapters add" in ran.err


def test_data_on_the_command_line_replaces_the_recipes(
    pointsman: Pointsman, recipe: Path, labelled_file: Path, installation: Path
) -> None:
    mine = installation / "mine.jsonl"
    twice = labelled_file.read_text(encoding="utf-8") * 2
    mine.write_text(twice + '{"text": "hello there", "label": "irrelevant"}\n', encoding="utf-8")

    ran = pointsman("train", "--recipe", recipe, "--data", mine, "--epochs", "1")

    assert ran.code == 0
    assert "121 examples" in ran.err
    assert "warning: 1 messages carry two labels, e.g. 'hello there'" in ran.err
    assert "repeat another one" in ran.err
    assert "Trained" in ran.out


def test_a_checkpoint_is_gone_on_from_unless_a_fresh_start_is_asked_for(
    pointsman: Pointsman, recipe: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "store" / ".training" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"of another run")

    assert "going on from" in pointsman("train", "--recipe", recipe, "--epochs", "1").err
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_bytes(b"of another run")
    assert pointsman("train", "--recipe", recipe, "--epochs", "1", "--fresh").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--lora-alpha", "-1"], "alpha must be positive", id="alpha"),
        pytest.param(["--lora-dropout", "1"], "dropout must lie in 0..1", id="dropout"),
        pytest.param(["--learning-rate", "0"], "`learning_rate` must be positive", id="learning rate"),
        pytest.param(["--precision", "fp8"], "must be no, bf16 or fp16", id="precision"),
        pytest.param(["--epochs", "0"], "Invalid value for '--epochs'", id="epochs"),
        pytest.param(["--recipe", "gone.toml"], "cannot read the recipe gone.toml", id="recipe"),
        pytest.param(["--data", "gone.jsonl"], "no file or folder gone.jsonl", id="data"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_training(
    pointsman: Pointsman, recipe: Path, options: list[str], message: str, tmp_path: Path
) -> None:
    ran = pointsman("train", "--recipe", recipe, *options)

    assert ran.code == 2
    assert message in ran.err
    assert not (tmp_path / "store").exists()
