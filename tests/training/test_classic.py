"""The program that Pointsman grew from: its snippets as they were written, but for the import line."""

import logging
from pathlib import Path

import pytest

from pointsman.adapters import Bundle, LoRAQuestionClassifier, TorchEngine
from pointsman.router import (
    DEFAULT_LABELS,
    BundleCorruptError,
    BundleError,
    BundleNotFoundError,
    ConfigurationError,
    DataError,
    GatekeeperOutOfMemory,
    InputError,
    Label,
)
from pointsman.training import LoRAQuestionClassifierTrainer, read_examples

DATA = (
    ["数据清洗流程是什么？", "the sync job failed", "数据表为什么没有数据", "rerun the data job"] * 3,
    ["你好", "hello there", "谢谢你", "who are you"] * 3,
    ["今天天气怎么样", "play a song", "足球比赛谁赢了", "book a hotel"] * 3,
)


class SmallTrainer(LoRAQuestionClassifierTrainer):
    def prepare_training_data(self) -> tuple[list[str], list[int]]:
        texts = [text for group in DATA for text in group]
        return texts, [number for number, group in enumerate(DATA) for _ in group]


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallTrainer:
    trainer = SmallTrainer(
        model_path=str(tiny_base),
        save_dir=str(tmp_path_factory.mktemp("lora_models")),
        lora_rank=16,
        lora_alpha=32,
        lora_dropout=0.1,
    )
    trainer.train(epochs=5, batch_size=8, learning_rate=1e-2)
    trainer.save_lora_weights("final_model")
    return trainer


def test_the_seeds_snippets_run_as_written(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LoRAQuestionClassifierTrainer, "prepare_training_data", SmallTrainer.prepare_training_data)
    (tmp_path / "bert-base-chinese").symlink_to(tiny_base)

    trainer = LoRAQuestionClassifierTrainer(
        model_path="./bert-base-chinese", save_dir="./lora_models", lora_rank=16, lora_alpha=32, lora_dropout=0.1
    )
    trainer.train(epochs=5, batch_size=8, learning_rate=1e-4)
    trainer.save_lora_weights("final_model")

    classifier = LoRAQuestionClassifier(base_model_path="./bert-base-chinese", lora_path="./lora_models/final_model")
    result = classifier.classify_question("数据清洗流程是什么？")
    print(f"分类: {result['category']}")  # noqa: T201
    print(f"置信度: {result['confidence']:.2f}")  # noqa: T201

    assert result["category"] in {"数据平台相关", "通用对话", "无关问题"}
    assert "置信度: 0." in capsys.readouterr().out


def test_a_classification_says_all_of_it(trained: SmallTrainer, tiny_base: Path) -> None:
    classifier = LoRAQuestionClassifier(base_model_path=tiny_base, lora_path=trained.save_dir / "final_model")
    result = classifier.classify_question("the sync job failed")

    assert sorted(result) == ["category", "confidence", "label", "label_id", "probabilities"]
    assert result["label"] == [label.name for label in DEFAULT_LABELS][result["label_id"]]
    assert result["category"] == DEFAULT_LABELS[result["label_id"]].display["zh"]
    assert result["confidence"] == result["probabilities"][result["label"]] == max(result["probabilities"].values())
    assert sum(result["probabilities"].values()) == pytest.approx(1)


def test_a_batch_gives_the_answers_of_single_calls_in_order(trained: SmallTrainer, tiny_base: Path) -> None:
    classifier = LoRAQuestionClassifier(base_model_path=tiny_base, lora_path=trained.save_dir / "final_model")
    questions = ["你好", "the sync job failed", "play a song by the sea"]

    for one, other in zip(
        classifier.classify_batch(questions), map(classifier.classify_question, questions), strict=True
    ):
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert classifier.classify_batch([]) == []


def test_a_conversation_is_classified_by_its_latest_message(trained: SmallTrainer, tiny_base: Path) -> None:
    classifier = LoRAQuestionClassifier(tiny_base, trained.save_dir / "final_model", language="en")
    turns = [{"role": "user", "content": "the job failed"}, {"role": "assistant", "content": "again?"}]

    assert classifier.classify_question([*turns, {"role": "user", "content": "hello"}])["category"] in {
        "data platform",
        "general chat",
        "irrelevant",
    }
    with pytest.raises(InputError):
        classifier.classify_question(7)  # type: ignore[arg-type]


def test_what_is_saved_is_a_complete_bundle_that_answers_as_the_trained_one(
    trained: SmallTrainer, tiny_base: Path
) -> None:
    bundle = Bundle.open(trained.save_dir / "final_model")

    lora = bundle.manifest.training["recipe"]["lora"]  # type: ignore[index, call-overload]
    assert (lora["rank"], lora["alpha"], lora["dropout"]) == (16, 32, 0.1)  # type: ignore[index, call-overload]
    assert [label.name for label in bundle.manifest.labels] == [label.name for label in DEFAULT_LABELS]
    assert bundle.manifest.base.hub_id == tiny_base.name
    for name in ("manifest.json", "README.md", "adapter/adapter_config.json"):
        assert str(tiny_base.parent) not in (bundle.path / name).read_text(encoding="utf-8")
    TorchEngine.load(bundle, base=str(tiny_base))


def test_saving_again_replaces_the_earlier_bundle_but_nothing_else(trained: SmallTrainer) -> None:
    trained.save_lora_weights("again")
    (trained.save_dir / "again" / "README.md").write_text("damaged")
    again = trained.save_lora_weights("again")
    assert Bundle.open(trained.save_dir / "again") == again

    (trained.save_dir / "mine").mkdir()
    with pytest.raises(BundleError, match="exists already"):
        trained.save_lora_weights("mine")
    assert sorted(path.name for path in trained.save_dir.iterdir()) == ["again", "final_model", "mine"]


def test_a_labelled_file_is_evaluated_and_its_mistakes_are_logged(
    trained: SmallTrainer, labelled_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pointsman.training"):
        found = trained.test(labelled_file)

    assert found.n == len(read_examples([labelled_file], labels=[label.name for label in DEFAULT_LABELS]))
    assert found.accuracy == pytest.approx(trained.evaluate(str(labelled_file)).accuracy)
    assert f"{found.n} messages: accuracy {found.accuracy:.3f}" in caplog.text
    assert caplog.text.count("mistake:") == min(10, len(found.mistakes))


def test_progress_is_logged_steps_at_debug(tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "pointsman.training"):
        result = SmallTrainer(model_path=tiny_base, save_dir=tmp_path).train(epochs=1, batch_size=32)

    assert result.steps == 2
    assert "epoch 1, step 1 of 2: loss" in caplog.text
    assert "training on 36 messages" in caplog.text
    assert "24 of 36 examples repeat another one" in caplog.text
    assert f"trained {result.trainable} of {result.total} parameters" in caplog.text


def test_a_class_is_added_by_naming_it(tiny_base: Path, tmp_path: Path) -> None:
    class WithTickets(SmallTrainer):
        def prepare_training_data(self) -> tuple[list[str], list[int]]:
            texts, numbers = super().prepare_training_data()
            return [*texts, *["open a ticket", "提一个工单"] * 6], [*numbers, *[3] * 12]

    ticket = Label(name="ticket", route="ticket_desk", display={"zh": "工单"})
    trainer = WithTickets(model_path=tiny_base, save_dir=tmp_path, labels=(*DEFAULT_LABELS, ticket))
    trainer.train(epochs=1, learning_rate=1e-2)
    bundle = trainer.save_lora_weights()

    assert bundle.path == tmp_path / "final_model"
    result = LoRAQuestionClassifier(tiny_base, bundle.path).classify_question("open a ticket")
    assert list(result["probabilities"]) == ["data_platform", "general_chat", "irrelevant", "ticket"]


def test_the_default_data_are_the_authored_single_messages() -> None:
    texts, numbers = LoRAQuestionClassifierTrainer().prepare_training_data()

    assert len(texts) == len(numbers) > 500
    assert set(numbers) == {0, 1, 2}
    assert all(texts)


@pytest.mark.parametrize(
    ("texts", "numbers", "said"),
    [
        pytest.param(["a", "b"], [0], "2 texts and 1 labels", id="lengths"),
        pytest.param(
            ["a", "b"], [0, 3], r"'b' is 3; there are 3 labels, so it must lie in 0\.\.2", id="label-too-high"
        ),
        pytest.param(["a", "b"], [0, -1], "'b' is -1", id="label-negative"),
        pytest.param(["a", "b"], [0, 1], "no examples of irrelevant", id="label-without-examples"),
    ],
)
def test_training_data_that_make_no_sense_are_refused(
    tiny_base: Path, tmp_path: Path, texts: list[str], numbers: list[int], said: str
) -> None:
    class Wrong(LoRAQuestionClassifierTrainer):
        def prepare_training_data(self) -> tuple[list[str], list[int]]:
            return texts, numbers

    with pytest.raises(ConfigurationError, match=said):
        Wrong(model_path=tiny_base, save_dir=tmp_path).train(epochs=1)


def test_an_empty_text_is_refused_with_its_line(tiny_base: Path, tmp_path: Path) -> None:
    class Wrong(LoRAQuestionClassifierTrainer):
        def prepare_training_data(self) -> tuple[list[str], list[int]]:
            return ["a", " "], [0, 1]

    with pytest.raises(DataError, match=r"training_data\.jsonl:2: the message is empty"):
        Wrong(model_path=tiny_base, save_dir=tmp_path).train(epochs=1)


def test_out_of_memory_says_what_to_lower(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("pointsman.adapters.network.Network.logits", fail)
    with pytest.raises(GatekeeperOutOfMemory, match=r"train\(batch_size=4\).*PYTORCH_CUDA_ALLOC_CONF"):
        SmallTrainer(model_path=tiny_base, save_dir=tmp_path).train(epochs=1, batch_size=8)


def test_nothing_is_saved_or_tested_before_training(tiny_base: Path, tmp_path: Path, labelled_file: Path) -> None:
    trainer = SmallTrainer(model_path=tiny_base, save_dir=tmp_path)

    with pytest.raises(ConfigurationError, match=r"call train\(\) first"):
        trainer.save_lora_weights("final_model")
    with pytest.raises(ConfigurationError, match=r"call train\(\) first"):
        trainer.evaluate(labelled_file)


@pytest.mark.parametrize("settings", [{"lora_rank": 0}, {"lora_alpha": -1}, {"lora_dropout": 1.0}])
def test_settings_out_of_range_are_refused_at_once(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="LoRA"):
        LoRAQuestionClassifierTrainer(**settings)  # type: ignore[arg-type]


def test_a_wrong_bundle_folder_is_refused(trained: SmallTrainer, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError):
        LoRAQuestionClassifier(base_model_path=tiny_base, lora_path=tmp_path / "none")
    damaged = trained.save_lora_weights("damaged")
    (damaged.path / "README.md").write_text("changed")
    with pytest.raises(BundleCorruptError, match=r"README\.md"):
        LoRAQuestionClassifier(base_model_path=tiny_base, lora_path=damaged.path)
