"""The network itself: base, glossary rows, LoRA, head. Everything here needs torch and transformers.

h = W0 x + (alpha / r) B A x, W0 frozen (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models").
"""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pointsman.adapters.base import BaseFiles
from pointsman.adapters.encoding import Encoder, load_tokenizer
from pointsman.adapters.families import Family, family_of
from pointsman.adapters.glossary import Glossary
from pointsman.adapters.manifest import Template
from pointsman.router import BaseModelError, BundleCorruptError, BundleError, ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

__all__ = ["LoraSettings", "Network", "add_lora", "build_network", "merge_adapter", "save_adapter", "trainable_share"]

_PREFIX = "base_model.model."
_HALVES = {".lora_A.weight": ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}
_UNSUPPORTED = ("rank_pattern", "alpha_pattern", "use_dora", "lora_bias", "fan_in_fan_out")
_LOADING = threading.Lock()
"""Loading changes what all threads of transformers and torch share: verbosity, default dtype."""


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


@dataclass(slots=True, kw_only=True)
class Network:
    """A sequence classifier with the encoder that feeds it."""

    model: Any  # a transformers model, or PEFT's wrapper of one
    encoder: Encoder
    family: Family
    new_modules: tuple[str, ...]
    """Modules whose weights the base does not have; they were initialised at random."""

    def logits(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """Return the raw outputs, shape (windows, labels)."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.family.segments:
            inputs["token_type_ids"] = segments
        logits: torch.Tensor = self.model(**inputs).logits
        return logits


def build_network(
    base: BaseFiles, *, labels: Sequence[str], template: Template, glossary: Glossary | None = None
) -> Network:
    """Return the base with a new head and the glossary's words, ready for LoRA or for an adapter.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        BaseModelError: the base cannot be loaded, or is of an unsupported family.
    """
    family = family_of(base.model_type)
    model, report = _load(base, labels)
    new_modules = _new_modules(report, family, base)
    tokenizer = load_tokenizer(base.path)
    if glossary is not None:
        _add_words(model, tokenizer, glossary)
    pad_id = model.config.pad_token_id or 0
    positions = getattr(model.config, "max_position_embeddings", template.max_tokens)
    positions -= (pad_id + 1) * family.positions_after_padding
    if template.max_tokens > positions:
        raise ConfigurationError(f"max_tokens is {template.max_tokens}, but the base reads at most {positions}")
    return Network(
        model=model.eval(),
        encoder=Encoder(tokenizer, template, pad_id=pad_id),
        family=replace(family, segments=family.segments and getattr(model.config, "type_vocab_size", 2) > 1),
        new_modules=new_modules,
    )


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


def _load(base: BaseFiles, labels: Sequence[str]) -> tuple[Any, Mapping[str, Any]]:
    """Return the base with a new head, and what was new in it, mismatched and so on."""
    with _LOADING:
        try:
            import torch
            from safetensors import SafetensorError
            from transformers import AutoModelForSequenceClassification
            from transformers.utils import logging
        except ImportError as error:
            raise MissingDependencyError(
                f"the torch engine needs {error.name}: pip install 'pointsman[train]'"
            ) from error

        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()  # a new head is expected, and anything else that is new is refused
        logging.disable_progress_bar()
        try:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                base.path,
                num_labels=len(labels),
                id2label=dict(enumerate(labels)),
                label2id={label: index for index, label in enumerate(labels)},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                dtype=torch.float32,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise BaseModelError(f"cannot load the base model in {base.path}: {error}") from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
    return model, report


def _new_modules(report: Mapping[str, Any], family: Family, base: BaseFiles) -> tuple[str, ...]:
    """Return the modules that the checkpoint lacks: the head, and with some checkpoints the pooler.

    Raises:
        BaseModelError: it lacks others, so it is no checkpoint of this family.
    """
    lacking = {*report["missing_keys"], *(item[0] for item in report.get("mismatched_keys", ()))}
    allowed = {*family.head, "pooler"}
    if unexpected := sorted(key for key in lacking if not allowed & set(key.split("."))):
        raise BaseModelError(
            f"the weights in {base.path} do not fit its config.json: {len(unexpected)} tensors are missing or have "
            f"another shape, the first is {unexpected[0]}; copy the model again"
        )
    return tuple(sorted({key.rpartition(".")[0] for key in lacking}))


def _add_words(model: Any, tokenizer: Tokenizer, glossary: Glossary) -> None:
    import torch

    words = glossary.new_words(tokenizer)
    rows = glossary.extend(tokenizer, model.get_input_embeddings().weight.detach().numpy())
    if not words:
        return
    vocabulary = tokenizer.get_vocab()
    first = min(vocabulary[word] for word in words)
    before = model.get_input_embeddings().num_embeddings  # some bases pad their table beyond the vocabulary
    model.resize_token_embeddings(max(before, first + len(words)), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[first : first + len(words)] = torch.from_numpy(rows)


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
