"""Pointsman: a LoRA-tuned BERT that throws the points for a data-platform assistant.

Import from the packages: `pointsman.router`, `pointsman.adapters`, `pointsman.training`, `pointsman.integrations`.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
