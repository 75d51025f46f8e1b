import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from pointsman.adapters import Bundle

from .conftest import Pointsman


def findings(out: str) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in json.loads(out)["findings"]}


def test_doctor_finds_everything_that_classify_needs(pointsman: Pointsman, tiny_bundle: Bundle) -> None:
    ran = pointsman("doctor", "--json")

    found = findings(ran.out)
    assert ran.code == 0
    assert json.loads(ran.out)["ok"] is True
    assert tiny_bundle.id in found["bundle"]["found"]
    assert found["base weights"]["ok"]
    assert found["knowledge base"]["ok"]
    assert found["general LLM"] == {
        "name": "general LLM",
        "ok": False,
        "found": "none; small talk says so",
        "mend": "set POINTSMAN_LLM__BASE_URL and POINTSMAN_LLM__MODEL",
        "required": False,
    }


def test_doctor_shows_a_table_for_people(pointsman: Pointsman) -> None:
    ran = pointsman("doctor")
    assert ran.code == 0
    assert all(word in ran.out for word in ("python", "torch", "base weights", "to mend it", "CUDA"))


def test_doctor_never_shows_the_key(pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BASE_URL": "http://localhost/v1", "MODEL": "small", "API_KEY": "sk-very-secret"}.items():
        monkeypatch.setenv(f"POINTSMAN_LLM__{name}", value)
    ran = pointsman("doctor", "--json")
    assert findings(ran.out)["general LLM"]["found"] == "small at http://localhost/v1, with a key (not called)"
    assert "sk-very-secret" not in ran.out + ran.err


def test_a_missing_package_comes_with_the_command_that_installs_it(
    pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def without_some(name: str) -> str:
        if name in {"transformers", "scipy"}:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", without_some)
    ran = pointsman("doctor", "--json")

    assert ran.code == 1
    assert findings(ran.out)["transformers"]["mend"] == "pip install 'pointsman[train]'"
    assert ran.err == "pointsman: classify will not work without transformers\n"  # scipy is not needed for it


@pytest.mark.parametrize(
    ("variable", "name"),
    [("POINTSMAN_BUNDLE", "bundle"), ("POINTSMAN_BASE", "base weights")],
)
def test_a_missing_bundle_or_base_fails(
    pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch, variable: str, name: str, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "gone"))
    ran = pointsman("doctor", "--json")
    assert ran.code == 1
    assert not findings(ran.out)[name]["ok"]
    assert findings(ran.out)[name]["mend"]
    assert name in ran.err


def test_a_wrong_knowledge_base_does_not_hinder_classify(
    pointsman: Pointsman, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POINTSMAN_KNOWLEDGE_BASE__FOLDER", str(tmp_path / "gone"))
    ran = pointsman("doctor", "--json")
    assert ran.code == 0
    assert not findings(ran.out)["knowledge base"]["ok"]
