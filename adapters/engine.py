"""The torch engine: from windows to calibrated scores, in three stages that can be tested and timed apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.adapters.base import BaseFiles, find_base
from pointsman.adapters.bundle import Bundle
from pointsman.adapters.encoding import Batch, Encoded
from pointsman.adapters.lora import merge_adapter
from pointsman.adapters.network import Network, build_network
from pointsman.router import ConfigurationError, GatekeeperOutOfMemory, Scores, Window

__all__ = ["Engine", "TorchEngine", "is_out_of_memory", "softmax"]


class Engine(Protocol):
    """What turns windows into scores, on the thread of the caller."""

    def run(self, windows: Sequence[Window]) -> list[Scores]:
        """Return one `Scores` a window, in order."""


@dataclass(slots=True, kw_only=True)
class TorchEngine:
    """A merged LoRA BERT on CPU or CUDA."""

    network: Network
    labels: tuple[str, ...]
    temperature: float = 1.0
    device: str = "cpu"
    max_batch_tokens: int = 8192
    """Padded tokens in one forward pass; lower it when memory runs out."""

    @classmethod
    def load(cls, bundle: Bundle, *, base: str | None = None, device: str = "cpu", **settings: Any) -> Self:
        """Return the engine of a bundle, its adapter merged into the base.

        Args:
            bundle: what to load.
            base: folder of the base weights; by default they are looked for as `find_base` says.
            device: `cpu`, `cuda` or `cuda:N`.
            settings: the engine's other fields.

        Raises:
            BaseModelError: the base is not found or has other weights than the bundle was trained on.
            BundleCorruptError: the adapter does not fit the base.
            ConfigurationError: the device does not exist.
        """
        manifest = bundle.manifest
        files: BaseFiles = find_base(
            base or manifest.base.hub_id, revision=manifest.base.revision, sha256=manifest.base.sha256
        )
        labels = tuple(label.name for label in manifest.labels)
        network = build_network(files, labels=labels, template=manifest.template, glossary=bundle.glossary())
        merge_adapter(network, bundle.adapter)
        network.model.to(_checked_device(device))
        return cls(network=network, labels=labels, temperature=manifest.temperature, device=device, **settings)

    def run(self, windows: Sequence[Window]) -> list[Scores]:
        """Return one `Scores` a window, in order; long lists are cut into batches of like length."""
        return self.encode_post(*self.logits(windows))

    def logits(self, windows: Sequence[Window]) -> tuple[NDArray[np.float32], list[bool]]:
        """Return the raw outputs, shape (windows, labels), and which windows were truncated."""
        encoded = self.encode_pre(windows)
        logits = np.empty((len(encoded), len(self.labels)), dtype=np.float32)
        for rows in _batches_by_length(encoded, self.max_batch_tokens):
            logits[rows] = self.encode_core(self.network.encoder.pad([encoded[row] for row in rows]))
        return logits, [item.truncated for item in encoded]

    def encode_pre(self, windows: Sequence[Window]) -> list[Encoded]:
        """Return the token ids of each window."""
        return self.network.encoder.encode(windows)

    def encode_core(self, batch: Batch) -> NDArray[np.float32]:
        """Return the raw outputs of one padded batch, shape (windows, labels).

        Raises:
            GatekeeperOutOfMemory: the batch does not fit; the message says what to lower.
        """
        import torch

        try:
            with torch.inference_mode():
                tensors = (torch.from_numpy(array).to(self.device) for array in (batch.ids, batch.mask, batch.segments))
                result: NDArray[np.float32] = self.network.logits(*tensors).float().cpu().numpy()
                return result
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise GatekeeperOutOfMemory(
                f"a batch of {batch.ids.shape[0]} x {batch.ids.shape[1]} tokens did not fit in the memory of "
                f"{self.device}; lower max_batch_tokens (now {self.max_batch_tokens}) or use device='cpu'"
            ) from error

    def encode_post(self, logits: NDArray[np.float32], truncated: Sequence[bool]) -> list[Scores]:
        """Return calibrated probabilities: softmax(logits / temperature)."""
        probabilities = softmax(logits / self.temperature)
        return [
            Scores(probabilities=dict(zip(self.labels, row, strict=True)), truncated=cut)
            for row, cut in zip(probabilities.tolist(), truncated, strict=True)
        ]


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return probabilities along the last axis, in double precision."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def _batches_by_length(encoded: Sequence[Encoded], max_batch_tokens: int) -> list[list[int]]:
    """Return row numbers in batches whose padded size stays within the budget; one window always goes."""
    batches: list[list[int]] = []
    for row in sorted(range(len(encoded)), key=lambda row: len(encoded[row].ids)):
        longest = len(encoded[row].ids)  # rows come in order of length, so this is the batch's longest
        if batches and (len(batches[-1]) + 1) * longest <= max_batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _checked_device(device: str) -> str:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"cannot use the device {device!r} here: {error}; device='cpu' always works"
        ) from error
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch means that memory ran out, on CPU or CUDA."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)
