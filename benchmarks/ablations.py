"""What each ingredient is worth: glossary, data, method, context; several seeds, one short training each.

    python benchmarks/ablations.py --public ../shared/data/train --dev ../shared/data/dev --seeds 3

Every arm trains the same number of passes over the same capped mixture and is scored on (a) real single messages of
public corpora that no arm trained on (`--dev`) and (b) our own held-out messages and conversations. Prints a table and,
last, one JSON line. Arms that were done already are read from `--results` and not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pointsman.adapters import Glossary, Network, Template, add_lora, build_network, find_base
from pointsman.adapters.engine import TorchEngine
from pointsman.router import DEFAULT_LABELS, Window
from pointsman.training import Example, FitSettings, MixtureSettings, Recipe, fit, read_examples, split_examples
from pointsman.training.metrics import macro_f1

LABELS = [label.name for label in DEFAULT_LABELS]
OURS = Path(__file__).parent.parent / "training" / "data"


@dataclass(frozen=True, kw_only=True)
class Arm:
    glossary: str = "gloss"  # none, random, gloss
    data: str = "both"  # public, authored, both
    method: str = "lora"  # lora, full, head
    context: bool = True

    @property
    def name(self) -> str:
        return f"{self.method} / {self.glossary} / {self.data} / context {'on' if self.context else 'off'}"


ARMS = [
    Arm(),
    Arm(glossary="none"),
    Arm(glossary="random"),
    Arm(data="public"),
    Arm(data="authored"),
    Arm(method="full"),
    Arm(method="head"),
    Arm(context=False),
]


def main() -> None:
    options = _options()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    public = sorted(options.public.glob("*.jsonl"))
    names = {path.stem for path in public}
    split = split_examples(read_examples([*sorted(OURS.glob("*.jsonl")), *public], labels=LABELS))
    dev = [e for e in read_examples(sorted(options.dev.glob("*.jsonl")), labels=LABELS) if e.turn == 1]
    dev = dev[:: options.every]
    heldout = [example for example in split.heldout if example.source not in names]
    arms = ARMS if options.only is None else [ARMS[number] for number in options.only]
    for seed in range(options.seeds):
        for arm in arms:
            path = options.results / f"{arm.name.replace(' / ', '_').replace(' ', '-')}_{seed}.json"
            if path.exists():
                continue
            options.results.mkdir(parents=True, exist_ok=True)
            wanted = [e for e in split.train if arm.data == "both" or (e.source in names) == (arm.data == "public")]
            path.write_text(json.dumps(_run(arm, wanted, dev, heldout, seed, options)))
            print(arm.name, seed, path.read_text(), flush=True)
    _table(options.results)


def _run(
    arm: Arm, train: list[Example], dev: list[Example], heldout: list[Example], seed: int, options: argparse.Namespace
) -> dict[str, float]:
    network = build_network(find_base(), labels=LABELS, template=Template(), glossary=_glossary(arm))
    if arm.glossary == "random":
        _randomise_new_rows(network, seed)
    if arm.method == "lora":
        add_lora(network, Recipe.read().lora)
    else:
        for name, parameter in network.model.named_parameters():
            parameter.requires_grad_(arm.method == "full" or name.startswith(("classifier", "bert.pooler")))
    if not arm.context:
        train = [_without_context(example) for example in train]
        heldout = [_without_context(example) for example in heldout]
    started = time.perf_counter()
    result = fit(
        network,
        train,
        labels=LABELS,
        settings=FitSettings(
            epochs=options.epochs,
            learning_rate={"lora": 1e-3, "full": 1e-4, "head": 3e-3}[arm.method],
            seed=seed,
            precision=options.precision,
        ),
        mixture=MixtureSettings(cap=options.cap, add_context=0.15 if arm.context else 0.0),
    )
    seconds = time.perf_counter() - started
    engine = TorchEngine(network=network, labels=tuple(LABELS))
    multi = [example for example in heldout if example.turn > 1]
    return {
        "dev": _f1(engine, dev),
        "dev_en": _f1(engine, [e for e in dev if e.language == "en"]),
        "dev_zh": _f1(engine, [e for e in dev if e.language == "zh"]),
        "single": _f1(engine, [example for example in heldout if example.turn == 1]),
        "multi": _f1(engine, multi),
        "trainable": result.trainable / result.total,
        "seconds": seconds,
    }


def _glossary(arm: Arm) -> Glossary | None:
    if arm.glossary == "none":
        return None
    return Recipe.read().glossary.read()


def _randomise_new_rows(network: Network, seed: int) -> None:
    import torch

    rows = network.model.get_input_embeddings().weight
    old = rows[:30522]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        noise = torch.randn(rows[30522:].shape, generator=generator)
        rows[30522:] = old.mean(dim=0) + old.std(dim=0) * noise


def _without_context(example: Example) -> Example:
    return replace(example, window=Window(message=example.window.message))


def _f1(engine: TorchEngine, examples: list[Example]) -> float:
    logits, _ = engine.logits([example.window for example in examples])
    truth = np.array([LABELS.index(example.label) for example in examples])
    return macro_f1(truth, logits.argmax(axis=1), len(LABELS))


def _table(folder: Path) -> None:
    columns = ("dev", "dev_en", "dev_zh", "single", "multi", "trainable", "seconds")
    print(f"| arm | seeds | {' | '.join(columns)} |\n|---|---:|{'---:|' * len(columns)}")
    summary = {}
    for arm in ARMS:
        stem = arm.name.replace(" / ", "_").replace(" ", "-")
        runs = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{stem}_*.json"))]
        if not runs:
            continue
        values = {column: np.array([run[column] for run in runs]) for column in columns}
        cells = [f"{v.mean():.3f} ± {v.std():.3f}" if c != "seconds" else f"{v.mean():.0f}" for c, v in values.items()]
        print(f"| {arm.name} | {len(runs)} | {' | '.join(cells)} |")
        summary[arm.name] = {column: [round(float(x), 4) for x in value] for column, value in values.items()}
    print(json.dumps(summary))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, default=Path("../shared/data/train"))
    parser.add_argument("--dev", type=Path, default=Path("../shared/data/dev"))
    parser.add_argument("--results", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--cap", type=int, default=100)
    parser.add_argument("--every", type=int, default=3, help="score on every n-th message of dev")
    parser.add_argument("--precision", choices=["no", "bf16"], default="bf16")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the arms to run, from 0")
    return parser.parse_args()


if __name__ == "__main__":
    main()
