"""A recipe: everything that decides what a training run makes, in one TOML file that the bundle's manifest keeps."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pointsman.adapters import DEFAULT_BASE, Glossary, LoraSettings
from pointsman.adapters.manifest import LabelEntry, Template
from pointsman.router import DEFAULT_LABELS, ConfigurationError
from pointsman.training.cedict import chinese_glossary, with_traditional
from pointsman.training.fit import FitSettings
from pointsman.training.mixture import MixtureSettings

__all__ = ["SHIPPED_RECIPE", "BudgetSettings", "GlossarySettings", "Recipe", "SplitSettings"]

SHIPPED_RECIPE = Path(__file__).parent / "recipe.toml"

_OUT = "-"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GlossarySettings(_Strict):
    """The words that are added to the base's vocabulary."""

    words: Annotated[int, Field(ge=0)] = 25_000
    """Most frequent words of CC-CEDICT; 0 takes none."""
    files: tuple[Path, ...] = ()
    """Your own `word <tab> gloss` files; they win over the dictionary, and a later one over an earlier one. The gloss
    `-` takes a word out: one that text contains mostly by accident, across two other words."""

    def read(self) -> Glossary | None:
        """Return all words with their glosses, yours in traditional spelling too; None where there are none.

        Raises:
            DataError: a file cannot be read, or a line of it is no `word <tab> gloss`.
        """
        own = Glossary({})
        for path in self.files:
            own = own.merged(Glossary.read(path))
        glossary = chinese_glossary(self.words).merged(with_traditional(own)) if self.words else own
        wanted = {word: gloss for word, gloss in glossary.entries.items() if gloss != _OUT}
        return Glossary(wanted) if wanted else None


class SplitSettings(_Strict):
    """Shares of the groups that are kept from training."""

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.04
    calibration: Annotated[float, Field(ge=0, lt=1)] = 0.12
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.10
    seed: int = 0


class BudgetSettings(_Strict):
    """How often a message of the unsure route's label may be lost, and how sure that must be."""

    false_refusal: Annotated[float, Field(gt=0, lt=1)] = 0.015
    lost_data: Annotated[float, Field(gt=0, lt=1)] = 0.02
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class Recipe(_Strict):
    """A training run. Relative paths are read from the folder of the recipe's file."""

    data: tuple[Path, ...] = ()
    """Files, or folders whose JSONL and CSV files are taken in order of name."""
    base: str = DEFAULT_BASE
    revision: str | None = None
    labels: tuple[LabelEntry, ...] = tuple(LabelEntry.of(label) for label in DEFAULT_LABELS)
    unsure_route: str = "knowledge_base"
    glossary: GlossarySettings = GlossarySettings()
    template: Template = Template()
    lora: LoraSettings = LoraSettings()
    fit: FitSettings = FitSettings()
    mixture: MixtureSettings = MixtureSettings()
    split: SplitSettings = SplitSettings()
    budgets: BudgetSettings = BudgetSettings()

    @classmethod
    def read(cls, path: Path = SHIPPED_RECIPE) -> Recipe:
        """Return the recipe in a TOML file.

        Raises:
            ConfigurationError: the file is missing or not TOML, or a setting is unknown or out of range.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            recipe = cls.model_validate(values)
        except OSError as error:
            raise ConfigurationError(f"cannot read the recipe {path}: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the recipe {path} is not TOML: {error}") from error
        except ValidationError as error:
            raise ConfigurationError(f"the recipe {path} is wrong: {_sentence(error)}") from error
        folder = path.parent
        glossary = recipe.glossary.model_copy(update={"files": _below(folder, recipe.glossary.files)})
        return recipe.model_copy(update={"data": _below(folder, recipe.data), "glossary": glossary})

    def data_files(self) -> list[Path]:
        """Return the files of `data`, folders opened.

        Raises:
            ConfigurationError: there is no data, or one of the paths does not exist.
        """
        files: list[Path] = []
        for path in self.data:
            if path.is_dir():
                files += sorted(file for file in path.iterdir() if file.suffix in {".jsonl", ".csv"})
            elif path.is_file():
                files.append(path)
            else:
                raise ConfigurationError(f"no file or folder {path}; `data` of the recipe must name what exists")
        if not files:
            raise ConfigurationError("the recipe names no data; add files or folders to `data`, or pass --data")
        return files

    def as_json(self) -> dict[str, object]:
        """Return plain values for the manifest, without local folders."""
        values = self.model_dump(mode="json", exclude={"lora", "fit", "mixture"})
        values["data"] = [path.name for path in self.data]
        values["base"] = Path(self.base).resolve().name if Path(self.base).is_dir() else self.base
        values["glossary"]["files"] = [path.name for path in self.glossary.files]
        values |= {"lora": asdict(self.lora), "fit": asdict(self.fit), "mixture": asdict(self.mixture)}
        plain: dict[str, object] = json.loads(json.dumps(values))  # a tuple is no JSON value
        return plain


def _below(folder: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(folder / path for path in paths)


def _sentence(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())
