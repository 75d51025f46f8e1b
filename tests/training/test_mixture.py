from collections import Counter, defaultdict
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.router import ConfigurationError, Window
from pointsman.training import Example, MixtureSettings
from pointsman.training.mixture import epoch_examples, example_weights

PLAIN = MixtureSettings(drop_context=0, add_context=0, perturb=0)
NAMES = st.tuples(st.sampled_from(["data_platform", "general_chat", "irrelevant"]), st.sampled_from(["en", "zh", "de"]))


def example(message: str, **fields: str) -> Example:
    window = Window(message=message, previous_user=fields.pop("before", ""), previous_reply=fields.pop("reply", ""))
    values = {"label": "irrelevant", "language": "en", "source": "some", "group": message} | fields
    return Example(window=window, **values)


@settings(deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=60))
def test_every_label_has_the_same_say_and_within_it_every_language(cells: list[tuple[str, str]]) -> None:
    weights = example_weights([example("x", label=label, language=language) for label, language in cells])

    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (label, language), weight in zip(cells, weights, strict=True):
        totals[label][language] += weight
    labels = {label for label, _ in cells}
    assert sum(weights) == pytest.approx(len(cells))
    for languages in totals.values():
        assert sum(languages.values()) == pytest.approx(len(cells) / len(labels))
        assert max(languages.values()) == pytest.approx(min(languages.values()))


def test_a_large_source_is_capped_by_label_and_a_small_one_is_taken_whole() -> None:
    large = [
        example(f"m{n}", source="large", label=label) for label in ("irrelevant", "general_chat") for n in range(9)
    ]
    small = [example(f"s{n}", source="small") for n in range(4)]

    epoch = epoch_examples([*large, *small], MixtureSettings(cap=5), seed=0)

    counts = Counter((e.source, e.label) for e in epoch)
    assert counts == {("large", "irrelevant"): 5, ("large", "general_chat"): 5, ("small", "irrelevant"): 4}


def test_each_epoch_draws_another_sample_and_the_same_seed_the_same_one() -> None:
    examples = [example(f"message {n}", before="hi", kind="switch_to_data") for n in range(50)]
    drawn = MixtureSettings(cap=20)

    assert epoch_examples(examples, drawn, seed=1) == epoch_examples(examples, drawn, seed=1)
    first, second = ({e.group for e in epoch_examples(examples, drawn, seed=seed)} for seed in (1, 2))
    assert first != second


def test_with_all_chances_at_zero_an_epoch_is_the_examples_in_another_order() -> None:
    examples = [example(f"message {n}", before="hi", reply="Hello!") for n in range(30)]

    epoch = epoch_examples(examples, PLAIN, seed=0)

    assert epoch != examples
    assert sorted(epoch, key=lambda e: e.group) == sorted(examples, key=lambda e: e.group)


def test_only_self_contained_messages_lose_their_context() -> None:
    kinds = ("switch_to_data", "thanks_or_talk", "followup_data", "contrast", "")
    examples = [example(f"{kind} {n}", before="hi", kind=kind) for kind, n in product(kinds, range(10))]

    epoch = epoch_examples(examples, MixtureSettings(drop_context=1, add_context=0, perturb=0), seed=0)

    lost = {e.kind for e in epoch if not e.window.previous_user}
    kept = {e.kind for e in epoch if e.window.previous_user}
    assert lost == {"switch_to_data", "thanks_or_talk"}
    assert kept == {"followup_data", "contrast", ""}


def test_messages_with_a_topic_are_read_after_an_unrelated_turn_and_talk_is_not() -> None:
    examples = [example(f"topic {n}") for n in range(10)]
    examples += [example(f"talk {n}", label="general_chat") for n in range(10)]
    examples += [example("and then?", before="why is it red", reply="The sensor failed.", kind="followup_data")]

    epoch = epoch_examples(examples, MixtureSettings(add_context=1, drop_context=0, perturb=0), seed=0)

    for e in epoch:
        if e.label == "general_chat":
            assert e.window.previous_user == ""
        else:
            assert (e.window.previous_user, e.window.previous_reply) == ("why is it red", "The sensor failed.")


def test_noise_changes_the_message_but_neither_its_label_nor_its_group() -> None:
    examples = [example(f"how do I roast {n} ducks at home?") for n in range(40)]

    epoch = epoch_examples(examples, MixtureSettings(perturb=1, add_context=0), seed=0)

    by_group = {e.group: e for e in examples}
    changed = [e for e in epoch if e.window.message != by_group[e.group].window.message]
    assert len(changed) > 20
    assert {(e.label, e.source) for e in epoch} == {("irrelevant", "some")}


def test_a_message_after_a_bot_that_spoke_first_keeps_that_context() -> None:
    opened = example("and at weekends?", reply="Good morning! On workdays the tables are ready at 7:30.")
    others = [example(f"message {n}", before="hi", reply="Hello!") for n in range(9)]

    epoch = epoch_examples([opened, *others], MixtureSettings(add_context=1, drop_context=0, perturb=0), seed=0)

    assert opened in epoch


@pytest.mark.parametrize(
    ("name", "value"),
    [("cap", 0), ("drop_context", -0.1), ("add_context", 1.1), ("perturb", 2)],
)
def test_a_setting_out_of_range_is_named_with_its_value(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"`{name}` must .* got {value}"):
        MixtureSettings(**{name: value})
