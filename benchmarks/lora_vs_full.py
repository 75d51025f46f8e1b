"""LoRA against full fine-tuning: trainable parameters, time a step, peak memory, and accuracy on our base.

    python benchmarks/lora_vs_full.py

Each measurement runs in a process of its own, so that peak memory is its own. Time and memory are those of steps of
32 messages x 24 tokens; the two methods alternate, and the median of the rounds is reported. The BERT-base-sized model
has random weights (time and memory only). Accuracy comes from `ablations.py`, arms 0 and 5, on the same data and seeds;
run that first. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = ("lora", "full")
BASES = {"MiniLM-L6 (default base)": None, "BERT-base size": {"hidden": 768, "layers": 12, "heads": 12}}
WARM_UP, STEPS = 2, 10


def main() -> None:
    options = _options()
    if options.measure:
        print(json.dumps(_measure(options.measure, options.base)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in BASES.items():
            base = _random_base(Path(folder), **size) if size else None
            rounds = [(method, _in_own_process(method, base)) for _ in range(options.rounds) for method in METHODS]
            for method in METHODS:
                figures = [figure for which, figure in rounds if which == method]
                rows.append(
                    {
                        "base": name,
                        "method": method,
                        "trainable": figures[0]["trainable"],
                        "share": figures[0]["trainable"] / figures[0]["total"],
                        "step_ms": statistics.median(figure["step_ms"] for figure in figures),
                        "peak_mib": statistics.median(figure["peak_mib"] for figure in figures),
                        "macro_f1": _accuracy(options.results, method) if size is None else None,
                    }
                )
    print("| base | method | trainable parameters | share | ms/step | peak memory, MiB | macro-F1, real messages |")
    print("|---|---|---:|---:|---:|---:|---|")
    for row in rows:
        f1 = row["macro_f1"]
        accuracy = (
            f"{statistics.mean(f1):.3f} ± {statistics.pstdev(f1):.3f} ({len(f1)} seeds)" if f1 else "not applicable"
        )
        print(
            f"| {row['base']} | {row['method']} | {row['trainable']:,} | {row['share']:.2%} | {row['step_ms']:.0f} "
            f"| {row['peak_mib']:.0f} | {accuracy} |"
        )
    print(json.dumps(rows))


def _measure(method: str, base: str | None) -> dict[str, float]:
    import torch

    from pointsman.adapters import Template, add_lora, build_network, find_base
    from pointsman.training import Recipe
    from pointsman.training.dropout import lock_dropout

    network = build_network(find_base(base) if base else find_base(), labels=["a", "b", "c"], template=Template())
    if method == "lora":
        add_lora(network, Recipe.read().lora)
    lock_dropout(network.model)
    trained = [parameter for parameter in network.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(0, 1000, (32, 24), generator=torch.Generator().manual_seed(0))
    mask, segments, target = torch.ones_like(ids), torch.zeros_like(ids), torch.arange(32) % 3
    network.model.train()
    times = []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        torch.nn.functional.cross_entropy(network.logits(ids, mask, segments), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    return {
        "trainable": sum(parameter.numel() for parameter in trained),
        "total": sum(parameter.numel() for parameter in network.model.parameters()),
        "step_ms": 1000 * statistics.median(times[WARM_UP:]),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _in_own_process(method: str, base: Path | None) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", method, *(["--base", str(base)] if base else [])]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def _random_base(folder: Path, *, hidden: int, layers: int, heads: int) -> Path:
    import shutil

    from transformers import BertConfig, BertModel

    from pointsman.adapters import find_base

    path = folder / f"bert-{hidden}"
    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * hidden
    )
    BertModel(config).save_pretrained(path)
    shutil.copy(find_base().path / "tokenizer.json", path)
    return path


def _accuracy(results: Path, method: str) -> list[float]:
    files = sorted(results.glob(f"{method}_gloss_both_context-on_*.json"))
    return [json.loads(file.read_text())["dev"] for file in files]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
