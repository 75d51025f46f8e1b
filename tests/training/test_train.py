import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pointsman.adapters import Bundle, TorchEngine
from pointsman.adapters.files import sha256_of
from pointsman.router import BundleError, ConfigurationError, DataError
from pointsman.training import Findings, FitSettings, Progress, Recipe, evaluate, read_examples, split_examples, train
from pointsman.training.recipe import SplitSettings

LABELS = ("data_platform", "general_chat", "irrelevant")


@pytest.fixture(scope="module")
def quick(tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.model_copy(update={"fit": FitSettings(epochs=1, batch_size=32, learning_rate=1e-2)})


def with_data(recipe: Recipe, folder: Path, rows: Sequence[dict[str, object]]) -> Recipe:
    path = folder / "more.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return recipe.model_copy(update={"data": (*recipe.data, path)})


def test_the_manifest_says_how_the_bundle_was_made(tiny_bundle: Bundle, tiny_recipe: Recipe) -> None:
    manifest = tiny_bundle.manifest
    training = manifest.training

    assert training["recipe"] == tiny_recipe.as_json()
    assert sum(training["split"].values()) == manifest.data.examples == 60
    assert training["near_duplicates_of_train"].keys() == {"validation", "calibration", "heldout"}
    assert len(training["fit"]["history"]) == tiny_recipe.fit.epochs
    assert {"torch", "transformers", "peft", "accelerate"} <= training["versions"].keys()
    assert manifest.data.files == {"easy": 60}


def test_the_held_out_figures_are_those_of_the_bundle_as_it_is_served(
    tiny_bundle: Bundle, tiny_base: Path, tiny_recipe: Recipe, labelled_file: Path
) -> None:
    split = split_examples(read_examples([labelled_file], labels=LABELS), **tiny_recipe.split.model_dump())
    engine = TorchEngine.load(tiny_bundle, base=str(tiny_base))

    again = evaluate(engine, split.heldout, policy=tiny_bundle.manifest.policy(), bundle=tiny_bundle.id)

    metrics = tiny_bundle.manifest.metrics
    assert metrics["n"] == again.n == len(split.heldout)
    assert metrics["macro_f1"] == pytest.approx(again.macro_f1)
    assert metrics["ece"] == pytest.approx(again.ece, abs=1e-4)
    assert metrics["confusion"] == again.confusion


def test_the_same_recipe_gives_the_same_weights(tiny_base: Path, quick: Recipe, tmp_path: Path) -> None:
    first = train(quick, tmp_path / "first", base=str(tiny_base)).bundle
    second = train(quick, tmp_path / "second", base=str(tiny_base)).bundle

    weights = "adapter/adapter_model.safetensors"
    assert sha256_of(first.path / weights) == sha256_of(second.path / weights)
    assert first.manifest.temperature == second.manifest.temperature


def test_the_checkpoint_is_removed_when_the_bundle_is_written(tiny_base: Path, quick: Recipe, tmp_path: Path) -> None:
    found: list[Findings] = []
    steps: list[Progress] = []

    trained = train(
        quick,
        tmp_path / "bundles",
        work=tmp_path / "work",
        base=str(tiny_base),
        parent="20260101-abc",
        on_findings=found.append,
        on_progress=steps.append,
    )

    assert list((tmp_path / "work").iterdir()) == []
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == [trained.bundle.id]
    assert trained.bundle.manifest.parent == "20260101-abc"
    assert found == [trained.findings]
    assert steps


def test_messages_with_two_labels_are_left_out_and_those_in_two_contexts_kept(
    tiny_base: Path, quick: Recipe, tmp_path: Path
) -> None:
    def after(before: str, label: str) -> dict[str, object]:
        turns = (("user", before), ("assistant", "ok"), ("user", "table for two"))
        return {"messages": [{"role": role, "content": text} for role, text in turns], "label": label}

    rows = [
        {"text": "table for two", "label": "data_platform"},
        {"text": "table for two", "label": "irrelevant"},
        after("list the tables", "data_platform"),
        after("book a hotel", "irrelevant"),
        after("hello", "general_chat"),
        after("hello", "irrelevant"),
    ]

    trained = train(with_data(quick, tmp_path, rows), tmp_path / "bundles", base=str(tiny_base))

    assert len(trained.findings.conflicts) == 2
    assert sum(trained.bundle.manifest.training["split"].values()) == 60 + 2


def test_a_recipe_that_holds_nothing_out_promises_nothing(tiny_base: Path, quick: Recipe, tmp_path: Path) -> None:
    whole = quick.model_copy(update={"split": SplitSettings(validation=0, calibration=0, heldout=0)})

    trained = train(whole, tmp_path, base=str(tiny_base))

    assert trained.heldout is None
    manifest = trained.bundle.manifest
    assert (manifest.temperature, manifest.thresholds, manifest.metrics) == (1.0, {}, {})


def test_the_label_of_the_unsure_route_gets_no_threshold_against_itself(
    tiny_base: Path, quick: Recipe, tmp_path: Path
) -> None:
    recipe = quick.model_copy(update={"unsure_route": "general_llm"})

    trained = train(recipe, tmp_path, base=str(tiny_base))

    assert trained.bundle.manifest.thresholds.keys() == {"irrelevant"}


def test_a_label_without_examples_is_named_before_any_training(tiny_base: Path, quick: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('{"text": "hi", "label": "general_chat"}\n', encoding="utf-8")

    with pytest.raises(ConfigurationError, match="no examples of data_platform, irrelevant in the data"):
        train(quick.model_copy(update={"data": (path,)}), tmp_path / "bundles", base=str(tiny_base))


def test_bad_data_leave_nothing_behind(tiny_base: Path, quick: Recipe, tmp_path: Path) -> None:
    recipe = with_data(quick, tmp_path, [{"text": "hi", "label": "chat"}])

    with pytest.raises(DataError, match=r"more\.jsonl:1: `label`"):
        train(recipe, tmp_path / "bundles", base=str(tiny_base))

    assert list((tmp_path / "bundles").iterdir()) == []


def test_a_target_that_is_no_folder_is_refused_before_any_training(
    tiny_base: Path, quick: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "taken").touch()

    with pytest.raises(BundleError, match="cannot write to"):
        train(quick, tmp_path / "taken", base=str(tiny_base))


def test_a_full_disk_leaves_no_half_of_a_bundle(
    tiny_base: Path, quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importlib.import_module("pointsman.training.train"), "save_adapter", full)

    with pytest.raises(BundleError, match="No space left on device"):
        train(quick, tmp_path / "bundles", base=str(tiny_base))

    assert list((tmp_path / "bundles").iterdir()) == []


def test_the_card_says_what_the_bundle_is_and_how_good(tiny_bundle: Bundle) -> None:
    card = (tiny_bundle.path / "README.md").read_text(encoding="utf-8")
    manifest = tiny_bundle.manifest

    assert card.startswith("---\nlicense: apache-2.0\nbase_model: pointsman/tiny-bert\n")
    for label in manifest.labels:
        assert f"| `{label.name}` | {label.description} | {label.route} |" in card
    assert f"60 labelled messages, SHA-256 `{manifest.data.sha256[:16]}…`: easy (60)" in card
    assert f"macro-F1 {manifest.metrics['macro_f1']:.3f}" in card
    assert "| language: zh |" in card
    assert "CC BY-SA 4.0" in card


_LAUNCHED = """
import json, os, sys
from pathlib import Path
from pointsman.training import Recipe, train

recipe, target, base = json.loads(sys.argv[1])
trained = train(Recipe.model_validate(recipe), Path(target), base=base, work=Path(target) / "work")
Path(target, f"seen-{trained.bundle.id}-{os.environ['RANK']}").touch()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_one_bundle(tiny_base: Path, quick: Recipe, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_LAUNCHED, encoding="utf-8")
    recipe = quick.model_copy(update={"fit": replace(quick.fit, epochs=2)}).model_dump(mode="json")
    target = tmp_path / "bundles"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    done = subprocess.run(
        [*launch, str(script), json.dumps([recipe, str(target), str(tiny_base)])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )

    assert done.returncode == 0, done.stderr[-3000:]
    seen = sorted(path.name for path in target.iterdir() if path.name.startswith("seen-"))
    [bundle] = [path for path in target.iterdir() if (path / "manifest.json").is_file()]
    assert seen == [f"seen-{bundle.name}-0", f"seen-{bundle.name}-1"]
    assert Bundle.open(bundle).manifest.training["fit"]["history"][-1]["loss"] > 0
