"""Everything that connects Pointsman to the world: settings, LLM endpoints, the command line.

Names are imported when they are first asked for, so that `pointsman --help` pays for none of them.
"""

from typing import TYPE_CHECKING

if __name__ != "pointsman.integrations":
    raise ImportError(f"import pointsman.integrations, not {__name__}: a second copy of every class would be made")

if TYPE_CHECKING:
    from pointsman.integrations.assembly import open_gatekeeper, open_router
    from pointsman.integrations.openai_compatible import OpenAICompatible
    from pointsman.integrations.settings import KnowledgeBaseSettings, LLMSettings, Settings, load_settings

__all__ = [
    "KnowledgeBaseSettings",
    "LLMSettings",
    "OpenAICompatible",
    "Settings",
    "load_settings",
    "open_gatekeeper",
    "open_router",
]

_HOMES = {
    "KnowledgeBaseSettings": "settings",
    "LLMSettings": "settings",
    "OpenAICompatible": "openai_compatible",
    "Settings": "settings",
    "load_settings": "settings",
    "open_gatekeeper": "assembly",
    "open_router": "assembly",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
