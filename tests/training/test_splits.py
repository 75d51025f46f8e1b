import random
from dataclasses import replace

import pytest

from pointsman.router import ConfigurationError, Window
from pointsman.training import Example, Split, split_examples
from pointsman.training.splits import near_duplicates_across

SIDES = ("train", "validation", "calibration", "heldout")


def example(message: str, group: str, **fields: str) -> Example:
    window = Window(message=message, previous_user=fields.get("previous_user", ""))
    return Example(window=window, label="data_platform", language="en", source="some", group=group)


def many(n: int) -> list[Example]:
    return [example(f"message {number}", f"group {number}") for number in range(n)]


def side_of(split: Split) -> dict[str, str]:
    return {e.window.message: side for side in SIDES for e in getattr(split, side)}


def test_shares_are_kept_and_nothing_is_lost_or_doubled() -> None:
    examples = many(4000)

    split = split_examples(examples, validation=0.1, calibration=0.2, heldout=0.3, seed=5)

    assert sum(len(getattr(split, side)) for side in SIDES) == len(side_of(split)) == 4000
    shares = [len(getattr(split, side)) / 4000 for side in SIDES]
    assert shares == pytest.approx([0.4, 0.1, 0.2, 0.3], abs=0.03)


def test_a_group_is_never_on_two_sides() -> None:
    examples = [replace(e, group=f"group {number % 40}") for number, e in enumerate(many(400))]

    split = split_examples(examples, validation=0.2, calibration=0.2, heldout=0.2)

    groups = [{e.group for e in getattr(split, side)} for side in SIDES]
    assert all(groups)
    assert sum(map(len, groups)) == 40


def test_what_was_held_out_once_stays_held_out_when_data_come_and_go() -> None:
    examples = many(300)
    before = side_of(split_examples(examples))
    grown = [*many(900)[300:], *random.Random(1).sample(examples, 200)]

    after = side_of(split_examples(grown))

    assert {message: side for message, side in after.items() if message in before} == {
        message: side for message, side in before.items() if message in after
    }


def test_another_seed_gives_another_split() -> None:
    assert side_of(split_examples(many(300))) != side_of(split_examples(many(300), seed=1))


def test_a_side_without_a_share_stays_empty() -> None:
    split = split_examples(many(100), validation=0, calibration=0, heldout=0)

    assert len(split.train) == 100
    assert split.heldout == ()


@pytest.mark.parametrize("shares", [{"heldout": 0.6, "calibration": 0.4}, {"validation": -0.1}])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="shares must not be negative"):
        split_examples(many(10), **shares)


def test_near_duplicates_of_training_messages_are_counted_by_side() -> None:
    split = Split(
        train=(example("how do I schedule the sync job", "a"), example("hello there", "b")),
        validation=(example("how do i schedule the sync jobs?", "c"),),
        calibration=(example("where is the lineage of this table", "d"),),
        heldout=(
            example("where is the lineage of that table", "e"),
            example("how do I schedule a sync job", "f", previous_user="hi"),
        ),
    )

    pairs = (
        ("how do I schedule the sync job", "how do i schedule the sync jobs?"),
        ("where is the lineage of this table", "where is the lineage of that table"),
        ("how do I schedule the sync job", "how do I schedule a sync job"),
    )

    assert near_duplicates_across(split, pairs) == {"validation": 1, "calibration": 0, "heldout": 0}
