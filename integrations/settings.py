"""What an installation is set to. Options win over `POINTSMAN_*` variables, these over `pointsman.toml`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from pointsman.router import ConfigurationError

__all__ = ["CONFIG_FILE", "SAMPLE_HANDBOOK", "KnowledgeBaseSettings", "LLMSettings", "Settings", "load_settings"]

CONFIG_FILE = Path("pointsman.toml")
"""Read from the working directory when no other file is named."""
SAMPLE_HANDBOOK = Path(__file__).parent / "sample" / "handbook"

_PREFIX = "POINTSMAN_"
_DELIMITER = "__"
_Folder = Annotated[Path, AfterValidator(Path.expanduser)]
_PATHS = (("store",), ("base",), ("bundle",), ("knowledge_base", "folder"))


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class LLMSettings(_Strict):
    """The OpenAI-compatible endpoint that takes general chat; without a `base_url` there is none."""

    base_url: str | None = None
    """Up to and including the version: `http://localhost:11434/v1`."""
    model: str | None = None
    api_key: SecretStr | None = None
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds without a byte from the endpoint after which it is given up."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.base_url is None) != (self.model is None):
            given, absent = ("base_url", "model") if self.model is None else ("model", "base_url")
            raise ValueError(f"`{given}` is set without `{absent}`; an endpoint needs both")
        return self


class KnowledgeBaseSettings(_Strict):
    """The pages that data-platform questions are answered from."""

    folder: _Folder = SAMPLE_HANDBOOK
    """Markdown, text and HTML files; by default the sample handbook of a company that does not exist."""


class Settings(_Strict):
    """Which gatekeeper is loaded, from where, and what answers. Reads nothing by itself: see `load_settings`."""

    bundle: str | None = None
    """Folder or id of a bundle; by default the store's current one, else the shipped one."""
    store: _Folder = Path("~/.pointsman/bundles").expanduser()
    base: str | None = None
    """Folder with the base model's weights, where they are not found by themselves."""
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:N`."""
    llm: LLMSettings = LLMSettings()
    knowledge_base: KnowledgeBaseSettings = KnowledgeBaseSettings()


class _FromEverywhere(BaseSettings, Settings):
    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, env_ignore_empty=True, extra="forbid"
    )


def load_settings(config: Path | None = None, **options: Any) -> Settings:
    """Return the settings from options, environment variables and a TOML file, in this order of strength.

    Args:
        config: the file; by default `pointsman.toml` in the working directory, where there is one.
        options: fields of `Settings`; None leaves a field to the environment and the file.

    Raises:
        ConfigurationError: the file is missing or not TOML, or a key is unknown or out of range; the message names it.
    """
    if config is None and CONFIG_FILE.is_file():
        config = CONFIG_FILE
    values = _read_file(config) if config else {}

    class WithFile(_FromEverywhere):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=values)

    try:
        found = WithFile(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError(
            _sentence(error, config)
        ) from None  # the cause would show what was typed, keys included
    except ValueError as error:  # a nested variable that is not JSON
        raise ConfigurationError(f"a {_PREFIX}* variable cannot be read: {error}") from None
    return Settings.model_construct(**{name: getattr(found, name) for name in Settings.model_fields})


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    for key, known in _unknown_keys(values, Settings):
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0.0)
        raise ConfigurationError(f"{path}: unknown key `{key}`; did you mean `{near[0]}`? Known are {', '.join(known)}")
    for *parents, name in _PATHS:
        _resolve(values, parents, name, path.parent)
    return values


def _unknown_keys(values: Mapping[str, Any], model: type[BaseModel], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield each key that `model` does not have, with those it has."""
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            yield f"{path}{key}", list(model.model_fields)
        elif isinstance(value, Mapping) and isinstance(field.annotation, type):
            yield from _unknown_keys(value, field.annotation, f"{path}{key}.")


def _resolve(values: dict[str, Any], parents: list[str], name: str, folder: Path) -> None:
    """Read a relative path from the folder of the file that names it; an id or hub id stays as it is."""
    for parent in parents:
        inner = values.get(parent)
        if not isinstance(inner, dict):
            return
        values = inner
    value = values.get(name)
    if isinstance(value, str) and (name in {"store", "folder"} or (folder / value).is_dir()):
        values[name] = str(folder / Path(value).expanduser())


def _sentence(error: ValidationError, config: Path | None) -> str:
    problems = []
    for item in error.errors(include_input=False, include_url=False):
        places = [str(part) for part in item["loc"]]
        key, variable = ".".join(places), _PREFIX + _DELIMITER.join(places).upper()
        problems.append(f"`{key}` ({variable}): {item['msg'].removeprefix('Value error, ')}")
    files = f", {config}" if config else ""
    return f"the settings are wrong (options, environment{files}): {'; '.join(problems)}"
