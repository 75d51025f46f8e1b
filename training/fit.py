"""Train LoRA and head on weighted examples: length-grouped batches, early stopping, resumable to the bit.

The order of the data and every dropout mask are functions of (seed, epoch, step), so a run that was killed and resumed
gives the weights of an undisturbed one, and a checkpoint needs no random state.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from pointsman.adapters import Network
from pointsman.adapters.encoding import Encoded
from pointsman.adapters.engine import TorchEngine, is_out_of_memory
from pointsman.adapters.files import write_atomically
from pointsman.router import ConfigurationError, GatekeeperOutOfMemory, MissingDependencyError
from pointsman.router.checks import check_at_least
from pointsman.training.dropout import lock_dropout
from pointsman.training.examples import Example
from pointsman.training.metrics import macro_f1
from pointsman.training.mixture import MixtureSettings, epoch_examples, example_weights

if TYPE_CHECKING:
    import torch

__all__ = ["FitResult", "FitSettings", "Progress", "fit"]

_BATCHES_SORTED = 128
"""Batches whose windows are sorted by length together; 3 % of the tokens are padding then, 12 % with 32 batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How to train; the defaults suit a LoRA on a small encoder."""

    epochs: int = 6
    minimum_steps: int = 0
    """Few examples make few steps an epoch; epochs are added until there are at least this many steps."""
    batch_size: int = 32
    accumulation: int = 1
    """Batches per optimiser step."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.06
    """Share of all steps over which the learning rate rises; it falls to zero along a cosine after that."""
    label_smoothing: float = 0.05
    max_gradient_norm: float = 1.0
    patience: int = 2
    """Epochs without a better validation macro-F1 before training stops, and the best epoch's weights are kept. 0 never
    stops early and keeps the last, which a learning rate that falls to zero makes the safer choice on few examples."""
    averaging: float = 0.0
    """Decay per step of the exponential moving average that is validated and kept; 0 keeps the last weights."""
    seed: int = 13
    precision: Literal["no", "bf16", "fp16"] = "no"

    def __post_init__(self) -> None:
        check_at_least(self, 1, "epochs", "batch_size", "accumulation")
        if self.minimum_steps < 0:
            raise ConfigurationError(f"`minimum_steps` must not be negative, got {self.minimum_steps}")
        if self.learning_rate <= 0:
            raise ConfigurationError(f"`learning_rate` must be positive, got {self.learning_rate}")
        for name in ("warmup", "label_smoothing", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigurationError(f"`{name}` must lie in 0..1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training is; handed to `on_progress` after every step."""

    epoch: int
    step: int
    total: int
    loss: float
    validation: float | None = None
    """Macro-F1 on the validation examples, at the end of an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What came out; the network holds the best weights."""

    best_epoch: int
    """From 0: the one whose weights were kept."""
    validation: float | None
    steps: int
    trainable: int
    total: int
    history: tuple[dict[str, float], ...]


def fit(
    network: Network,
    train: Sequence[Example],
    *,
    labels: Sequence[str],
    validation: Sequence[Example] = (),
    settings: FitSettings | None = None,
    mixture: MixtureSettings | None = None,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FitResult:
    """Train the trainable parameters of `network` in place and leave the weights it decides for in it.

    Args:
        network: after `add_lora`, or with whatever parameters require gradients.
        train: what to learn from.
        labels: in the order of the network's outputs.
        validation: what early stopping looks at; without any, the last epoch is kept.
        settings: how to train.
        mixture: how an epoch is drawn from `train`.
        checkpoint: a file that is replaced after every epoch; when it exists, training goes on from it.
        on_progress: called after every step, on the main process.

    Raises:
        ConfigurationError: there is nothing to train on, the loss is no longer a number, or `checkpoint` belongs to
            another run, is damaged or cannot be written.
        GatekeeperOutOfMemory: a batch did not fit; the message says what to lower.
    """
    if not train:
        raise ConfigurationError("there are no examples to train on")
    return _Run(network, train, labels, validation, settings or FitSettings(), mixture or MixtureSettings()).run(
        checkpoint, on_progress
    )


class _Row(NamedTuple):
    encoded: Encoded
    target: int
    weight: float


class _Run:
    def __init__(
        self,
        network: Network,
        train: Sequence[Example],
        labels: Sequence[str],
        validation: Sequence[Example],
        settings: FitSettings,
        mixture: MixtureSettings,
    ) -> None:
        try:
            import torch
            from accelerate import Accelerator
            from accelerate.state import AcceleratorState
        except ImportError as error:
            raise MissingDependencyError(f"training needs {error.name}: pip install 'pointsman[train]'") from error

        lock_dropout(network.model)
        network.model.set_attn_implementation("eager")  # fused attention's backward pass is slow on CPU in bf16
        self.network, self.train, self.validation = network, train, validation
        self.settings, self.mixture = settings, mixture
        self.index = {label: number for number, label in enumerate(labels)}
        AcceleratorState._reset_state()  # noqa: SLF001 -- else a process trains in the precision of its first run only
        self.accelerator = Accelerator(mixed_precision=settings.precision)
        self.parameters = {n: p for n, p in network.model.named_parameters() if p.requires_grad}
        batches = math.ceil(len(epoch_examples(train, mixture, seed=0)) / settings.batch_size)
        self.steps_per_epoch = math.ceil(batches / settings.accumulation)
        self.epochs = max(settings.epochs, math.ceil(settings.minimum_steps / self.steps_per_epoch))
        self.total = self.steps_per_epoch * self.epochs
        decayed = [p for p in self.parameters.values() if p.dim() > 1]
        plain = [p for p in self.parameters.values() if p.dim() <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.learning_rate,
        )
        self.model, self.optimizer = self.accelerator.prepare(network.model, optimizer)
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()} if settings.averaging else None
        self.best: dict[str, Any] = {"epoch": -1, "validation": None, "weights": None}
        self.history: list[dict[str, float]] = []

    def run(self, checkpoint: Path | None, on_progress: Callable[[Progress], None]) -> FitResult:
        try:
            first = self._resume(checkpoint) if checkpoint and checkpoint.exists() else 0
            for epoch in range(first, self.epochs):
                if self._should_stop(epoch):
                    break
                loss = self._epoch(epoch, on_progress)
                self._validate(epoch, loss, on_progress)
                if checkpoint and self.accelerator.is_main_process:
                    self._save(checkpoint, epoch + 1)
            self._load(self.best["weights"])
        finally:  # what comes after training, calibration above all, runs in full precision as serving does
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.network.model.eval()
        return FitResult(
            best_epoch=self.best["epoch"],
            validation=self.best["validation"],
            steps=len(self.history) * self.steps_per_epoch,
            trainable=sum(p.numel() for p in self.parameters.values()),
            total=sum(p.numel() for p in self.network.model.parameters()),
            history=tuple(self.history),
        )

    def _epoch(self, epoch: int, on_progress: Callable[[Progress], None]) -> float:
        import torch

        settings = self.settings
        batches = self._batches(epoch)
        losses: list[float] = []
        self.model.train()
        for start in range(0, len(batches), settings.accumulation):
            step = epoch * self.steps_per_epoch + start // settings.accumulation
            torch.manual_seed(settings.seed * 1_000_003 + step * 64 + self.accelerator.process_index)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, self.total, settings.warmup)
            part = batches[start : start + settings.accumulation]
            loss = sum(self._backward(batch, len(part)) for batch in part) / len(part)
            if not math.isfinite(loss):
                raise ConfigurationError(
                    f"the loss was {loss} at step {step + 1} of {self.total}; lower learning_rate "
                    f"(now {settings.learning_rate:g}) or train in full precision"
                )
            self.accelerator.clip_grad_norm_(self.parameters.values(), settings.max_gradient_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._update_average()
            losses.append(loss)
            if self.accelerator.is_main_process:
                on_progress(Progress(epoch=epoch, step=step + 1, total=self.total, loss=loss))
        return float(np.mean(losses))

    def _backward(self, batch: Sequence[_Row], parts: int) -> float:
        import torch

        mine = batch[self.accelerator.process_index :: self.accelerator.num_processes] or batch[:1]
        padded = self.network.encoder.pad([row.encoded for row in mine])
        device = self.accelerator.device
        target = torch.tensor([row.target for row in mine], device=device)
        weight = torch.tensor([row.weight for row in mine], device=device)
        try:
            with self.accelerator.autocast():
                tensors = (torch.from_numpy(array).to(device) for array in (padded.ids, padded.mask, padded.segments))
                logits = self._logits(*tensors)
                losses = torch.nn.functional.cross_entropy(
                    logits.float(), target, reduction="none", label_smoothing=self.settings.label_smoothing
                )
                loss = (losses * weight).mean()
            self.accelerator.backward(loss / parts)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise GatekeeperOutOfMemory(
                f"a batch of {padded.ids.shape[0]} x {padded.ids.shape[1]} tokens did not fit; lower batch_size "
                f"(now {self.settings.batch_size}), raise accumulation by as much, or lower max_tokens"
            ) from error
        return float(loss.detach())

    def _logits(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        return replace(self.network, model=self.model).logits(ids, mask, segments)

    def _batches(self, epoch: int) -> list[list[_Row]]:
        """Return the epoch's batches: windows of like length together, so that little is padded, in random order."""
        seed = self.settings.seed * 1009 + epoch
        examples = epoch_examples(self.train, self.mixture, seed=seed)
        encoded = self.network.encoder.encode([example.window for example in examples])
        targets = (self.index[example.label] for example in examples)
        rows = [_Row(*fields) for fields in zip(encoded, targets, example_weights(examples), strict=True)]
        size = self.settings.batch_size
        batches: list[list[_Row]] = []
        for start in range(0, len(rows), size * _BATCHES_SORTED):
            pool = sorted(rows[start : start + size * _BATCHES_SORTED], key=lambda row: len(row.encoded.ids))
            batches += [pool[at : at + size] for at in range(0, len(pool), size)]
        random.Random(seed).shuffle(batches)  # noqa: S311 -- order, not secrets
        return batches

    def _update_average(self) -> None:
        import torch

        if self.average is None:
            return
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.average[name].lerp_(parameter, 1 - self.settings.averaging)

    def _validate(self, epoch: int, loss: float, on_progress: Callable[[Progress], None]) -> None:
        weights = {n: p.detach().clone() for n, p in (self.average or self.parameters).items()}
        entry = {"epoch": float(epoch), "loss": loss}
        score = None
        if self.validation:
            kept = {n: p.detach().clone() for n, p in self.parameters.items()}
            self._load(weights)
            score = self._score()
            self._load(kept)
            entry["validation"] = score
        self.history.append(entry)
        best = self.best["validation"]
        if score is None or best is None or score > best or not self.settings.patience:
            self.best = {"epoch": epoch, "validation": score, "weights": weights}
        if self.accelerator.is_main_process:
            done = (epoch + 1) * self.steps_per_epoch
            on_progress(Progress(epoch=epoch, step=done, total=self.total, loss=loss, validation=score))

    def _score(self) -> float:
        self.network.model.eval()
        engine = TorchEngine(network=self.network, labels=tuple(self.index), device=str(self.accelerator.device))
        logits, _ = engine.logits([example.window for example in self.validation])
        truth = np.array([self.index[example.label] for example in self.validation])
        return macro_f1(truth, logits.argmax(axis=1), len(self.index))

    def _should_stop(self, epoch: int) -> bool:
        patience = self.settings.patience
        return bool(patience and self.validation and epoch - self.best["epoch"] > patience and epoch > 0)

    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for example in self.train:
            digest.update(repr((example.window, example.label, example.source)).encode())
        shapes = [(name, tuple(parameter.shape)) for name, parameter in sorted(self.parameters.items())]
        return repr((asdict(self.settings), asdict(self.mixture), digest.hexdigest(), shapes))

    def _save(self, path: Path, next_epoch: int) -> None:
        import torch

        state = {
            "fingerprint": self._fingerprint(),
            "next_epoch": next_epoch,
            "weights": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "average": self.average,
            "best": self.best,
            "history": self.history,
        }
        content = io.BytesIO()
        torch.save(state, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getvalue())
        except OSError as error:
            raise ConfigurationError(f"cannot write the checkpoint {path}: {error.strerror or error}") from error

    def _resume(self, path: Path) -> int:
        import torch

        try:
            state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise ConfigurationError(f"{path} is not a checkpoint; remove it to start afresh ({error})") from error
        if not isinstance(state, dict) or state.get("fingerprint") != self._fingerprint():
            raise ConfigurationError(f"{path} belongs to a run with other settings or data; remove it to start afresh")
        self._load(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.average, self.best, self.history = state["average"], state["best"], state["history"]
        next_epoch: int = state["next_epoch"]
        return next_epoch


def _schedule(step: int, total: int, warmup: float) -> float:
    """Return the learning rate's factor: linear up, then half a cosine down to zero."""
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
