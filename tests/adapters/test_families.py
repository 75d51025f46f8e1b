"""Every supported family, on tiny random models: what is trained, and that nothing of it is lost by saving."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointsman.adapters import (
    Bundle,
    LoraSettings,
    Network,
    Template,
    TorchEngine,
    add_lora,
    build_network,
    find_base,
    merge_adapter,
    save_adapter,
)
from pointsman.adapters.lora import trainable_share
from pointsman.router import BundleCorruptError, BundleError, ConfigurationError, Window

TEMPLATE = Template(max_tokens=32, context_tokens=12)
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
WINDOWS = [
    Window(message="the sync job failed again"),
    Window(message="why?", previous_user="the table has no data", previous_reply="it is stale"),
    Window(message="数据任务"),
]


def bert(vocabulary: int, *, pooler: bool = True) -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=vocabulary, initializer_range=0.2, **SIZES), add_pooling_layer=pooler)


def roberta(vocabulary: int) -> Any:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=vocabulary, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, **SIZES
    )
    return RobertaModel(config, add_pooling_layer=False)


def distilbert(vocabulary: int) -> Any:
    from transformers import DistilBertConfig, DistilBertModel

    return DistilBertModel(DistilBertConfig(vocab_size=vocabulary, dim=32, hidden_dim=64, n_layers=2, n_heads=2))


def electra(vocabulary: int) -> Any:
    from transformers import ElectraConfig, ElectraModel

    return ElectraModel(ElectraConfig(vocab_size=vocabulary, embedding_size=16, **SIZES))


def modernbert(vocabulary: int) -> Any:
    from transformers import ModernBertConfig, ModernBertModel

    config = ModernBertConfig(
        vocab_size=vocabulary + 5,  # its table is padded beyond the vocabulary, as the published one's is
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
        max_position_embeddings=128,
        **SIZES,
    )
    return ModernBertModel(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    make: Callable[[int], Any]
    adapted: set[str]
    """Last parts of the names of the modules that LoRA adapts."""
    saved: Sequence[str]
    roberta: bool = False


BERT = {"query", "key", "value", "dense"}
CASES = {
    "bert": Case(make=bert, adapted=BERT, saved=["classifier"]),
    "bert-without-pooler": Case(
        make=lambda size: bert(size, pooler=False), adapted=BERT, saved=["classifier", "pooler"]
    ),
    "roberta": Case(make=roberta, adapted=BERT, saved=["classifier"], roberta=True),
    "distilbert": Case(
        make=distilbert,
        adapted={"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"},
        saved=["classifier", "pre_classifier"],
    ),
    "electra": Case(make=electra, adapted=BERT, saved=["classifier"]),
    "modernbert": Case(make=modernbert, adapted={"Wqkv", "Wo", "Wi"}, saved=["classifier", "head"]),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, write_wordpiece: Callable[..., int]) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def base_of(name: str) -> Path:
        if name not in made:
            import torch

            case, folder = CASES[name], tmp_path_factory.mktemp("families") / name
            order = (
                ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]") if case.roberta else ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
            )
            size = write_wordpiece(folder, order, roberta=case.roberta)
            torch.manual_seed(1)
            case.make(size).save_pretrained(folder)
            made[name] = folder
        return made[name]

    return base_of


def logits(network: Network) -> np.ndarray:
    return TorchEngine(network=network, labels=tuple("abcde")[: network.model.config.num_labels]).logits(WINDOWS)[0]


def train_a_little(network: Network) -> None:
    import torch

    torch.manual_seed(2)
    batch = network.encoder.pad(network.encoder.encode(WINDOWS))
    tensors = [torch.from_numpy(array) for array in (batch.ids, batch.mask, batch.segments)]
    optimizer = torch.optim.AdamW([p for p in network.model.parameters() if p.requires_grad], lr=0.02)
    network.model.train()
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(network.logits(*tensors), torch.tensor([0, 1, 2]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.model.eval()


@pytest.mark.parametrize("n_labels", [3, 5])
@pytest.mark.parametrize("name", list(CASES))
def test_what_was_trained_is_what_is_loaded_by_us_and_by_plain_peft(
    bases: Callable[[str], Path], tmp_path: Path, name: str, n_labels: int
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    case, base, labels = CASES[name], find_base(bases(name)), tuple("abcde")[:n_labels]
    network = build_network(base, labels=labels, template=TEMPLATE)
    add_lora(network, LoraSettings(rank=4, alpha=8))
    untrained = logits(network)
    train_a_little(network)
    trained = logits(network)
    save_adapter(network, tmp_path / "adapter", base=base)

    merged = build_network(base, labels=labels, template=TEMPLATE)
    merge_adapter(merged, tmp_path / "adapter")
    plain = build_network(base, labels=labels, template=TEMPLATE)
    model = AutoModelForSequenceClassification.from_pretrained(bases(name), num_labels=n_labels)
    plain.model = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()

    assert trained.shape == (3, n_labels)
    assert np.abs(trained - untrained).max() > 1e-2
    np.testing.assert_allclose(logits(merged), trained, atol=1e-5)
    np.testing.assert_allclose(logits(plain), trained, atol=1e-5)

    text = (tmp_path / "adapter" / "adapter_config.json").read_text()
    config = json.loads(text)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert {target.rpartition(".")[2] for target in config["target_modules"]} == case.adapted
    assert config["modules_to_save"] == case.saved
    assert config["base_model_name_or_path"] == base.hub_id
    assert str(bases(name)) not in text
    assert "/" not in text.replace("\\/", "")  # no path of any kind


@pytest.mark.parametrize("name", list(CASES))
def test_the_base_is_frozen_and_lora_starts_without_effect(bases: Callable[[str], Path], name: str) -> None:
    network = build_network(find_base(bases(name)), labels=("a", "b", "c"), template=TEMPLATE)
    before = logits(network)
    add_lora(network, LoraSettings())

    np.testing.assert_allclose(logits(network), before, atol=1e-6)
    trainable = {key for key, parameter in network.model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in key or "modules_to_save.default" in key for key in trainable)
    assert any("lora_" in key for key in trainable)
    assert 0 < trainable_share(network) < 1


@pytest.mark.parametrize("name", list(CASES))
def test_a_message_gets_the_same_answer_in_any_batch(bases: Callable[[str], Path], name: str) -> None:
    network = build_network(find_base(bases(name)), labels=("a", "b", "c"), template=TEMPLATE)
    engine = TorchEngine(network=network, labels=("a", "b", "c"))
    alone = np.vstack([engine.logits([window])[0] for window in WINDOWS])

    np.testing.assert_allclose(logits(network), alone, atol=1e-5)


def test_targets_of_ones_own_are_followed(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = find_base(bases("bert"))
    network = build_network(base, labels=("a", "b"), template=TEMPLATE)
    add_lora(network, LoraSettings(rank=2, targets=("query", "value")))
    save_adapter(network, tmp_path, base=base)

    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) == 4
    assert {target.rpartition(".")[2] for target in targets} == {"query", "value"}


def test_targets_that_match_nothing_are_refused(bases: Callable[[str], Path]) -> None:
    network = build_network(find_base(bases("distilbert")), labels=("a", "b"), template=TEMPLATE)

    with pytest.raises(ConfigurationError, match="no linear module of this base ends in query"):
        add_lora(network, LoraSettings(targets=("query",)))


@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="LoRA"):
        LoraSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"rank_stabilised": True}, {"embeddings": True}], ids=lambda given: next(iter(given))
)
@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_variants_are_merged_as_peft_applies_them(
    bases: Callable[[str], Path], tmp_path: Path, name: str, settings: dict[str, bool]
) -> None:
    base = find_base(bases(name))
    network = build_network(base, labels=("a", "b", "c"), template=TEMPLATE)
    add_lora(network, LoraSettings(rank=4, alpha=8, **settings))  # type: ignore[arg-type]
    train_a_little(network)
    save_adapter(network, tmp_path / "adapter", base=base)
    merged = build_network(base, labels=("a", "b", "c"), template=TEMPLATE)
    merge_adapter(merged, tmp_path / "adapter")

    np.testing.assert_allclose(logits(merged), logits(network), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "most"),
    [pytest.param("bert", 512, id="bert"), pytest.param("roberta", 64, id="roberta-counts-from-its-padding-id")],
)
def test_the_longest_window_a_base_reads_is_accepted_and_one_token_more_is_not(
    bases: Callable[[str], Path], name: str, most: int
) -> None:
    base = find_base(bases(name))
    template = Template(max_tokens=most, context_tokens=8)
    network = build_network(base, labels=("a", "b"), template=template)
    engine = TorchEngine(network=network, labels=("a", "b"))

    assert engine.run([Window(message="job " * 600)])[0].truncated
    with pytest.raises(ConfigurationError, match=f"max_tokens is {most + 1}, but the base reads at most {most}"):
        build_network(base, labels=("a", "b"), template=Template(max_tokens=most + 1, context_tokens=8))


@pytest.fixture
def adapter(bases: Callable[[str], Path], tmp_path: Path) -> Path:
    base = find_base(bases("bert-without-pooler"))
    network = build_network(base, labels=("a", "b", "c"), template=TEMPLATE)
    add_lora(network, LoraSettings(rank=2))
    save_adapter(network, tmp_path / "adapter", base=base)
    return tmp_path / "adapter"


Tensors = dict[str, Any]


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if part not in key}


def with_nan(tensors: Tensors) -> Tensors:
    key = next(key for key in tensors if "lora_B" in key)
    return {**tensors, key: tensors[key] * float("nan")}


def renamed(tensors: Tensors) -> Tensors:
    return {key.replace("layer.1", "layer.7"): tensor for key, tensor in tensors.items()}


def narrowed(tensors: Tensors) -> Tensors:
    return {key: tensor[:, :-1].contiguous() if "lora_A" in key else tensor for key, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(without("classifier"), "lacks classifier", id="no-head"),
        pytest.param(without("pooler"), r"lacks bert\.pooler\.dense", id="no-pooler"),
        pytest.param(without("lora_B"), "does not fit the base", id="no-up"),
        pytest.param(without("lora_A"), "does not fit the base", id="no-down"),
        pytest.param(with_nan, "not finite", id="nan"),
        pytest.param(renamed, "does not fit the base", id="layer-that-is-not-there"),
        pytest.param(narrowed, "does not fit the base", id="other-width"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    bases: Callable[[str], Path], adapter: Path, change: Callable[[Tensors], Tensors], said: str
) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    network = build_network(find_base(bases("bert-without-pooler")), labels=("a", "b", "c"), template=TEMPLATE)

    with pytest.raises(BundleCorruptError, match=said):
        merge_adapter(network, adapter)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"use_dora": True}, "uses use_dora", id="dora"),
        pytest.param({"rank_pattern": {"query": 2}}, "uses rank_pattern", id="rank-pattern"),
        pytest.param({"r": 0}, "cannot read the adapter", id="rank-zero"),
        pytest.param({"r": "many"}, "cannot read the adapter", id="rank-text"),
        pytest.param({"lora_alpha": None}, "cannot read the adapter", id="no-alpha"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(
    bases: Callable[[str], Path], adapter: Path, change: dict[str, object], said: str
) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    network = build_network(find_base(bases("bert-without-pooler")), labels=("a", "b", "c"), template=TEMPLATE)

    with pytest.raises(BundleCorruptError, match=said):
        merge_adapter(network, adapter)


def test_an_adapter_that_cannot_be_written_is_a_bundle_error(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = find_base(bases("bert"))
    network = build_network(base, labels=("a", "b"), template=TEMPLATE)
    add_lora(network, LoraSettings(rank=2))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").mkdir()  # in the way, even for root

    with pytest.raises(BundleError, match="was not written"):
        save_adapter(network, tmp_path / "adapter", base=base)


PLAIN = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

base, adapter, labels, inputs = json.loads(sys.stdin.read())
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
model = PeftModel.from_pretrained(model, adapter).eval()
with torch.inference_mode():
    print(json.dumps(model(**{name: torch.tensor(values) for name, values in inputs.items()}).logits.tolist()))
assert not [name for name in sys.modules if name.startswith("pointsman")]
"""

EXTENDED = """
import json, sys, torch
from pathlib import Path
from peft import PeftModel
from pointsman.adapters import Bundle, build_network, find_base

base, folder, labels, inputs = json.loads(sys.stdin.read())
bundle = Bundle.open(Path(folder))
names = [label.name for label in bundle.manifest.labels]
network = build_network(find_base(base), labels=names, template=bundle.manifest.template, glossary=bundle.glossary())
model = PeftModel.from_pretrained(network.model, bundle.adapter).eval()
with torch.inference_mode():
    print(json.dumps(model(**{name: torch.tensor(values) for name, values in inputs.items()}).logits.tolist()))
"""


def in_a_fresh_process(code: str, base: Path, adapter: Path, labels: int, network: Network) -> np.ndarray:
    batch = network.encoder.pad(network.encoder.encode(WINDOWS))
    inputs = {
        "input_ids": batch.ids.tolist(),
        "attention_mask": batch.mask.tolist(),
        "token_type_ids": batch.segments.tolist(),
    }
    given = json.dumps([str(base), str(adapter), labels, inputs])
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_a_fresh_process_with_plain_peft_gives_the_same_logits(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = find_base(bases("bert-without-pooler"))
    network = build_network(base, labels=("a", "b", "c"), template=TEMPLATE)
    add_lora(network, LoraSettings(rank=4, alpha=8))
    train_a_little(network)
    save_adapter(network, tmp_path / "adapter", base=base)

    fresh = in_a_fresh_process(PLAIN, base.path, tmp_path / "adapter", 3, network)
    np.testing.assert_allclose(fresh, logits(network), atol=1e-5)


@pytest.mark.slow
def test_a_bundle_with_a_glossary_loads_in_plain_peft_on_the_extended_base(
    tiny_bundle: Bundle, tiny_base: Path
) -> None:
    engine = TorchEngine.load(tiny_bundle, base=str(tiny_base))

    fresh = in_a_fresh_process(EXTENDED, tiny_base, tiny_bundle.path, 3, engine.network)
    np.testing.assert_allclose(fresh, engine.logits(WINDOWS)[0], atol=1e-5)


def test_two_networks_may_be_built_at_once(bases: Callable[[str], Path]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from transformers.utils import logging

    before = logging.get_verbosity()
    base = find_base(bases("bert"))
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: build_network(base, labels=("a", "b"), template=TEMPLATE), range(8)))

    assert all(network.new_modules == ("classifier",) for network in built)
    assert logging.get_verbosity() == before
