"""The network itself: base, glossary rows, head. Everything here needs torch and transformers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pointsman.adapters.base import BaseFiles
from pointsman.adapters.encoding import Encoder, load_tokenizer
from pointsman.adapters.families import Family, family_of
from pointsman.adapters.glossary import Glossary
from pointsman.adapters.manifest import Template
from pointsman.router import BaseModelError, ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

__all__ = ["Network", "build_network"]

_LOADING = threading.Lock()
"""Loading changes what all threads of transformers and torch share: verbosity, default dtype."""


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
