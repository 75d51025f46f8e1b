"""Low-rank adaptation of a network: put it in, write it, merge it.

h = W0 x + (alpha / r) B A x, W0 frozen (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models").
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pointsman.adapters.base import BaseFiles
from pointsman.adapters.network import Network
from pointsman.router import BundleCorruptError, BundleError, ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    import torch

__all__ = ["LoraSettings", "add_lora", "merge_adapter", "save_adapter", "trainable_share"]

_PREFIX = "base_model.model."
_HALVES = {".lora_A.weight": ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}
_UNSUPPORTED = ("rank_pattern", "alpha_pattern", "use_dora", "lora_bias", "fan_in_fan_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """What is trained. The names are PEFT's; the defaults adapt attention and feed-forward."""

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.1
    targets: tuple[str, ...] = ()
    """Ends of module names; empty takes the family's attention and feed-forward."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023)."""
    embeddings: bool = False
    """Adapt the word embeddings too, which lets glossary words drift from their glosses."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigurationError(f"the LoRA rank must be at least 1, got {self.rank}")
        if self.alpha <= 0:
            raise ConfigurationError(f"the LoRA alpha must be positive, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigurationError(f"the LoRA dropout must lie in 0..1, got {self.dropout}")


def add_lora(network: Network, settings: LoraSettings) -> None:
    """Freeze the base and wrap it with LoRA; the head and every module new in it stay trainable.

    Raises:
        MissingDependencyError: peft is not installed.
        ConfigurationError: no module matches the targets.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingDependencyError(f"training needs {error.name}: pip install 'pointsman[train]'") from error

    targets = settings.targets or (*network.family.attention, *network.family.feed_forward)
    whole = sorted({*network.family.head, *_top_modules(network)})
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rank_stabilised,
        target_modules=[*_matching(network, targets, whole), *(_embeddings(network) if settings.embeddings else ())],
        modules_to_save=list(whole),
    )
    with warnings.catch_warnings():  # PEFT asks transformers for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        network.model = get_peft_model(network.model, config)
    network.model.peft_config["default"].modules_to_save = whole  # PEFT adds every name that a head could have


def save_adapter(network: Network, folder: Path, *, base: BaseFiles) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them, without local paths.

    Raises:
        BundleError: the disk is full or the folder is not writable.
    """
    from safetensors import SafetensorError

    config = network.model.peft_config["default"]
    config.base_model_name_or_path = base.hub_id
    config.revision = base.revision
    try:
        network.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"the adapter was not written to {folder}: {error}") from error
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template; the bundle has its own card


def merge_adapter(network: Network, folder: Path) -> None:
    """Fold a saved adapter into the base: W = W0 + (alpha / r) B A, and the trained head in its place.

    Gives the logits of PEFT's own loading, without importing PEFT.

    Raises:
        BundleCorruptError: the adapter does not fit this base, or holds a value that is not finite.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = {
            key.removeprefix(_PREFIX): tensor for key, tensor in load_file(folder / "adapter_model.safetensors").items()
        }
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        unsupported = [name for name in _UNSUPPORTED if config.get(name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, SafetensorError) as error:
        raise BundleCorruptError(f"cannot read the adapter in {folder}: {error!r}") from error
    if unsupported:
        raise BundleCorruptError(f"the adapter in {folder} uses {', '.join(unsupported)}, which is not supported")
    if bad := [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise BundleCorruptError(f"the adapter in {folder} holds values that are not finite, in {bad[0]}")
    if untrained := [module for module in network.new_modules if f"{module}.weight" not in tensors]:
        raise BundleCorruptError(f"the adapter in {folder} lacks {untrained[0]}, which this base does not have either")
    try:
        with torch.no_grad():
            for down, up in _HALVES.items():
                for module in [name.removesuffix(down) for name in tensors if name.endswith(down)]:
                    product = scale * (tensors.pop(f"{module}{up}").float() @ tensors.pop(f"{module}{down}").float())
                    weight = network.model.get_parameter(f"{module}.weight")
                    weight.add_(product if down.endswith(".weight") else product.T)  # a table has its rows as columns
            for name, tensor in tensors.items():
                _replace(network.model.get_parameter(name), tensor, name=name, folder=folder)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise BundleCorruptError(f"the adapter in {folder} does not fit the base: {error}") from error


def trainable_share(network: Network) -> float:
    """Return trainable parameters / all parameters."""
    counts = np.array([(p.numel() * p.requires_grad, p.numel()) for p in network.model.parameters()])
    trainable, total = counts.sum(axis=0)
    return float(trainable / total)


def _replace(parameter: torch.Tensor, tensor: torch.Tensor, *, name: str, folder: Path) -> None:
    if parameter.shape != tensor.shape:
        raise BundleCorruptError(
            f"the adapter in {folder} has {name} of shape {tuple(tensor.shape)}, the network {tuple(parameter.shape)}: "
            "its labels or its base are not those of the manifest"
        )
    parameter.copy_(tensor)


def _top_modules(network: Network) -> set[str]:
    """Return the new modules as PEFT wants them in `modules_to_save`: the head's by name, others by their last part."""
    heads = network.family.head
    return {module.rpartition(".")[2] if "." in module else module for module in _outermost(network, heads)}


def _outermost(network: Network, heads: Sequence[str]) -> set[str]:
    found = set()
    for module in network.new_modules:
        if module.split(".")[0] in heads:
            continue
        parent = module.rpartition(".")[0]
        found.add(parent if parent.endswith("pooler") else module)
    return found


def _matching(network: Network, targets: Sequence[str], whole: Sequence[str]) -> list[str]:
    """Return the full names of the linear modules that end in a target and are not trained whole."""
    import torch

    names = [
        name
        for name, module in network.model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and any(name == target or name.endswith(f".{target}") for target in targets)
        and not any(part in whole for part in name.split("."))
    ]
    if not names:
        raise ConfigurationError(
            f"no linear module of this base ends in {', '.join(targets)}; look at model.named_modules() for its names"
        )
    return names


def _embeddings(network: Network) -> list[str]:
    wanted = network.model.get_input_embeddings()
    return [name for name, module in network.model.named_modules() if module is wanted]
