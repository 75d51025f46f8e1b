"""The manifest: everything about a bundle that is not weights.

Its bytes are canonical (sorted keys, two-space indent) and its id is a hash of its content, so a manifest that was
changed in any byte is recognised without a file beside it.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from pointsman.router import Label, Policy

__all__ = ["BaseReference", "DataFingerprint", "FileEntry", "LabelEntry", "Manifest", "Template", "ThresholdEntry"]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LabelEntry(_Frozen):
    """A label as it stands in the manifest; the order of entries is the order of the model's outputs."""

    name: str
    route: str
    description: str = ""
    display: dict[str, str] = {}

    @classmethod
    def of(cls, label: Label) -> Self:
        """Return the entry of a label."""
        return cls(name=label.name, route=label.route, description=label.description, display=dict(label.display))

    def label(self) -> Label:
        """Return the label of an entry."""
        return Label(name=self.name, route=self.route, description=self.description, display=self.display)


class BaseReference(_Frozen):
    """The base weights that the adapter was trained on."""

    hub_id: str
    revision: str | None = None
    sha256: Sha256
    model_type: str


class Template(_Frozen):
    """How a window becomes token ids. Training and serving both read it, so they cannot disagree.

    The pair is (context, message); without context the message stands alone. The message keeps its head and its tail
    when it is longer than fits; the context gets what is left, at most `context_tokens`, cut from its beginning.
    """

    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 160
    context_tokens: Annotated[int, Field(ge=0, le=4096)] = 64

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.context_tokens > self.max_tokens - 8:
            raise ValueError(f"context_tokens must be at most max_tokens - 8, got {self.context_tokens}")
        return self


class ThresholdEntry(_Frozen):
    """The lowest safety (see `router.Policy`) at which a label is followed, and the promise it was chosen for.

    `value` is the smallest threshold at which the Clopper-Pearson upper bound of the error rate on `n` calibration
    messages stays within `budget` at the given confidence. Without `certified`, n was too small for any promise.
    """

    value: Probability
    budget: Probability
    error: Literal["false_refusal", "lost_data"]
    certified: bool
    upper_bound: Probability
    confidence: Probability
    n: Annotated[int, Field(ge=0)]
    errors: Annotated[int, Field(ge=0)]


class DataFingerprint(_Frozen):
    """What the adapter was trained on: a hash over every example in order, and how many came from which file."""

    sha256: Sha256
    examples: int
    files: dict[str, int] = {}


class FileEntry(_Frozen):
    """Size in bytes and hash of one file of the bundle."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class Manifest(_Frozen):
    """Everything about one gatekeeper version. `id` is filled in by `sealed`."""

    schema_version: Literal[1] = 1
    id: str = ""
    parent: str | None = None
    created: datetime
    labels: Annotated[tuple[LabelEntry, ...], Field(min_length=2)]
    base: BaseReference
    template: Template = Template()
    temperature: Annotated[float, Field(gt=0)] = 1.0
    thresholds: dict[str, ThresholdEntry] = {}
    unsure_route: str = "knowledge_base"
    metrics: dict[str, JsonValue] = {}
    training: dict[str, JsonValue] = {}
    data: DataFingerprint
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _labels_are_consistent(self) -> Self:
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise ValueError(f"label names must be unique, got {names!r}")
        if unknown := sorted(self.thresholds.keys() - set(names)):
            raise ValueError(f"thresholds for unknown labels {unknown!r}; the labels are {names!r}")
        return self

    def policy(self) -> Policy:
        """Return the policy that the bundle was calibrated for."""
        return Policy(
            labels=tuple(entry.label() for entry in self.labels),
            thresholds={name: entry.value for name, entry in self.thresholds.items()},
            unsure_route=self.unsure_route,
        )

    def sealed(self) -> Self:
        """Return the manifest with its id: the day it was made and a hash of its content."""
        return self.model_copy(update={"id": f"{self.created:%Y%m%d}-{self._content_hash()[:12]}"})

    def is_sealed(self) -> bool:
        """Return whether the id is the one that belongs to the content."""
        return self.id == self.sealed().id

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of `manifest.json`."""
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=2, sort_keys=True)
        return f"{text}\n".encode()

    def _content_hash(self) -> str:
        return hashlib.sha256(self.model_copy(update={"id": ""}).to_bytes()).hexdigest()
