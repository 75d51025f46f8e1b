import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from pointsman.adapters import Manifest, Template
from pointsman.adapters.manifest import BaseReference, DataFingerprint, FileEntry, LabelEntry, ThresholdEntry
from pointsman.router import DEFAULT_LABELS

THRESHOLD = ThresholdEntry(
    value=0.9, budget=0.01, error="false_refusal", certified=True, upper_bound=0.008, confidence=0.95, n=400, errors=0
)


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "created": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        "labels": tuple(LabelEntry.of(label) for label in DEFAULT_LABELS),
        "base": BaseReference(hub_id="a/b", sha256="0" * 64, model_type="bert"),
        "thresholds": {"irrelevant": THRESHOLD},
        "metrics": {"macro_f1": 0.94, "per_label": {"irrelevant": {"n": 3}}},
        "data": DataFingerprint(sha256="1" * 64, examples=3),
        "files": {"README.md": FileEntry(sha256="2" * 64, size=10)},
    }
    return Manifest(**(values | changes))


def test_its_bytes_are_canonical_and_survive_reading() -> None:
    sealed = manifest().sealed()
    content = sealed.to_bytes()

    assert Manifest.model_validate_json(content).to_bytes() == content
    assert content == manifest(metrics={"per_label": {"irrelevant": {"n": 3}}, "macro_f1": 0.94}).sealed().to_bytes()
    assert list(json.loads(content)) == sorted(json.loads(content))
    assert "数据平台相关" in content.decode()  # readable, not escaped
    assert content.endswith(b"}\n")


def test_the_id_is_the_day_and_a_hash_of_everything_else() -> None:
    sealed = manifest().sealed()

    assert sealed.id.startswith("20260304-")
    assert len(sealed.id) == len("20260304-") + 12
    assert sealed.is_sealed()
    assert sealed.sealed() == sealed
    assert not manifest().is_sealed()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"temperature": 1.0000001}, id="temperature"),
        pytest.param({"parent": "20260101-000000000000"}, id="parent"),
        pytest.param({"template": Template(max_tokens=161)}, id="template"),
        pytest.param({"unsure_route": "general_llm"}, id="unsure-route"),
        pytest.param({"files": {}}, id="files"),
        pytest.param({"created": datetime(2026, 3, 4, 5, 6, 8, tzinfo=UTC)}, id="created"),
    ],
)
def test_any_change_changes_the_id(change: dict[str, Any]) -> None:
    assert manifest(**change).sealed().id != manifest().sealed().id


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"labels": (LabelEntry(name="a", route="b"),)}, id="one-label"),
        pytest.param({"labels": (LabelEntry(name="a", route="b"),) * 2}, id="label-twice"),
        pytest.param({"thresholds": {"weather": THRESHOLD}}, id="threshold-of-unknown-label"),
        pytest.param({"temperature": 0.0}, id="temperature-zero"),
        pytest.param({"temperature": math.inf}, id="temperature-infinite"),
        pytest.param({"temperature": math.nan}, id="temperature-nan"),
        pytest.param({"schema_version": 2}, id="newer-schema"),
        pytest.param({"surprise": 1}, id="unknown-field"),
        pytest.param({"base": {"hub_id": "a/b", "sha256": "xyz", "model_type": "bert"}}, id="no-hash"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        manifest(**change)


@pytest.mark.parametrize("sizes", [{"max_tokens": 7}, {"max_tokens": 32, "context_tokens": 25}, {"context_tokens": -1}])
def test_a_template_leaves_room_for_a_message(sizes: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Template(**sizes)


def test_the_policy_has_the_labels_thresholds_and_unsure_route() -> None:
    policy = manifest().policy()

    assert policy.labels == DEFAULT_LABELS
    assert policy.thresholds == {"irrelevant": 0.9}
    assert policy.unsure_route == "knowledge_base"
