"""Does a label survive typos, other keyboards, pasted logs and 10,000-token inputs?

    python benchmarks/robustness.py

Takes our own held-out single messages, disturbs each in every way of `training/robustness.py`, and prints the share
whose label stays, as a table and, last, as one JSON line.
"""

from __future__ import annotations

import argparse
import json

from pointsman.adapters import TorchEngine, shipped_bundle
from pointsman.training import Recipe, read_examples, split_examples
from pointsman.training.robustness import labels_kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=3, help="take every n-th message")
    every = parser.parse_args().every
    bundle = shipped_bundle()
    recipe = Recipe.read()
    labels = [label.name for label in bundle.manifest.labels]
    heldout = split_examples(read_examples(recipe.data_files(), labels=labels), **recipe.split.model_dump()).heldout
    kept = labels_kept(TorchEngine.load(bundle), [example for example in heldout if example.turn == 1][::every])
    print("| disturbance | messages | label kept |\n|---|---:|---:|")
    for name, (share, n) in kept.items():
        print(f"| {name} | {n} | {share:.1%} |")
    total = sum(n for _, n in kept.values())
    mean = sum(share * n for share, n in kept.values()) / total
    print(f"| all | {total} | {mean:.1%} |")
    print(json.dumps({"bundle": bundle.id, "kept": kept, "all": mean}))


if __name__ == "__main__":
    main()
