"""What LoRA adapts in each BERT-like family, and what must be trained and saved whole beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pointsman.router import BaseModelError

__all__ = ["Family", "family_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Module names as the ends of dotted paths, in the way PEFT matches them."""

    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    head: tuple[str, ...]
    """Modules that are new in a classifier; trained whole."""
    segments: bool
    """Whether the model tells context and message apart by token type."""
    positions_after_padding: bool = False
    """Whether positions are counted from the padding id on, so that the first rows of their table are never read."""


_BERT = Family(
    attention=("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    feed_forward=("intermediate.dense", "output.dense"),
    head=("classifier",),
    segments=True,
)
_FAMILIES = {
    "bert": _BERT,
    "electra": _BERT,
    "roberta": replace(_BERT, segments=False, positions_after_padding=True),
    "distilbert": Family(
        attention=("q_lin", "k_lin", "v_lin", "out_lin"),
        feed_forward=("lin1", "lin2"),
        head=("pre_classifier", "classifier"),
        segments=False,
    ),
    "modernbert": Family(
        attention=("attn.Wqkv", "attn.Wo"),
        feed_forward=("mlp.Wi", "mlp.Wo"),
        head=("head", "classifier"),
        segments=False,
    ),
}


def family_of(model_type: str) -> Family:
    """Return what is known about a model type as it stands in a base's `config.json`.

    Raises:
        BaseModelError: the family is not supported; the message lists those that are.
    """
    name = "roberta" if model_type in {"xlm-roberta", "camembert"} else model_type
    try:
        return _FAMILIES[name]
    except KeyError:
        raise BaseModelError(
            f"the base is of the family {model_type!r}; supported are {', '.join(sorted(_FAMILIES))} and xlm-roberta"
        ) from None
