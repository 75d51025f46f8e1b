"""The model card: a bundle's README.md, for people."""

from __future__ import annotations

from pointsman.adapters import Manifest
from pointsman.training.evaluate import Evaluation

__all__ = ["model_card"]


def model_card(manifest: Manifest, heldout: Evaluation | None) -> str:
    """Return Markdown that says what the bundle does, what it was made of, how good it is, and its licences."""
    labels = "\n".join(f"| `{label.name}` | {label.description} | {label.route} |" for label in manifest.labels)
    files = ", ".join(f"{name} ({count})" for name, count in manifest.data.files.items())
    return f"""---
license: apache-2.0
base_model: {manifest.base.hub_id}
library_name: peft
pipeline_tag: text-classification
language: [en, zh]
---

# A Pointsman gatekeeper

A LoRA adapter and head on `{manifest.base.hub_id}`, trained on {manifest.created:%Y-%m-%d}. It labels the latest
user message of a conversation, read with the turn before it:

| label | meaning | route |
|---|---|---|
{labels}

Load it with `pointsman.adapters.Bundle.open(folder)`, or its `adapter/` with plain PEFT on the base whose vocabulary
was extended by `glossary.tsv` (see `pointsman.adapters.build_network`).

{_figures(heldout)}
## Data

{manifest.data.examples} labelled messages, SHA-256 `{manifest.data.sha256[:16]}…`: {files}.

The base is under Apache-2.0. `glossary.tsv`, where present, holds shortened glosses of CC-CEDICT (CC BY-SA 4.0).
Files named after public corpora are not part of this bundle; docs/data.md lists their sources and licences.

Full configuration, seed, thresholds with their budgets, and every figure: `manifest.json`.
"""


def _figures(heldout: Evaluation | None) -> str:
    if heldout is None:
        return ""
    rows = "\n".join(
        f"| {axis}: {name} | {part.n} | {part.accuracy:.3f} ({part.low:.3f}-{part.high:.3f}) | {part.macro_f1:.3f} |"
        for axis in ("language", "label", "turn", "kind")
        for name, part in heldout.slices.get(axis, {}).items()
    )
    return f"""## Held-out figures

{heldout.n} messages that neither training nor calibration saw: macro-F1 {heldout.macro_f1:.3f}, accuracy
{heldout.accuracy:.3f}, ECE {heldout.ece:.3f}. With the shipped thresholds {heldout.coverage:.1%} are decided, of the
data-platform messages {heldout.routed.false_refusal_rate:.2%} are refused and {heldout.routed.lost_data_rate:.2%} go to
the general LLM; {heldout.routed.refused_irrelevant_rate:.1%} of the irrelevant ones are refused.

| slice | n | accuracy (95 % interval) | macro-F1 |
|---|---:|---|---:|
{rows}

"""
