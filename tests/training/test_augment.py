import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.router import normalise
from pointsman.training.augment import perturb

MESSAGES = st.text(min_size=1, max_size=120).map(normalise).filter(bool)
SEEDS = st.integers(min_value=0, max_value=2**32)


@settings(deadline=None)
@given(MESSAGES, SEEDS)
def test_noise_leaves_a_message_in_its_normal_form_and_never_empty(message: str, seed: int) -> None:
    noisy = perturb(message, random.Random(seed))

    assert noisy
    assert normalise(noisy) == noisy


@settings(deadline=None)
@given(MESSAGES, SEEDS)
def test_the_same_seed_makes_the_same_noise(message: str, seed: int) -> None:
    assert perturb(message, random.Random(seed)) == perturb(message, random.Random(seed))


@settings(deadline=None)
@given(st.sampled_from(["why is the load late", "数据表为什么没有数据", "ok", "订一家海边的酒店"]), SEEDS)
def test_the_words_of_a_message_are_still_there(message: str, seed: int) -> None:
    noisy = perturb(message, random.Random(seed)).lower()

    # up to two typos, each of which takes a letter or adds one
    assert sum(noisy.count(character) > 0 for character in set(message)) >= len(set(message)) - 2
    assert len(message) - 2 <= len(noisy) <= 1000


@settings(deadline=None)
@given(st.text(alphabet="abcdef ", min_size=1, max_size=11).map(normalise).filter(bool), SEEDS)
def test_a_short_message_gets_no_typos(message: str, seed: int) -> None:
    assert message in perturb(message, random.Random(seed)).lower()


def test_every_kind_of_noise_occurs() -> None:
    rng = random.Random(0)
    message = "How do I schedule the sync job, please?"
    noisy = {perturb(message, rng) for _ in range(300)}

    assert any(text.isupper() for text in noisy)
    assert any(text.startswith(("hi, ", "Hi there, ")) for text in noisy)
    assert any(text.endswith(("🙏", "thanks")) for text in noisy)
    assert any(text == "How do I schedule the sync job, please" for text in noisy)
    assert any(message in text and "KeyError" in text for text in noisy)
    assert any(text.startswith(f"{message} {message}") for text in noisy)
    assert len(noisy) > 60
