import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pointsman.adapters import Bundle, TorchEngine
from pointsman.adapters import engine as module
from pointsman.adapters.engine import softmax
from pointsman.router import BaseModelError, BundleCorruptError, ConfigurationError, GatekeeperOutOfMemory, Window

WINDOWS = [
    Window(message="the sync job failed"),
    Window(message="hello"),
    Window(message="play a song by the sea, please, and then tell me what the weather is like in paris today"),
    Window(message="why?", previous_user="the table has no data", previous_reply="it is stale"),
    Window(message="数据表为什么没有数据"),
    Window(message=""),
    Window(message="the " * 100),
]


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle, tiny_base: Path) -> TorchEngine:
    return TorchEngine.load(tiny_bundle, base=str(tiny_base))


@pytest.fixture
def small_batches(engine: TorchEngine) -> Iterator[TorchEngine]:
    before, engine.max_batch_tokens = engine.max_batch_tokens, 60
    yield engine
    engine.max_batch_tokens = before


def probabilities(engine: TorchEngine, windows: list[Window]) -> np.ndarray:
    return np.array([list(item.probabilities.values()) for item in engine.run(windows)])


def test_scores_come_in_order_and_carry_the_bundles_labels(engine: TorchEngine, tiny_bundle: Bundle) -> None:
    scores = engine.run(WINDOWS)

    assert len(scores) == len(WINDOWS)
    assert all(list(item.probabilities) == [label.name for label in tiny_bundle.manifest.labels] for item in scores)
    assert [item.truncated for item in scores] == [False] * 6 + [True]


def test_a_message_gets_the_same_answer_in_any_batch_and_order(engine: TorchEngine) -> None:
    together = probabilities(engine, WINDOWS)
    alone = np.vstack([probabilities(engine, [window]) for window in WINDOWS])
    order = random.Random(0).sample(range(len(WINDOWS)), len(WINDOWS))
    shuffled = probabilities(engine, [WINDOWS[row] for row in order])

    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(shuffled, together[order], atol=1e-5)


def test_small_batches_give_the_same_answers_as_one_large(small_batches: TorchEngine) -> None:
    cut = probabilities(small_batches, WINDOWS * 3)
    small_batches.max_batch_tokens = 100_000

    np.testing.assert_allclose(cut, probabilities(small_batches, WINDOWS * 3), atol=1e-5)


def test_no_batch_is_larger_than_the_budget_unless_one_window_is(
    small_batches: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    forward = TorchEngine.encode_core

    def watched(self: TorchEngine, batch: module.Batch) -> np.ndarray:
        sizes.append(batch.ids.shape)  # type: ignore[arg-type]
        return forward(self, batch)

    monkeypatch.setattr(TorchEngine, "encode_core", watched)
    small_batches.run(WINDOWS * 3)

    assert len(sizes) > 3
    assert all(rows * tokens <= 60 or rows == 1 for rows, tokens in sizes)


def test_nothing_in_nothing_out(engine: TorchEngine) -> None:
    assert engine.run([]) == []


def test_the_stages_add_up_to_a_run(engine: TorchEngine) -> None:
    encoded = engine.encode_pre(WINDOWS[:3])
    logits = engine.encode_core(engine.network.encoder.pad(encoded))
    scores = engine.encode_post(logits, [item.truncated for item in encoded])

    assert logits.shape == (3, 3)
    np.testing.assert_allclose(
        [list(item.probabilities.values()) for item in scores], probabilities(engine, WINDOWS[:3]), atol=1e-5
    )


def test_the_temperature_divides_the_logits(engine: TorchEngine) -> None:
    logits = np.array([[2.0, 1.0, 0.0]], dtype=np.float32)
    cold = TorchEngine(network=engine.network, labels=engine.labels, temperature=0.5)
    (scores,) = cold.encode_post(logits, [False])

    np.testing.assert_allclose(list(scores.probabilities.values()), softmax(logits * 2)[0], rtol=1e-12)


def test_softmax_stays_finite_for_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], dtype=np.float32)), [[1, 0], [0.5, 0.5]])


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), id="cuda"),
        pytest.param(
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), id="cpu"
        ),
        pytest.param(MemoryError(), id="python"),
    ],
)
def test_out_of_memory_names_the_setting_to_lower(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: object, *tensors: object) -> None:
        raise error

    monkeypatch.setattr(type(engine.network), "logits", fail)
    with pytest.raises(GatekeeperOutOfMemory, match=r"1 x 6 tokens .* lower max_batch_tokens \(now 8192\)") as caught:
        engine.run(WINDOWS[:1])
    assert caught.value.__cause__ is error


def test_another_failure_is_not_taken_for_one_of_memory(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *tensors: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(type(engine.network), "logits", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        engine.run(WINDOWS[:1])


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused(tiny_bundle: Bundle, tiny_base: Path, device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device '{device}'.*device='cpu' always works"):
        TorchEngine.load(tiny_bundle, base=str(tiny_base), device=device)


def test_a_bundle_on_another_base_is_refused(tiny_bundle: Bundle, tiny_base: Path, tmp_path: Path) -> None:
    import shutil

    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(content)

    with pytest.raises(BaseModelError, match="trained on base weights"):
        TorchEngine.load(tiny_bundle, base=str(other))


def test_a_bundle_whose_labels_do_not_fit_its_adapter_is_refused(
    tiny_bundle: Bundle, tiny_base: Path, tmp_path: Path
) -> None:
    import shutil

    def fill(stage: Path) -> None:
        shutil.copytree(tiny_bundle.adapter, stage / "adapter")
        shutil.copy(tiny_bundle.path / "glossary.tsv", stage)

    manifest = tiny_bundle.manifest.model_copy(update={"labels": tiny_bundle.manifest.labels[:2], "thresholds": {}})
    bundle = Bundle.write(tmp_path / "two-labels", fill=fill, manifest=manifest)

    with pytest.raises(BundleCorruptError, match=r"classifier\.\w+ of shape \(3,.*the network \(2,.*: its labels"):
        TorchEngine.load(bundle, base=str(tiny_base))
