"""From a recipe to a bundle: read, split, fit, calibrate, evaluate, write."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pointsman.adapters import Bundle, Glossary, Manifest, Network, add_lora, build_network, find_base, save_adapter
from pointsman.adapters.base import BaseFiles
from pointsman.adapters.engine import TorchEngine, softmax
from pointsman.adapters.manifest import BaseReference, DataFingerprint, ThresholdEntry
from pointsman.router import BundleError, ConfigurationError, MissingDependencyError, Policy, Window
from pointsman.training.calibrate import fit_temperature, fit_thresholds
from pointsman.training.card import model_card
from pointsman.training.cedict import ATTRIBUTION
from pointsman.training.evaluate import Evaluation, evaluate
from pointsman.training.examples import Example, Findings, inspect_examples, read_examples
from pointsman.training.fit import FitResult, Progress, fit
from pointsman.training.mixture import example_weights
from pointsman.training.recipe import Recipe
from pointsman.training.splits import Split, near_duplicates_across, split_examples

__all__ = ["Trained", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished run."""

    bundle: Bundle
    findings: Findings
    fit: FitResult
    heldout: Evaluation | None
    """On the held-out split; None where the recipe holds nothing out."""
    seconds: float


def train(
    recipe: Recipe,
    target: Path,
    *,
    work: Path | None = None,
    base: str | None = None,
    parent: str | None = None,
    on_findings: Callable[[Findings], None] = lambda findings: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train a bundle and write it to `target/<bundle id>`.

    Args:
        recipe: what to train on and how.
        target: the folder that gets the bundle.
        work: keeps the checkpoint; a run that was killed goes on from there when it is called again.
        base: a folder with the base's weights, where they are not found by the recipe's hub id.
        parent: id of the bundle that this one is meant to replace.
        on_findings: gets what was found in the data before training starts.
        on_progress: gets the position after every step.

    Raises:
        DataError: a file of the data cannot be used.
        ConfigurationError: the recipe contradicts itself, or a label has no examples.
        BaseModelError: the base is not found or not usable.
        BundleError: the bundle could not be written; nothing is left behind then.
    """
    started = time.perf_counter()
    _check_writable(target)
    labels = [label.name for label in recipe.labels]
    files = recipe.data_files()
    examples = read_examples(files, labels=labels)
    findings = inspect_examples(examples)
    if absent := sorted(set(labels) - findings.per_label.keys()):
        raise ConfigurationError(f"no examples of {', '.join(absent)} in the data; every label needs some")
    on_findings(findings)
    split = split_examples(_without_conflicts(examples), **recipe.split.model_dump())
    base_files = find_base(base or recipe.base, revision=recipe.revision)
    if base is not None:
        base_files = replace(base_files, hub_id=recipe.base)
    glossary = recipe.glossary.read()
    _seed(recipe.fit.seed)  # of the new head and of LoRA's A
    network = build_network(base_files, labels=labels, template=recipe.template, glossary=glossary)
    add_lora(network, recipe.lora)
    result = fit(
        network,
        split.train,
        labels=labels,
        validation=split.validation,
        settings=recipe.fit,
        mixture=recipe.mixture,
        checkpoint=work / "checkpoint.pt" if work else None,
        on_progress=on_progress,
    )
    temperature, thresholds = _calibrate(network, split.calibration, recipe)
    engine = TorchEngine(network=network, labels=tuple(labels), temperature=temperature, device=_device(network))
    policy = Policy(
        labels=tuple(entry.label() for entry in recipe.labels),
        thresholds={name: entry.value for name, entry in thresholds.items()},
        unsure_route=recipe.unsure_route,
    )
    heldout = evaluate(engine, split.heldout, policy=policy, bundle="") if split.heldout else None
    seconds = time.perf_counter() - started
    manifest = Manifest(
        parent=parent,
        created=datetime.now(UTC).replace(microsecond=0),
        labels=recipe.labels,
        base=BaseReference(
            hub_id=base_files.hub_id,
            revision=recipe.revision,
            sha256=base_files.sha256,
            model_type=base_files.model_type,
        ),
        template=recipe.template,
        temperature=temperature,
        thresholds=thresholds,
        unsure_route=recipe.unsure_route,
        metrics=_metrics(heldout),
        training=_training(recipe, result, split, findings, seconds),
        data=_fingerprint(examples),
        files={},
    )
    bundle = _once(
        lambda: _write(network, manifest, target, base=base_files, glossary=glossary, recipe=recipe, heldout=heldout)
    )
    if work:
        (work / "checkpoint.pt").unlink(missing_ok=True)
    return Trained(bundle=bundle, findings=findings, fit=result, heldout=heldout, seconds=seconds)


def _check_writable(target: Path) -> None:
    """Fail before an hour of training, not after it."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise BundleError(f"cannot write to {target}: {error.strerror or error}; choose another folder") from error


def _seed(seed: int) -> None:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(f"training needs {error.name}: pip install 'pointsman[train]'") from error

    torch.manual_seed(seed)


def _once(write: Callable[[], Bundle]) -> Bundle:
    """Write in one of the processes of `accelerate launch`; the others open what it wrote."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    bundle = write() if PartialState().is_main_process else None
    [path] = broadcast_object_list([str(bundle.path) if bundle else ""])
    return bundle or Bundle.open(Path(path))


def _without_conflicts(examples: Sequence[Example]) -> list[Example]:
    """Leave out messages that carry two labels in one context: which one is right, the data do not say."""
    labels: defaultdict[Window, set[str]] = defaultdict(set)
    for example in examples:
        labels[example.window].add(example.label)
    return [example for example in examples if len(labels[example.window]) == 1]


def _calibrate(
    network: Network, examples: Sequence[Example], recipe: Recipe
) -> tuple[float, dict[str, ThresholdEntry]]:
    """Return temperature and thresholds from the calibration split; (1, none) without one."""
    if not examples:
        return 1.0, {}
    labels = [label.name for label in recipe.labels]
    engine = TorchEngine(network=network, labels=tuple(labels), device=_device(network))
    logits, _ = engine.logits([example.window for example in examples])
    truth = np.array([labels.index(example.label) for example in examples])
    temperature = fit_temperature(logits, truth, np.array(example_weights(examples)))
    routes = {label.name: label.route for label in recipe.labels}
    protected = [name for name, route in routes.items() if route == recipe.unsure_route]
    if not protected:
        return temperature, {}
    kinds = {
        "refusal": ("false_refusal", recipe.budgets.false_refusal),
        "general_llm": ("lost_data", recipe.budgets.lost_data),
    }
    guarded = {name: kinds[route] for name, route in routes.items() if route in kinds and name not in protected}
    thresholds = fit_thresholds(
        softmax(logits / temperature),
        truth,
        labels=labels,
        protected=protected,
        budgets={name: budget for name, (_, budget) in guarded.items()},
        errors={name: error for name, (error, _) in guarded.items()},  # type: ignore[misc]
        confidence=recipe.budgets.confidence,
    )
    return temperature, thresholds


def _device(network: Network) -> str:
    return str(next(network.model.parameters()).device)


def _metrics(heldout: Evaluation | None) -> dict[str, Any]:
    if heldout is None:
        return {}
    values = heldout.as_dict()
    wanted = ("n", "accuracy", "macro_f1", "per_label", "confusion", "ece", "coverage", "routed", "slices")
    return {name: values[name] for name in wanted}


def _training(recipe: Recipe, result: FitResult, split: Split, findings: Findings, seconds: float) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "accelerate")}
    sizes = {side: len(getattr(split, side)) for side in ("train", "validation", "calibration", "heldout")}
    near = near_duplicates_across(split, findings.near_duplicates)
    return {
        "recipe": recipe.as_json(),
        "split": sizes,
        "near_duplicates_of_train": near,
        "fit": json.loads(json.dumps(asdict(result))),
        "versions": versions,
        "seconds": round(seconds, 1),
    }


def _fingerprint(examples: Sequence[Example]) -> DataFingerprint:
    digest = hashlib.sha256()
    for example in examples:
        window = example.window
        row = [window.previous_user, window.previous_reply, window.message, example.label, example.source]
        digest.update(json.dumps(row, ensure_ascii=False).encode())
    return DataFingerprint(
        sha256=digest.hexdigest(),
        examples=len(examples),
        files=dict(sorted(Counter(example.source for example in examples).items())),
    )


def _write(
    network: Network,
    manifest: Manifest,
    target: Path,
    *,
    base: BaseFiles,
    glossary: Glossary | None,
    recipe: Recipe,
    heldout: Evaluation | None,
) -> Bundle:
    def fill(folder: Path) -> None:
        save_adapter(network, folder / "adapter", base=base)
        if glossary is not None:
            glossary.write(folder / "glossary.tsv", header=ATTRIBUTION if recipe.glossary.words else "")

    # the id is a hash of the content, so the folder is named after it is known
    stage = target / f".new-{manifest.created:%Y%m%d%H%M%S}"
    bundle = Bundle.write(stage, fill=fill, manifest=manifest, card=model_card(manifest, heldout))
    final = target / bundle.id
    try:
        stage.rename(final)
    except OSError as error:
        raise BundleError(f"the bundle lies in {stage}; it could not be renamed to {final}: {error}") from error
    return Bundle(path=final, manifest=bundle.manifest)
