"""The gatekeeper model: bundles, store, glossary, LoRA BERT, engine. torch is imported inside functions only."""

if __name__ != "pointsman.adapters":
    raise ImportError(f"import pointsman.adapters, not {__name__}: a second copy of every class would be made")

from pointsman.adapters.base import DEFAULT_BASE, BaseFiles, find_base
from pointsman.adapters.bundle import Bundle
from pointsman.adapters.classic import LoRAQuestionClassifier
from pointsman.adapters.encoding import Encoder
from pointsman.adapters.engine import Engine, TorchEngine
from pointsman.adapters.gatekeeper import Gatekeeper
from pointsman.adapters.glossary import Glossary
from pointsman.adapters.lora import LoraSettings, add_lora, merge_adapter, save_adapter
from pointsman.adapters.manifest import Manifest, Template
from pointsman.adapters.network import Network, build_network
from pointsman.adapters.store import Store, open_bundle, shipped_bundle

__all__ = [
    "DEFAULT_BASE",
    "BaseFiles",
    "Bundle",
    "Encoder",
    "Engine",
    "Gatekeeper",
    "Glossary",
    "LoRAQuestionClassifier",
    "LoraSettings",
    "Manifest",
    "Network",
    "Store",
    "Template",
    "TorchEngine",
    "add_lora",
    "build_network",
    "find_base",
    "merge_adapter",
    "open_bundle",
    "save_adapter",
    "shipped_bundle",
]
