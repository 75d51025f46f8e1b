"""What the shipped bundle promises, measured on messages that it was not trained on."""

from collections import defaultdict
from pathlib import Path

import pytest

from pointsman.adapters import Bundle, TorchEngine, shipped_bundle
from pointsman.router import Conversation, Window
from pointsman.training import Evaluation, Example, Recipe, evaluate, read_examples, split_examples
from pointsman.training.robustness import DISTURBANCES, labels_kept

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent
PUBLIC = ROOT.parent / "shared" / "data" / "dev"
LABELS = ("data_platform", "general_chat", "irrelevant")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return shipped_bundle()


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> TorchEngine:
    return TorchEngine.load(bundle)


@pytest.fixture(scope="module")
def heldout() -> tuple[Example, ...]:
    recipe = Recipe.read()
    return split_examples(read_examples(recipe.data_files(), labels=LABELS), **recipe.split.model_dump()).heldout


@pytest.fixture(scope="module")
def on_heldout(bundle: Bundle, engine: TorchEngine, heldout: tuple[Example, ...]) -> Evaluation:
    return evaluate(engine, heldout, policy=bundle.manifest.policy(), bundle=bundle.id)


@pytest.fixture(scope="module")
def on_dev(bundle: Bundle, engine: TorchEngine) -> Evaluation:
    if not PUBLIC.is_dir():
        pytest.skip("the public measuring corpora are not part of the repository and not beside it")
    examples = [e for e in read_examples(sorted(PUBLIC.glob("*.jsonl")), labels=LABELS) if e.turn == 1]
    return evaluate(engine, examples, policy=bundle.manifest.policy(), bundle=bundle.id)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        pytest.param("数据清洗流程是什么？", "data_platform", id="the-seeds-question"),
        pytest.param("When does a broker leave the ISR?", "data_platform", id="feature-of-a-tool"),
        pytest.param("the lake job is red again", "data_platform", id="no-technical-name"),
        pytest.param("来一首青花瓷", "irrelevant", id="a-song"),
        pytest.param("明天8:10叫我", "irrelevant", id="an-alarm"),
        pytest.param("best pizza in town?", "irrelevant", id="pizza"),
        pytest.param("thanks, you're great", "general_chat", id="thanks"),
        pytest.param("你是谁？", "general_chat", id="who-are-you"),
    ],
)
def test_messages_that_everyone_will_try_first(engine: TorchEngine, text: str, label: str) -> None:
    [scores] = engine.run([Window.of(Conversation.of(text))])

    assert scores.label == label


def test_the_same_last_message_gets_the_label_of_its_context(engine: TorchEngine, heldout: tuple[Example, ...]) -> None:
    contrast = [example for example in heldout if example.kind == "contrast"]
    scores = engine.run([example.window for example in contrast])
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for example, item in zip(contrast, scores, strict=True):
        right[example.group].append(item.label == example.label)
    hits = [hit for group in right.values() for hit in group]

    assert len(right) >= 20
    assert sum(hits) / len(hits) >= 0.85


def test_held_out_messages_and_conversations_are_labelled(on_heldout: Evaluation) -> None:
    assert on_heldout.macro_f1 >= 0.91
    assert on_heldout.ece <= 0.03
    assert on_heldout.routed.refused_irrelevant_rate >= 0.75


def test_real_questions_are_refused_less_often_than_promised(on_heldout: Evaluation, bundle: Bundle) -> None:
    threshold = bundle.manifest.thresholds["irrelevant"]

    assert threshold.certified
    assert threshold.upper_bound <= threshold.budget
    assert on_heldout.routed.false_refusal_rate <= 0.01


def test_public_messages_are_labelled(on_dev: Evaluation) -> None:
    languages = on_dev.slices["language"]

    assert on_dev.macro_f1 >= 0.93
    assert on_dev.ece <= 0.03
    assert min(part.accuracy for part in on_dev.slices["source"].values()) >= 0.80
    assert abs(languages["en"].macro_f1 - languages["zh"].macro_f1) <= 0.06  # 0.03 is wanted; see docs/experiments.md
    assert on_dev.routed.false_refusal_rate <= 0.01
    assert on_dev.routed.refused_irrelevant_rate >= 0.75


def test_labels_survive_other_hands_and_keyboards(engine: TorchEngine, heldout: tuple[Example, ...]) -> None:
    sample = [example for example in heldout if example.turn == 1][::10]
    kept = labels_kept(engine, sample)

    assert set(kept) == {disturbance.name for disturbance in DISTURBANCES}
    assert sum(share * n for share, n in kept.values()) / sum(n for _, n in kept.values()) >= 0.95
    assert {name: share for name, (share, _) in kept.items() if share < 0.85} == {}
