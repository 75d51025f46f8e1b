import json
from pathlib import Path

import pytest

from pointsman.adapters import Bundle, Gatekeeper
from pointsman.router import Router
from pointsman.router.testing import RecordingHandler
from pointsman.training import Recipe, train

RECIPE = """
data = ["messages.jsonl", "tickets.jsonl"]
base = "pointsman/tiny-bert"

[[labels]]
name = "data_platform"
route = "knowledge_base"

[[labels]]
name = "general_chat"
route = "general_llm"

[[labels]]
name = "irrelevant"
route = "refusal"

[[labels]]
name = "ticket"
route = "ticket_desk"
description = "wants a ticket opened"
display = { en = "ticket", zh = "工单" }

[glossary]
words = 0

[template]
max_tokens = 32
context_tokens = 8

[lora]
rank = 8

[fit]
epochs = 25
batch_size = 8
learning_rate = 1e-2
patience = 0

[mixture]
perturb = 0
add_context = 0

[split]
validation = 0
calibration = 0
heldout = 0
"""


@pytest.fixture
def bundle(tiny_base: Path, labelled_file: Path, tmp_path: Path) -> Bundle:
    tickets = ["open a ticket", "a ticket please", "the ticket", "开一个工单", "工单", "open the ticket again"]
    rows = [{"text": text, "label": "ticket"} for text in tickets]
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "messages.jsonl").write_bytes(labelled_file.read_bytes())
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return train(Recipe.read(tmp_path / "recipe.toml"), tmp_path / "bundles", base=str(tiny_base)).bundle


async def test_a_fourth_class_needs_data_and_configuration_alone(bundle: Bundle, tiny_base: Path) -> None:
    routes = ("knowledge_base", "general_llm", "refusal", "ticket_desk")
    handlers = {route: RecordingHandler(route) for route in routes}
    async with Router(classifier=await Gatekeeper.open(bundle, base=str(tiny_base)), handlers=handlers) as router:
        reply = await router.route("open a ticket")
        others = [(await router.route(text)).text for text in ("the sync job failed again", "hello there")]

    assert reply.text == "ticket_desk"
    assert reply.decision.label == "ticket"
    assert list(reply.decision.probabilities) == ["data_platform", "general_chat", "irrelevant", "ticket"]
    assert "ticket_desk" not in others
