import json
from pathlib import Path

import pytest

from pointsman.adapters import LoraSettings
from pointsman.router import ConfigurationError
from pointsman.training import FitSettings, MixtureSettings, Recipe
from pointsman.training.recipe import SHIPPED_RECIPE


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_recipe_is_valid_and_its_files_exist() -> None:
    recipe = Recipe.read(SHIPPED_RECIPE)

    assert len(recipe.data_files()) > 10
    assert all(path.is_file() for path in recipe.glossary.files)


def test_what_a_recipe_does_not_say_keeps_its_default(tmp_path: Path) -> None:
    recipe = Recipe.read(write(tmp_path, "[fit]\nepochs = 2\n[lora]\nrank = 4\n[mixture]\ncap = 7\n"))

    assert recipe.fit == FitSettings(epochs=2)
    assert recipe.lora == LoraSettings(rank=4)
    assert recipe.mixture == MixtureSettings(cap=7)
    assert [label.name for label in recipe.labels] == ["data_platform", "general_chat", "irrelevant"]


def test_paths_are_read_from_the_folder_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("b.jsonl", "a.csv", "notes.md", "jargon.tsv"):
        (tmp_path / "mine" / name).touch()
    (tmp_path / "more.jsonl").touch()

    recipe = Recipe.read(write(tmp_path, 'data = ["mine", "more.jsonl"]\n[glossary]\nfiles = ["mine/jargon.tsv"]\n'))

    names = [path.relative_to(tmp_path).as_posix() for path in recipe.data_files()]
    assert names == ["mine/a.csv", "mine/b.jsonl", "more.jsonl"]
    assert recipe.glossary.files == (tmp_path / "mine" / "jargon.tsv",)


def test_a_gloss_of_a_dash_takes_a_word_out_in_both_spellings(tmp_path: Path) -> None:
    recipe = Recipe.read(write(tmp_path, '[glossary]\nwords = 3000\nfiles = ["own.tsv"]\n'))
    (tmp_path / "own.tsv").write_text("问题\t-\n", encoding="utf-8")

    left = recipe.glossary.read()

    assert left is not None
    assert "时间" in left.entries
    assert "问题" not in left.entries
    assert "問題" not in left.entries
    assert recipe.glossary.model_copy(update={"words": 0}).read() is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("data = [", "is not TOML", id="broken"),
        pytest.param("epochs = 3", "epochs: Extra inputs", id="unknown-setting"),
        pytest.param("[glossary]\nword = 3", "glossary.word: Extra inputs", id="unknown-in-a-table"),
        pytest.param("[fit]\nepoch = 3", r"fit.epoch\b", id="unknown-in-fit"),
        pytest.param("[lora]\nr = 3", r"lora.r\b", id="unknown-in-lora"),
        pytest.param("[mixture]\ncaps = 3", r"mixture.caps\b", id="unknown-in-mixture"),
        pytest.param("[fit]\nepochs = 0", "`epochs` must be at least 1, got 0", id="out-of-range"),
        pytest.param('[fit]\nepochs = "many"', "fit.epochs", id="wrong-type"),
        pytest.param('[fit]\nprecision = "fp8"', "fit.precision", id="unknown-precision"),
        pytest.param("[lora]\nrank = 0", "the LoRA rank must be at least 1, got 0", id="lora"),
        pytest.param("[split]\nheldout = 1.5", "split.heldout", id="share"),
        pytest.param("[budgets]\nfalse_refusal = 0", "budgets.false_refusal", id="budget"),
        pytest.param("[template]\nmax_tokens = 4", "template.max_tokens", id="template"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_setting_that_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(ConfigurationError, match=reason) as caught:
        Recipe.read(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_missing_or_binary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the recipe .*no\.toml"):
        Recipe.read(tmp_path / "no.toml")
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        Recipe.read(tmp_path / "recipe.toml")


def test_data_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no file or folder .*gone\.jsonl"):
        Recipe(data=(tmp_path / "gone.jsonl",)).data_files()
    with pytest.raises(ConfigurationError, match="names no data"):
        Recipe(data=(tmp_path,)).data_files()


def test_the_manifest_gets_every_setting_and_no_local_folder(tmp_path: Path) -> None:
    base = tmp_path / "my-base"
    base.mkdir()

    values = Recipe(data=(tmp_path / "a.jsonl",), base=str(base)).as_json()

    assert str(tmp_path) not in json.dumps(values)
    assert (values["data"], values["base"]) == (["a.jsonl"], "my-base")
    assert {"labels", "glossary", "template", "lora", "fit", "mixture", "split", "budgets"} <= values.keys()
