"""The gatekeeper as a decision model of langchain-core, whose API for them is young: all of it is in this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.decisions import (
    BaseDecisionModel,
    Choice,
    ChoiceAnswer,
    ClassifierRequest,
    ClassifierResponse,
    Question,
    State,
)
from langchain_core.messages import AnyMessage
from langchain_core.runnables import RunnableConfig, get_config_list
from pydantic import ConfigDict
from typing_extensions import TypedDict

from pointsman.integrations.langchain import loops
from pointsman.integrations.langchain.cases import Case, Messages, decide
from pointsman.router import GatekeeperError, InputError, Reason, Router

__all__ = ["PointsmanDecisionModel"]


class _Request(TypedDict):
    """What `ClassifierRequest` allows and a gatekeeper can answer."""

    state: str | list[AnyMessage] | Messages
    questions: dict[str, Choice]


class PointsmanDecisionModel(BaseDecisionModel):
    """Answers one question, `question`: which label the latest user message of the state has.

    The labels are fixed by training, so a question with other choices or of another kind is refused. `confidence` is
    (p - 1/k) / (1 - 1/k) for the winner's probability p among k labels, 0 at chance, as System One models report it;
    the policy's thresholds play no part here. `request_id` is the decision's id, `model` the bundle that answered.
    A batch is one pass of the gatekeeper.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    router: Router
    """Decides; its handlers are not used."""
    model: str = "pointsman"
    """The name in traces."""

    @property
    def question(self) -> Choice:
        """The question that can be asked, with every label and what it means."""
        criteria = {label.name: label.description for label in self.router.policy.labels}
        return Choice(instructions="Which of these is the latest user message?", criteria={**criteria})

    @property
    def InputType(self) -> Any:  # noqa: N802 -- LangChain's name
        """The schema of an input; that of the base class cannot be drawn up outside its own module."""
        return _Request

    async def abatch(
        self,
        inputs: Sequence[ClassifierRequest],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[ClassifierResponse]:
        """Return one response a request, in order, from one pass of the gatekeeper.

        Raises:
            InputError: a question has other choices, or a state is no conversation.
            GatekeeperError: the gatekeeper failed.
        """

        async def answer(requests: list[ClassifierRequest]) -> list[Exception | ClassifierResponse]:
            return await self._responses(requests)

        configs = [self._traced_config(each) for each in get_config_list(config, len(inputs))]
        return await self._abatch_with_config(
            answer, list(inputs), configs, return_exceptions=return_exceptions, run_type="llm"
        )

    def batch(
        self,
        inputs: Sequence[ClassifierRequest],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[ClassifierResponse]:
        """Return what `abatch` does, to code that is not async."""

        def answer(requests: list[ClassifierRequest]) -> list[Exception | ClassifierResponse]:
            return loops.wait(loops.loop_of(self.router), self._responses(requests))

        configs = [self._traced_config(each) for each in get_config_list(config, len(inputs))]
        return self._batch_with_config(
            answer, list(inputs), configs, return_exceptions=return_exceptions, run_type="llm"
        )

    @property
    def _provider(self) -> str:
        return "pointsman"

    def _classify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        return loops.wait(loops.loop_of(self.router), self._aclassify(state, questions))

    async def _aclassify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        [response] = await self._responses([{"state": state, "questions": questions}])
        if isinstance(response, Exception):
            raise response
        return response

    async def _responses(self, requests: Sequence[ClassifierRequest]) -> list[Exception | ClassifierResponse]:
        objections = [self._objection(request["questions"]) for request in requests]
        states = [request["state"] for request, error in zip(requests, objections, strict=True) if error is None]
        cases = iter(await decide(self.router, states))
        return [
            _response(request["questions"], next(cases)) if error is None else error
            for request, error in zip(requests, objections, strict=True)
        ]

    def _objection(self, questions: Mapping[str, Question]) -> InputError | None:
        labels = [label.name for label in self.router.policy.labels]
        if not questions:
            return InputError("`questions` must hold at least one question, got none; use the model's `question`")
        for name, question in questions.items():
            if not isinstance(question, Choice):
                kind = getattr(question, "type", type(question).__name__)
                return InputError(f"question {name!r}: only a Choice can be answered, got {kind!r}")
            if set(question.criteria) != set(labels):
                return InputError(
                    f"question {name!r}: the choices must be the labels of the bundle, {', '.join(labels)}; "
                    f"got {', '.join(question.criteria)}; use the model's `question`, or train a bundle for others"
                )
        return None


def _response(questions: Mapping[str, Question], case: Case | Exception) -> Exception | ClassifierResponse:
    if isinstance(case, Exception):
        return case
    decision = case.decision
    if decision.reason is Reason.GATEKEEPER_FAILED:
        return GatekeeperError("the gatekeeper could not label this message; its error is in the log")
    answer = ChoiceAnswer(
        type="choice",
        choice=decision.label,
        probabilities=dict(decision.probabilities),
        confidence=_above_chance(decision.confidence, len(decision.probabilities)),
    )
    return ClassifierResponse(model=decision.bundle, answers=dict.fromkeys(questions, answer), request_id=decision.id)


def _above_chance(probability: float, labels: int) -> float:
    if labels == 1:
        return 1.0
    return min(max((probability - 1 / labels) / (1 - 1 / labels), 0.0), 1.0)
