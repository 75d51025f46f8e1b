"""Pointsman in LangChain: a router with runnables as branches, the gatekeeper as a decision model, LangGraph edges."""

from typing import TYPE_CHECKING, Any

from pointsman.integrations.langchain.graph import as_edge, as_node
from pointsman.integrations.langchain.runnable import PointsmanRouter
from pointsman.router import MissingDependencyError

if TYPE_CHECKING:
    from pointsman.integrations.langchain.decisions import PointsmanDecisionModel

__all__ = ["PointsmanDecisionModel", "PointsmanRouter", "as_edge", "as_node"]


def __getattr__(name: str) -> Any:
    if name != "PointsmanDecisionModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from pointsman.integrations.langchain.decisions import PointsmanDecisionModel
    except ImportError as error:
        from langchain_core.version import VERSION

        raise MissingDependencyError(
            f"{name} needs `langchain_core.decisions`, which langchain-core has since 1.8; {VERSION} is installed: "
            "pip install --upgrade 'langchain-core>=1.8,<2'"
        ) from error
    return PointsmanDecisionModel
