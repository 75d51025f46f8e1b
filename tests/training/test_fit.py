import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointsman.adapters import LoraSettings, Network, Template, TorchEngine, add_lora, build_network, find_base
from pointsman.router import ConfigurationError, GatekeeperOutOfMemory, Window
from pointsman.training import Example, FitSettings, MixtureSettings, Progress, fit, read_examples
from pointsman.training.dropout import lock_dropout
from pointsman.training.fit import _schedule
from pointsman.training.metrics import macro_f1

LABELS = ("data_platform", "general_chat", "irrelevant")
QUICK = FitSettings(epochs=2, batch_size=16, learning_rate=1e-2, patience=0)
PLAIN = MixtureSettings(drop_context=0, add_context=0, perturb=0)

Build = Callable[..., Network]


@pytest.fixture
def build(tiny_base: Path) -> Build:
    import torch

    def build(*, seed: int = 0, dropout: bool = True) -> Network:
        torch.manual_seed(seed)
        network = build_network(
            find_base(tiny_base), labels=LABELS, template=Template(max_tokens=48, context_tokens=16)
        )
        add_lora(network, LoraSettings(rank=4))
        for module in network.model.modules():
            if isinstance(module, torch.nn.Dropout) and not dropout:
                module.p = 0.0
        return network

    return build


@pytest.fixture(scope="module")
def examples(labelled_file: Path) -> list[Example]:
    return read_examples([labelled_file], labels=LABELS)


def weights(network: Network, *, trained: bool = True) -> dict[str, np.ndarray]:
    parameters = network.model.named_parameters()
    return {name: p.detach().numpy().copy() for name, p in parameters if p.requires_grad is trained}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def run(network: Network, train: list[Example], settings: FitSettings = QUICK, **given: Any) -> Any:
    return fit(network, train, labels=LABELS, settings=settings, **given)


def test_training_learns_what_it_is_shown_and_leaves_the_base_alone(build: Build, examples: list[Example]) -> None:
    network = build()
    frozen = weights(network, trained=False)

    result = run(network, examples, FitSettings(epochs=20, batch_size=8, learning_rate=1e-2, patience=0), mixture=PLAIN)

    logits, _ = TorchEngine(network=network, labels=LABELS).logits([example.window for example in examples])
    truth = np.array([LABELS.index(example.label) for example in examples])
    assert macro_f1(truth, logits.argmax(axis=1), 3) > 0.9
    assert same(frozen, weights(network, trained=False))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.trainable == sum(array.size for array in weights(network).values())
    assert not network.model.training


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(build: Build, examples: list[Example]) -> None:
    first, second, third = build(), build(), build()

    run(first, examples)
    run(second, examples)
    run(third, examples, FitSettings(epochs=2, batch_size=16, learning_rate=1e-2, patience=0, seed=14))

    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(third))


def test_progress_counts_every_step_and_reports_validation_after_an_epoch(
    build: Build, examples: list[Example]
) -> None:
    seen: list[Progress] = []

    result = run(build(), examples[:40], validation=examples[40:], on_progress=seen.append)

    steps = [progress for progress in seen if progress.validation is None]
    scores = [progress for progress in seen if progress.validation is not None]
    assert [progress.step for progress in steps] == list(range(1, 7))  # ceil(40 / 16) in each of two epochs
    assert {progress.total for progress in seen} == {6}
    assert [progress.epoch for progress in scores] == [0, 1]
    assert result.steps == 6


def test_training_stops_early_when_validation_no_longer_improves(build: Build, examples: list[Example]) -> None:
    still = FitSettings(epochs=9, batch_size=64, learning_rate=1e-12, patience=2)

    result = run(build(), examples, still, validation=examples)

    assert result.best_epoch == 0
    assert len(result.history) == 3  # the best one and two without a better one


def test_without_patience_or_validation_every_epoch_is_run(build: Build, examples: list[Example]) -> None:
    still = FitSettings(epochs=4, batch_size=64, learning_rate=1e-12, patience=0)

    assert len(run(build(), examples, still, validation=examples).history) == 4
    unseen = run(build(), examples, FitSettings(epochs=4, batch_size=64, learning_rate=1e-12, patience=1))
    assert (len(unseen.history), unseen.best_epoch, unseen.validation) == (4, 3, None)


def test_the_weights_of_the_best_epoch_are_kept(build: Build, examples: list[Example]) -> None:
    network = build()
    wild = FitSettings(epochs=6, batch_size=16, learning_rate=0.02, warmup=0, patience=6)

    result = run(network, examples, wild, validation=examples, mixture=PLAIN)

    scores = [entry["validation"] for entry in result.history]
    logits, _ = TorchEngine(network=network, labels=LABELS).logits([example.window for example in examples])
    truth = np.array([LABELS.index(example.label) for example in examples])
    assert len(set(scores)) > 1
    assert result.best_epoch == scores.index(max(scores))
    assert macro_f1(truth, logits.argmax(axis=1), 3) == result.validation == max(scores)


def test_without_patience_the_last_weights_are_kept(build: Build, examples: list[Example]) -> None:
    wild = FitSettings(epochs=6, batch_size=16, learning_rate=0.03, warmup=0, patience=0)

    result = run(build(), examples, wild, validation=examples)

    assert result.best_epoch == 5
    assert result.validation == result.history[-1]["validation"]


def test_few_examples_get_more_epochs_until_there_are_steps_enough(build: Build, examples: list[Example]) -> None:
    settings = FitSettings(epochs=1, batch_size=len(examples), minimum_steps=4, learning_rate=1e-3, patience=0)

    assert run(build(), examples, settings).steps == 4


def test_accumulated_batches_do_what_one_large_batch_does(build: Build, examples: list[Example]) -> None:
    large, small = build(dropout=False), build(dropout=False)
    shown = examples[:32]
    losses: list[list[float]] = [[], []]

    for network, kept, batch_size, accumulation in ((large, losses[0], 32, 1), (small, losses[1], 8, 4)):
        settings = FitSettings(
            epochs=2, batch_size=batch_size, accumulation=accumulation, learning_rate=1e-3, warmup=0, patience=0
        )
        run(network, shown, settings, mixture=PLAIN, on_progress=lambda p, kept=kept: kept.append(p.loss))

    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    close = [np.isclose(weights(large)[name], weights(small)[name], atol=2e-4).mean() for name in weights(large)]
    assert (
        np.mean(close) > 0.97
    )  # Adam's first steps have the size of the learning rate, also where a gradient is noise


def test_bf16_trains_and_what_follows_runs_in_full_precision(build: Build, examples: list[Example]) -> None:
    import torch

    network, exact = build(), build()
    half = FitSettings(epochs=2, batch_size=16, learning_rate=1e-2, patience=0, precision="bf16")

    result = run(network, examples, half)
    run(exact, examples)  # a process is not bound to the precision of its first run

    assert math.isfinite(result.history[-1]["loss"])
    assert not same(weights(network), weights(exact))
    assert {array.dtype for array in weights(network).values()} == {np.dtype(np.float32)}
    ids = torch.ones((1, 4), dtype=torch.long)
    [linear] = [m for n, m in network.model.named_modules() if n.endswith("layer.0.attention.self.query")]
    seen: list[Any] = []
    linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    network.logits(ids, ids, torch.zeros_like(ids))
    assert seen == [torch.float32]


def test_the_moving_average_is_what_is_kept(build: Build, examples: list[Example]) -> None:
    plain, averaged = build(), build()

    run(plain, examples)
    run(averaged, examples, FitSettings(epochs=2, batch_size=16, learning_rate=1e-2, patience=0, averaging=0.999))

    start = weights(build())
    moved = sum(np.abs(weights(averaged)[name] - start[name]).sum() for name in start)
    whole = sum(np.abs(weights(plain)[name] - start[name]).sum() for name in start)
    assert 0 < moved < 0.1 * whole


def test_a_loss_that_is_no_number_ends_the_training(build: Build, examples: list[Example]) -> None:
    with pytest.raises(ConfigurationError, match=r"the loss was (nan|inf) at step \d+ of \d+; lower learning_rate"):
        run(build(), examples, FitSettings(epochs=3, batch_size=16, learning_rate=1e30, warmup=0))


def test_nothing_to_train_on_is_refused(build: Build) -> None:
    with pytest.raises(ConfigurationError, match="no examples to train on"):
        run(build(), [])


def test_a_batch_that_does_not_fit_says_which_settings_to_lower(
    build: Build, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Network, "logits", full)

    with pytest.raises(GatekeeperOutOfMemory, match=r"lower batch_size \(now 16\), raise accumulation"):
        run(build(), examples)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 0), ("accumulation", 0), ("learning_rate", 0), ("warmup", 1), ("averaging", -1)],
)
def test_a_setting_out_of_range_is_named_with_its_value(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"`{name}` must .* got {value}"):
        FitSettings(**{name: value})


def test_the_learning_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    factors = [_schedule(step, 100, 0.1) for step in range(100)]

    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] < 0.001


# dropout


def test_locked_dropout_drops_a_feature_at_every_token_of_a_window_or_at_none() -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Dropout(0.5))
    lock_dropout(model)
    torch.manual_seed(0)

    dropped = model.train()(torch.ones(8, 5, 32))

    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1]).all()
    assert not (dropped == dropped[:1]).all()
    assert (model.eval()(torch.ones(8, 5, 32)) == 1).all()


# checkpoints


def test_a_finished_run_is_not_run_again(build: Build, examples: list[Example], tmp_path: Path) -> None:
    first, second = build(), build(seed=1)
    run(first, examples, checkpoint=tmp_path / "checkpoint.pt")
    steps: list[Progress] = []

    result = run(second, examples, checkpoint=tmp_path / "checkpoint.pt", on_progress=steps.append)

    assert steps == []
    assert len(result.history) == 2
    assert same(weights(first), weights(second))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("what", ["settings", "mixture", "data", "rank"])
def test_a_checkpoint_of_another_run_is_refused(
    build: Build, examples: list[Example], tmp_path: Path, tiny_base: Path, what: str
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    run(build(), examples, checkpoint=checkpoint)
    network, train, settings, mixture = build(), examples, QUICK, MixtureSettings()
    match what:
        case "settings":
            settings = FitSettings(epochs=3, batch_size=16, learning_rate=1e-2, patience=0)
        case "mixture":
            mixture = MixtureSettings(cap=10)
        case "data":  # as many, but one has another label
            one = examples[0]
            other = Example(window=one.window, label="irrelevant", language="en", source=one.source, group=one.group)
            train = [other, *examples[1:]]
        case _:
            network = build_network(find_base(tiny_base), labels=LABELS, template=Template())
            add_lora(network, LoraSettings(rank=2))

    with pytest.raises(ConfigurationError, match="belongs to a run with other settings or data"):
        run(network, train, settings, mixture=mixture, checkpoint=checkpoint)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04cut off"])
def test_a_damaged_checkpoint_is_refused(build: Build, examples: list[Example], tmp_path: Path, content: bytes) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"checkpoint\.pt is not a checkpoint; remove it"):
        run(build(), examples, checkpoint=checkpoint)


def test_a_full_disk_ends_the_run_with_the_old_checkpoint_in_place(
    build: Build, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    kept: list[bytes] = []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def fill_the_disk(progress: Progress) -> None:
        if progress.epoch == 1 and not kept:
            kept.append(checkpoint.read_bytes())
            monkeypatch.setattr("os.fsync", full)

    with pytest.raises(ConfigurationError, match=r"cannot write the checkpoint .*: No space left"):
        run(build(), examples, checkpoint=checkpoint, on_progress=fill_the_disk)

    assert [checkpoint.read_bytes()] == kept
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


_CHILD = """
import json, sys
import numpy, torch
from pathlib import Path
from pointsman.adapters import LoraSettings, Template, add_lora, build_network, find_base
from pointsman.training import FitSettings, fit, read_examples

base, data, checkpoint, output, stop = json.loads(sys.argv[1])
labels = ("data_platform", "general_chat", "irrelevant")
torch.manual_seed(0)
network = build_network(find_base(base), labels=labels, template=Template(max_tokens=48, context_tokens=16))
add_lora(network, LoraSettings(rank=4))

def report(progress):
    if stop and (progress.epoch, progress.step) == (2, 10):
        print("in the middle of epoch 2", flush=True)
        sys.stdin.read()

examples = read_examples([Path(data)], labels=labels)
settings = FitSettings(epochs=4, batch_size=16, learning_rate=1e-2, patience=0, averaging=0.9)
result = fit(network, examples[:50], labels=labels, validation=examples[50:], settings=settings,
             checkpoint=Path(checkpoint), on_progress=report)
numpy.savez(output, **{n: p.detach().numpy() for n, p in network.model.named_parameters() if p.requires_grad})
print(json.dumps([result.best_epoch, *(entry["loss"] for entry in result.history)]))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_was_killed_and_resumed_gives_the_weights_of_an_undisturbed_one(
    tiny_base: Path, labelled_file: Path, tmp_path: Path
) -> None:
    def start(name: str, *, stop: bool) -> subprocess.Popen[str]:
        paths = (tiny_base, labelled_file, tmp_path / f"{name}.pt", tmp_path / f"{name}.npz")
        arguments = json.dumps([*map(str, paths), stop])
        command = [sys.executable, "-c", _CHILD, arguments]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with start("killed", stop=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "in the middle of epoch 2\n"
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed.npz").exists()
    both = start("killed", stop=False), start("whole", stop=False)
    resumed, undisturbed = (process.communicate()[0] for process in both)

    assert json.loads(resumed) == json.loads(undisturbed)
    with np.load(tmp_path / "killed.npz") as one, np.load(tmp_path / "whole.npz") as other:
        assert same(dict(one), dict(other))
        assert any(array.any() for name, array in one.items() if "lora_B" in name)


def test_a_window_with_context_is_trained_on(build: Build) -> None:
    window = Window(message="and then?", previous_user="why did the table load fail", previous_reply="no data")
    example = Example(window=window, label="data_platform", language="en", source="some", group="a")

    assert run(build(), [example]).steps == 2
