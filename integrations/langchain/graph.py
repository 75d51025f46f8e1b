"""Functions that fit a LangGraph graph. LangGraph itself is not needed, and none of it is used here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from pointsman.integrations.langchain.cases import decide
from pointsman.router import Decision, InputError, Router

__all__ = ["DECISION_KEY", "Edge", "Node", "as_edge", "as_node"]

DECISION_KEY = "pointsman"
"""Where a decision is put, in a graph's state and in a run's metadata."""

Edge = Callable[[Any], Awaitable[str]]
Node = Callable[[Any], Awaitable[dict[str, dict[str, object]]]]


def as_edge(router: Router, *, messages_key: str = "messages", decision_key: str | None = None) -> Edge:
    """Return an async function from a graph's state to the route of its latest user message.

    It fits `add_conditional_edges(source, as_edge(router), {"knowledge_base": ..., ...})`; without the mapping, nodes
    with the names of the routes are meant. It says the route and not the label, for an unsure label is not followed.

    Args:
        router: decides; it needs no handlers.
        messages_key: where the state has its messages.
        decision_key: where `as_node` has put the decision; without it, the edge asks the gatekeeper itself.
    """

    async def pointsman(state: Any) -> str:
        if decision_key is None:
            return (await _decision(router, _part(state, messages_key))).route
        return str(_part(state, decision_key)["route"])

    pointsman.__annotations__["return"] = Literal[router.routes]  # LangGraph draws what it finds here
    return pointsman


def as_node(router: Router, *, messages_key: str = "messages", decision_key: str = DECISION_KEY) -> Node:
    """Return an async function from a graph's state to `{decision_key: Decision.as_dict()}`, plain values.

    It fits `add_node("gate", as_node(router))`, where the state has a key for the decision. The edges behind it follow
    the decision with `as_edge(router, decision_key=...)`, and every node can read it.

    Args:
        router: decides; it needs no handlers.
        messages_key: where the state has its messages.
        decision_key: where the decision is put.
    """

    async def pointsman(state: Any) -> dict[str, dict[str, object]]:
        return {decision_key: (await _decision(router, _part(state, messages_key))).as_dict()}

    return pointsman


async def _decision(router: Router, messages: object) -> Decision:
    [case] = await decide(router, [messages])
    if isinstance(case, Exception):
        raise case
    return case.decision


def _part(state: object, key: str) -> Any:
    """Return one part of a state, which may be a mapping, a dataclass or a model."""
    part = state.get(key) if isinstance(state, Mapping) else getattr(state, key, None)
    if part is None:
        raise InputError(f"the graph's state has no {key!r}; `as_node` puts decisions there, the caller messages")
    return part
