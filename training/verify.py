"""Verify on a real base that the adapter is what the LoRA paper says: `python -m pointsman.training.verify`.

h = W0 x + (alpha / r) B A x with W0 frozen and B = 0 at the start (Hu et al. 2021). Every claim is checked on tensors,
after real training steps; the command prints one line a claim and exits with 1 when one does not hold.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pointsman.adapters import (
    DEFAULT_BASE,
    BaseFiles,
    LoraSettings,
    Network,
    Template,
    TorchEngine,
    add_lora,
    build_network,
    find_base,
    merge_adapter,
    save_adapter,
)
from pointsman.adapters.lora import trainable_share
from pointsman.router import DEFAULT_LABELS, PointsmanError, Window
from pointsman.training.examples import Example
from pointsman.training.fit import FitSettings, fit

if TYPE_CHECKING:
    import torch

__all__ = ["Check", "main", "verify"]

_LARGEST_SHARE = 0.05
_SAME = 1e-5
"""Largest difference between logits, or between weights relative to the largest, that rounding explains."""
_LABELS = tuple(label.name for label in DEFAULT_LABELS)
_TEXTS = {
    "data_platform": ("Why did last night's sync fail?", "数据清洗流程是什么？", "add a column to the orders table"),
    "general_chat": ("hello there", "谢谢你", "who are you?"),
    "irrelevant": ("What's the weather in Paris?", "放一首歌", "how long do I boil an egg"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One claim, whether it holds, and the figure that says so."""

    claim: str
    holds: bool
    figure: str


def verify(base: BaseFiles, *, lora: LoraSettings | None = None, steps: int = 8) -> list[Check]:
    """Train `steps` steps on nine messages and return what became of each claim.

    Raises:
        BaseModelError: the base cannot be loaded.
        ConfigurationError: LoRA finds nothing to adapt in it.
    """
    import torch

    lora = lora or LoraSettings()
    torch.manual_seed(0)
    network = _built(base)
    untouched = copy.deepcopy(network)
    add_lora(network, lora)
    checks = [_no_effect_at_first(network, untouched), _few_are_trained(network), _gradients_where_they_belong(network)]
    fit(network, _examples(), labels=_LABELS, settings=FitSettings(epochs=steps, batch_size=16, learning_rate=1e-2))
    checks.append(_base_is_frozen(network, untouched, steps))
    with tempfile.TemporaryDirectory(prefix="pointsman-") as folder:
        save_adapter(network, Path(folder), base=base)
        merged = _built(base)
        merge_adapter(merged, Path(folder))
        checks.append(_merged_is_the_product(network, untouched, merged))
        checks.append(_loaded_is_the_trained(network, merged, _loaded_by_peft(untouched, Path(folder))))
    return checks


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the check list; return 0 when every claim holds, 1 when one does not or the base cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m pointsman.training.verify", description="Verify the LoRA implementation on a base model."
    )
    parser.add_argument("--base", default=DEFAULT_BASE, help="folder or hub id of the base (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=LoraSettings().rank, help="LoRA rank (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=LoraSettings().alpha, help="LoRA alpha (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="training steps (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        base = find_base(given.base)
        sys.stdout.write(f"{base.hub_id} ({base.model_type}), rank {given.rank}, alpha {given.alpha:g}\n")
        checks = verify(base, lora=LoraSettings(rank=given.rank, alpha=given.alpha), steps=given.steps)
    except PointsmanError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for check in checks:
        sys.stdout.write(f"{'ok  ' if check.holds else 'FAIL'}  {check.claim}: {check.figure}\n")
    return 0 if all(check.holds for check in checks) else 1


def _no_effect_at_first(network: Network, untouched: Network) -> Check:
    ups = [tensor for name, tensor in network.model.named_parameters() if "lora_B" in name]
    difference = _difference(_logits(network), _logits(untouched))
    return Check(
        claim="at the start the adapter has no effect (B = 0)",
        holds=bool(ups) and all(not tensor.any() for tensor in ups) and difference <= _SAME,
        figure=f"{len(ups)} matrices B are zero, logits differ by {difference:.1e}",
    )


def _few_are_trained(network: Network) -> Check:
    share = trainable_share(network)
    trained = sum(p.numel() for p in network.model.parameters() if p.requires_grad)
    return Check(
        claim=f"fewer than {_LARGEST_SHARE:.0%} of the parameters are trained",
        holds=0 < share < _LARGEST_SHARE,
        figure=f"{trained:,} parameters, {share:.2%}",
    )


def _gradients_where_they_belong(network: Network) -> Check:
    import torch

    examples = _examples()
    batch = network.encoder.pad(network.encoder.encode([example.window for example in examples]))
    tensors = (torch.from_numpy(array) for array in (batch.ids, batch.mask, batch.segments))
    target = torch.tensor([_LABELS.index(example.label) for example in examples])
    loss = torch.nn.functional.cross_entropy(network.logits(*tensors), target)
    torch.autograd.backward(loss)
    reached = {name for name, p in network.model.named_parameters() if p.grad is not None}
    network.model.zero_grad()
    strangers = sorted(name for name in reached if not _is_trained(name))
    ups = {name for name, _ in network.model.named_parameters() if "lora_B" in name}
    return Check(
        claim="gradients reach the adapter and the head, and nothing else",
        holds=not strangers and ups <= reached and any(not name.count("lora_") for name in reached),
        figure=f"{len(reached)} tensors have one" + (f", among them {strangers[0]}" if strangers else ""),
    )


def _base_is_frozen(network: Network, untouched: Network, steps: int) -> Check:
    import torch

    now = {_plain(name): p for name, p in network.model.named_parameters() if not _is_trained(name)}
    before = {name: p for name, p in untouched.model.named_parameters() if name in now}
    changed = sorted(name for name, p in before.items() if not torch.equal(p.detach(), now[name].detach()))
    learned = [p for name, p in network.model.named_parameters() if "lora_B" in name and p.any()]
    return Check(
        claim=f"{steps} training steps leave the base as it was, bit for bit",
        holds=len(before) == len(now) > 0 and not changed and bool(learned),
        figure=f"{len(now) - len(changed)} of {len(now)} tensors unchanged, {len(learned)} matrices B have learned",
    )


def _merged_is_the_product(network: Network, untouched: Network, merged: Network) -> Check:
    worst = 0.0
    count = 0
    for name, product in _products(network):
        before, after = (side.model.get_parameter(f"{name}.weight").detach() for side in (untouched, merged))
        worst = max(worst, float((after - before - product).abs().max() / after.abs().max()))
        count += bool(product.any())
    return Check(
        claim="merged - base = (alpha / r) B A in every adapted matrix",
        holds=count > 0 and worst <= _SAME,
        figure=f"{count} matrices, largest relative difference {worst:.1e}",
    )


def _loaded_is_the_trained(network: Network, merged: Network, by_peft: Network) -> Check:
    trained = _logits(network)
    ours, theirs = _difference(_logits(merged), trained), _difference(_logits(by_peft), trained)
    return Check(
        claim="what is loaded from disk answers as what was trained",
        holds=max(ours, theirs) <= _SAME,
        figure=f"logits differ by {ours:.1e} merged, by {theirs:.1e} in plain PEFT",
    )


def _built(base: BaseFiles) -> Network:
    return build_network(base, labels=_LABELS, template=Template(max_tokens=32, context_tokens=8))


def _loaded_by_peft(untouched: Network, folder: Path) -> Network:
    from peft import PeftModel

    loaded = copy.deepcopy(untouched)
    loaded.model = PeftModel.from_pretrained(loaded.model, folder).eval()
    return loaded


def _products(network: Network) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the plain name of each adapted module and its (alpha / r) B A."""
    for name, module in network.model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            down, up = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
            yield _plain(name), module.scaling["default"] * (up @ down)


def _plain(name: str) -> str:
    """Return the name that a parameter or module has in the base."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")


def _is_trained(name: str) -> bool:
    return "lora_" in name or ".modules_to_save." in name


def _examples() -> list[Example]:
    return [
        Example(window=Window(message=text), label=label, language="en", source="verify", group=text)
        for label, texts in _TEXTS.items()
        for text in texts
    ]


def _logits(network: Network) -> np.ndarray[Any, np.dtype[np.float32]]:
    windows = [example.window for example in _examples()]
    return TorchEngine(network=network, labels=_LABELS).logits(windows)[0]


def _difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(np.abs(one - other).max())


if __name__ == "__main__":
    sys.exit(main())
