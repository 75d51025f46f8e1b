"""The router as a runnable whose branches are runnables.

    chain = PointsmanRouter(router=router, branches={"data_platform": kb_chain, "general_chat": llm})
    await (prompt | chain | parser).ainvoke(...)

Not a second router: what is decided, and why, is the `Router`'s business; here its decisions meet runnables.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AnyMessage
from langchain_core.prompt_values import ChatPromptValueConcrete, StringPromptValue
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.base import RunnableLike, coerce_to_runnable
from langchain_core.runnables.config import get_executor_for_config
from langchain_core.runnables.graph import Graph
from langchain_core.runnables.utils import get_unique_config_specs
from langchain_core.utils.aiter import aclosing
from pydantic import ConfigDict, PrivateAttr

from pointsman.integrations.langchain import loops
from pointsman.integrations.langchain.cases import ChatInput, Messages, decide, decide_now
from pointsman.integrations.langchain.graph import DECISION_KEY, Edge, Node, as_edge, as_node
from pointsman.integrations.langchain.jobs import (
    Group,
    all_marked,
    announce,
    announce_now,
    grouped,
    jobs_of,
    marked,
    ready,
)
from pointsman.integrations.langchain.switch import Switch
from pointsman.router import Router

__all__ = ["PointsmanRouter"]


class PointsmanRouter(RunnableSerializable[ChatInput, Any]):
    """Sends each input to the branch of its decision, and streams what the branch says.

    An input is a text, messages, a prompt value or `{"messages": [...]}`; the branch gets it unchanged. A label or
    route without a branch is answered by the router's own handler, in strings.

    The decision is made before the run starts, so that the run, and every run below it, carries it from the beginning:
    the tag `route:<label>` (and `reason:<reason>` where the label was not simply followed), and `Decision.as_dict()` as
    `config["metadata"]["pointsman"]`, which is also how a branch sees it. The custom event `route_decision` repeats it.
    How long it took is `seconds` in there; what went wrong is the error of the run.

    A batch is one pass of the gatekeeper, then one batch a branch; with `max_concurrency` the branches take turns.

    `invoke`, `batch` and `stream` call the same methods of the branches. The router's share is awaited on the event
    loop it belongs to: the first running one that used it, else one of our own in a thread. From code on that very loop
    they are refused, for they would block it for ever; await `ainvoke` there.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    router: Router
    """Decides, and answers where there is no branch. Closing it is its opener's business."""
    branches: Mapping[str, Runnable[Any, Any]]
    """By label or route. A label's takes what follows the label; a route's, whatever else arrives there, such as an
    unsure decision, which without one is taken by the first label's of that route."""

    _switch: Switch = PrivateAttr()

    def __init__(
        self,
        *,
        router: Router,
        branches: Mapping[str, RunnableLike[Any, Any]] | None = None,
        name: str | None = None,
    ) -> None:
        """Connect a router to branches.

        Args:
            router: decides, and answers where there is no branch.
            branches: runnables, functions or mappings of them, by label or route.
            name: of the runs.

        Raises:
            ConfigurationError: a key is neither a label nor a route, or a label has neither a branch nor a handler.
        """
        runnables: dict[str, Runnable[Any, Any]] = {}
        for key, branch in (branches or {}).items():
            runnables[key] = coerce_to_runnable(branch)
        fields: dict[str, Any] = {"router": router, "branches": runnables, "name": name}
        super().__init__(**fields)
        self._switch = Switch.of(self.router, self.branches)
        loops.settle(self.router)

    async def ainvoke(self, input: ChatInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Return the answer of the branch that takes the input; `kwargs` go to it.

        Raises:
            InputError: the input is no conversation.
            HandlerError: a handler of the router's could not answer.
        """
        [job] = jobs_of(self._switch, [input], await decide(self.router, [input]))

        async def answer(value: ChatInput, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig) -> Any:
            mine = ready(job)
            await announce(mine, config)
            return await mine.branch.runnable.ainvoke(mine.task, config, **kwargs)

        return await self._acall_with_config(answer, input, marked(config, job))

    def invoke(self, input: ChatInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Return what `ainvoke` does, to code that is not async."""
        [job] = jobs_of(self._switch, [input], decide_now(self.router, [input]))

        def answer(value: ChatInput, run_manager: CallbackManagerForChainRun, config: RunnableConfig) -> Any:
            mine = ready(job)
            announce_now(mine, config)
            return mine.branch.runnable.invoke(mine.task, config, **kwargs)

        return self._call_with_config(answer, input, marked(config, job))

    async def astream(
        self,
        input: ChatInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Yield the chunks of the branch that takes the input; closing the stream closes the branch's at once.

        Raises:
            InputError: the input is no conversation.
            HandlerError: a handler of the router's could not answer.
        """
        [job] = jobs_of(self._switch, [input], await decide(self.router, [input]))

        async def inputs() -> AsyncIterator[ChatInput]:
            yield input

        async def answer(
            values: AsyncIterator[ChatInput], run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
        ) -> AsyncIterator[Any]:
            mine = ready(job)
            await announce(mine, config)
            async with aclosing(mine.branch.runnable.astream(mine.task, config, **kwargs)) as chunks:
                async for chunk in chunks:
                    yield chunk

        run = self._atransform_stream_with_config(inputs(), answer, marked(config, job))
        async with aclosing(run) as chunks:
            async for chunk in chunks:
                yield chunk

    def stream(
        self,
        input: ChatInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yield what `astream` does, to code that is not async."""
        [job] = jobs_of(self._switch, [input], decide_now(self.router, [input]))

        def answer(
            values: Iterator[ChatInput], run_manager: CallbackManagerForChainRun, config: RunnableConfig
        ) -> Iterator[Any]:
            mine = ready(job)
            announce_now(mine, config)
            yield from mine.branch.runnable.stream(mine.task, config, **kwargs)

        yield from self._transform_stream_with_config(iter([input]), answer, marked(config, job))

    async def abatch(
        self,
        inputs: Sequence[ChatInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Return one answer an input, in order: one pass of the gatekeeper, then one batch a branch.

        An input that fails does not keep the others from being answered; the first error is raised at the end, or
        each is returned in its place with `return_exceptions`.
        """
        jobs = jobs_of(self._switch, inputs, await decide(self.router, inputs))
        configs = all_marked(config, jobs)

        async def answer(
            values: list[ChatInput], run_manager: list[AsyncCallbackManagerForChainRun], config: list[RunnableConfig]
        ) -> list[Any]:
            answers: list[Any] = list(jobs)  # an error is its own answer

            async def work(group: Group) -> None:
                theirs = [config[place] for place in group.jobs]
                try:
                    await asyncio.gather(*map(announce, group.jobs.values(), theirs))
                    found = await group.branch.runnable.abatch(group.tasks, theirs, return_exceptions=True, **kwargs)
                    group.fill(answers, found)
                except Exception as error:  # noqa: BLE001 -- of a branch that raises all the same; its group gets it
                    group.fill(answers, [error] * len(theirs))

            if configs[0].get("max_concurrency"):
                for group in grouped(jobs):
                    await work(group)
            else:
                await asyncio.gather(*map(work, grouped(jobs)))
            return answers

        return await self._abatch_with_config(answer, list(inputs), configs, return_exceptions=return_exceptions)

    def batch(
        self,
        inputs: Sequence[ChatInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Return what `abatch` does, to code that is not async."""
        jobs = jobs_of(self._switch, inputs, decide_now(self.router, inputs))
        configs = all_marked(config, jobs)

        def answer(
            values: list[ChatInput], run_manager: list[CallbackManagerForChainRun], config: list[RunnableConfig]
        ) -> list[Any]:
            answers: list[Any] = list(jobs)

            def work(group: Group) -> None:
                theirs = [config[place] for place in group.jobs]
                try:
                    for job, its in zip(group.jobs.values(), theirs, strict=True):
                        announce_now(job, its)
                    found = group.branch.runnable.batch(group.tasks, theirs, return_exceptions=True, **kwargs)
                    group.fill(answers, found)
                except Exception as error:  # noqa: BLE001 -- of a branch that raises all the same; its group gets it
                    group.fill(answers, [error] * len(theirs))

            groups = grouped(jobs)
            at_a_time = 1 if configs[0].get("max_concurrency") else max(len(groups), 1)
            with get_executor_for_config({"max_concurrency": at_a_time}) as executor:
                list(executor.map(work, groups))
            return answers

        return self._batch_with_config(answer, list(inputs), configs, return_exceptions=return_exceptions)

    def as_edge(self, *, messages_key: str = "messages", decision_key: str | None = None) -> Edge:
        """Return `as_edge` of the router; the branches have no part in it."""
        return as_edge(self.router, messages_key=messages_key, decision_key=decision_key)

    def as_node(self, *, messages_key: str = "messages", decision_key: str = DECISION_KEY) -> Node:
        """Return `as_node` of the router; the branches have no part in it."""
        return as_node(self.router, messages_key=messages_key, decision_key=decision_key)

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        """Return the drawing: one conditional edge a branch, with its label or route."""
        graph = Graph()
        start = graph.add_node(self.get_input_schema(config))
        points = graph.add_node(self, metadata=config.get("metadata") if config else None)
        end = graph.add_node(self.get_output_schema(config))
        graph.add_edge(start, points)
        for branch in self._switch.branches:
            inner = branch.runnable.get_graph(config)
            inner.trim_first_node()
            inner.trim_last_node()
            first, last = inner.first_node(), inner.last_node()
            if first and last:
                first, last = graph.extend(inner, prefix=branch.key)
            if not first or not last:  # it has several ends: one node for the whole
                first = last = graph.add_node(branch.runnable)
            graph.add_edge(points, first, data=branch.key, conditional=True)
            graph.add_edge(last, end)
        return graph

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What can be configured in the branches."""
        return get_unique_config_specs(spec for branch in self.branches.values() for spec in branch.config_specs)

    @property
    def InputType(self) -> Any:  # noqa: N802 -- LangChain's name
        """What can be routed."""
        return str | StringPromptValue | ChatPromptValueConcrete | list[AnyMessage] | Messages

    @property
    def OutputType(self) -> Any:  # noqa: N802 -- LangChain's name
        """What any of the branches returns."""
        return reduce(or_, (str if branch.own else _output_type(branch.runnable) for branch in self._switch.branches))


def _output_type(runnable: Runnable[Any, Any]) -> Any:
    try:
        return runnable.OutputType
    except TypeError:  # it cannot tell
        return Any
