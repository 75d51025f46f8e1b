"""Which branch takes a decision: a runnable of the user's, or the router's own answer as a runnable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import Runnable, RunnableGenerator

from pointsman.integrations.langchain import loops
from pointsman.integrations.langchain.cases import Case
from pointsman.router import ConfigurationError, Decision, Router

__all__ = ["Branch", "Switch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """What answers, under the label or route it is known by."""

    key: str
    runnable: Runnable[Any, Any]
    own: bool = False
    """Whether it is a handler of the router's: it is given the case, everything else the input unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Every branch, and the way of each decision to one of them."""

    branches: tuple[Branch, ...]
    by_label: Mapping[str, Branch]
    """Takes what follows its label."""
    by_route: Mapping[str, Branch]
    """Takes what reaches its route for another reason, as an unsure decision does."""
    routes: Mapping[str, str]
    """Label -> route, by the policy."""

    @classmethod
    def of(cls, router: Router, runnables: Mapping[str, Runnable[Any, Any]]) -> Switch:
        """Return the switch of a router whose labels or routes are answered by these runnables, the rest by handlers.

        Raises:
            ConfigurationError: a key is neither label nor route, or could be both; or nothing answers a label.
        """
        routes = {label.name: label.route for label in router.policy.labels}
        _check(runnables, routes, router.routes)
        given = {key: Branch(key=key, runnable=runnable) for key, runnable in runnables.items()}
        own = {route: _own(router, route) for route in router.routes if route in router.handlers}

        def of_route(route: str) -> Branch | None:
            labelled = (given[label] for label, its_route in routes.items() if its_route == route and label in given)
            return given.get(route) or next(labelled, None) or own.get(route)

        by_label = {label: given.get(label) or given.get(route) or own.get(route) for label, route in routes.items()}
        by_route = {route: of_route(route) for route in router.routes}
        if unanswered := [name for name, branch in {**by_label, **by_route}.items() if branch is None]:
            raise ConfigurationError(
                f"no branch and no handler for {', '.join(unanswered)}; "
                "give `branches` one under the label or its route, or the Router a handler for the route"
            )
        used = {branch.key: branch for branch in (*by_label.values(), *by_route.values()) if branch}
        return cls(
            branches=tuple({**given, **used}.values()),
            by_label={label: branch for label, branch in by_label.items() if branch},
            by_route={route: branch for route, branch in by_route.items() if branch},
            routes=routes,
        )

    def branch(self, decision: Decision) -> Branch:
        """Return what takes `decision`.

        Raises:
            ConfigurationError: it names a route that the policy did not have when the switch was made.
        """
        if self.routes.get(decision.label) == decision.route:
            return self.by_label[decision.label]
        try:
            return self.by_route[decision.route]
        except KeyError:
            known = ", ".join(self.by_route)
            raise ConfigurationError(f"no branch for the route {decision.route!r}; there are {known}") from None


def _check(runnables: Mapping[str, object], routes: Mapping[str, str], known_routes: Sequence[str]) -> None:
    for key in runnables:
        if key not in routes and key not in known_routes:
            raise ConfigurationError(
                f"{key!r} is neither a label nor a route; labels are {', '.join(routes)}, "
                f"routes are {', '.join(known_routes)}"
            )
        if key in known_routes and routes.get(key, key) != key:
            raise ConfigurationError(f"{key!r} is a label, and also the route of another one; use its route's name")


def _own(router: Router, route: str) -> Branch:
    def pieces(cases: Iterator[Case], **_: Any) -> Iterator[str]:
        silent = True
        for case in cases:
            answer = router.answer(case.conversation, case.decision)
            with closing(loops.iterate(loops.loop_of(router), answer)) as said:
                for piece in said:
                    silent = False
                    yield piece
        if silent:
            yield ""  # LangChain takes a stream without a chunk for a failure, and its sum for None

    async def apieces(cases: AsyncIterator[Case], **_: Any) -> AsyncIterator[str]:
        silent = True
        async for case in cases:
            async with aclosing(router.answer(case.conversation, case.decision)) as said:
                async for piece in said:
                    silent = False
                    yield piece
        if silent:
            yield ""

    return Branch(
        key=route, runnable=RunnableGenerator(pieces, apieces, name=type(router.handlers[route]).__name__), own=True
    )
