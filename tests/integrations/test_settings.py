from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from pointsman.integrations.settings import SAMPLE_HANDBOOK, Settings, load_settings
from pointsman.router import ConfigurationError


@pytest.fixture(autouse=True)
def nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("BUNDLE", "STORE", "BASE", "DEVICE", "LLM__BASE_URL", "LLM__MODEL", "LLM__API_KEY"):
        monkeypatch.delenv(f"POINTSMAN_{name}", raising=False)


def test_without_any_source_the_defaults_hold() -> None:
    settings = load_settings()

    assert settings == Settings()
    assert settings.store == Path.home() / ".pointsman" / "bundles"
    assert settings.knowledge_base.folder == SAMPLE_HANDBOOK
    assert settings.llm.base_url is None


def test_options_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pointsman.toml").write_text('bundle = "file"\nbase = "file"\ndevice = "file"\n', encoding="utf-8")
    monkeypatch.setenv("POINTSMAN_BASE", "environment")
    monkeypatch.setenv("POINTSMAN_DEVICE", "environment")

    settings = load_settings(device="option", base=None)

    assert (settings.bundle, settings.base, settings.device) == ("file", "environment", "option")


def test_one_nested_value_from_the_environment_leaves_its_neighbours_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "other.toml"
    file.write_text('[llm]\nbase_url = "http://localhost/v1"\nmodel = "small"\ntimeout = 5\n', encoding="utf-8")
    monkeypatch.setenv("POINTSMAN_LLM__MODEL", "large")

    llm = load_settings(file).llm

    assert (llm.base_url, llm.model, llm.timeout) == ("http://localhost/v1", "large", 5)


def test_relative_paths_are_read_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "conf" / "mine").mkdir(parents=True)
    file = tmp_path / "conf" / "pointsman.toml"
    file.write_text(
        'store = "bundles"\nbundle = "20260101-abc"\nbase = "mine"\n[knowledge_base]\nfolder = "pages"\n',
        encoding="utf-8",
    )

    settings = load_settings(file)

    assert settings.store == tmp_path / "conf" / "bundles"
    assert settings.base == str(tmp_path / "conf" / "mine")
    assert settings.bundle == "20260101-abc"  # no such folder: an id
    assert settings.knowledge_base.folder == tmp_path / "conf" / "pages"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param('devise = "cpu"', "unknown key `devise`; did you mean `device`?", id="top level"),
        pytest.param("[llm]\nbaseurl = 1", "unknown key `llm.baseurl`; did you mean `base_url`?", id="nested"),
        pytest.param("[llm\n", "is not TOML", id="not TOML"),
        pytest.param("[llm]\ntimeout = -1", "`llm.timeout`", id="out of range"),
        pytest.param('llm = "gpt"', "`llm`", id="text for a table"),
        pytest.param('[llm]\nmodel = "m"', "`model` is set without `base_url`", id="half an endpoint"),
        pytest.param('[llm]\nbase_url = "u"', "`base_url` is set without `model`", id="other half"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_key(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "pointsman.toml"
    file.write_text(content, encoding="utf-8")

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert message in str(caught.value)
    assert "pointsman.toml" in str(caught.value)


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*gone\.toml: No such file"):
        load_settings(tmp_path / "gone.toml")


def test_a_wrong_variable_is_named_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_LLM__TIMEOUT", "soon")
    with pytest.raises(ConfigurationError, match="POINTSMAN_LLM__TIMEOUT"):
        load_settings()


def test_an_unknown_nested_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_LLM__MODLE", "x")
    with pytest.raises(ConfigurationError, match=r"llm\.modle"):
        load_settings()


def test_the_key_shows_in_no_repr_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_LLM__API_KEY", "sk-very-secret")
    monkeypatch.setenv("POINTSMAN_LLM__BASE_URL", "http://localhost/v1")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "sk-very-secret" not in str(caught.value)
    assert caught.value.__cause__ is None

    monkeypatch.setenv("POINTSMAN_LLM__MODEL", "m")
    settings = load_settings()
    assert settings.llm.api_key == SecretStr("sk-very-secret")
    assert "sk-very-secret" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_settings_made_by_hand_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_DEVICE", "cuda")
    assert Settings().device == "cpu"
    with pytest.raises(ValidationError):
        Settings(devise="cpu")  # type: ignore[call-arg]
