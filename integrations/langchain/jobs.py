"""From decisions to jobs: who does what, under which config, and in which batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.runnables import RunnableConfig, ensure_config, get_config_list

from pointsman.integrations.langchain.cases import Case
from pointsman.integrations.langchain.graph import DECISION_KEY
from pointsman.integrations.langchain.switch import Branch, Switch
from pointsman.router import ConfigurationError, Decision, Reason

__all__ = ["EVENT", "Group", "Job", "all_marked", "announce", "announce_now", "grouped", "jobs_of", "marked", "ready"]

EVENT = "route_decision"
"""The custom event that carries the decision, before the branch starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one branch has to do for one input."""

    branch: Branch
    task: Any
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The jobs of one branch, by their places in a batch."""

    branch: Branch
    jobs: dict[int, Job]

    @property
    def tasks(self) -> list[Any]:
        """What the branch is given."""
        return [job.task for job in self.jobs.values()]

    def fill(self, answers: list[Any], found: Sequence[Any]) -> None:
        """Put what the branch answered where it belongs."""
        for place, answer in zip(self.jobs, found, strict=True):
            answers[place] = answer


def jobs_of(switch: Switch, values: Sequence[object], cases: Sequence[Case | Exception]) -> list[Job | Exception]:
    """Return one job a value, in order; what failed is its error instead."""
    return [_job(switch, value, case) for value, case in zip(values, cases, strict=True)]


def ready(job: Job | Exception) -> Job:
    """Return the job.

    Raises:
        Exception: it is none.
    """
    if isinstance(job, Exception):
        raise job
    return job


def marked(config: RunnableConfig | None, job: Job | Exception) -> RunnableConfig:
    """Return the config of a run that follows a decision; everything below the run inherits its marks."""
    config = ensure_config(config)
    if isinstance(job, Job):
        decision = job.decision
        tags = [f"route:{decision.label}"]
        if decision.reason is not Reason.CONFIDENT:
            tags.append(f"reason:{decision.reason}")
        config["tags"] = [*config["tags"], *tags]
        config["metadata"] = {**config["metadata"], DECISION_KEY: decision.as_dict()}
    return config


def all_marked(
    config: RunnableConfig | list[RunnableConfig] | None, jobs: Sequence[Job | Exception]
) -> list[RunnableConfig]:
    """Return the config of each run of a batch."""
    return [marked(each, job) for each, job in zip(get_config_list(config, len(jobs)), jobs, strict=True)]


async def announce(job: Job, config: RunnableConfig) -> None:
    """Tell those who listen to the run what was decided."""
    await adispatch_custom_event(EVENT, job.decision.as_dict(), config=config)


def announce_now(job: Job, config: RunnableConfig) -> None:
    """Do what `announce` does, in code that is not async."""
    dispatch_custom_event(EVENT, job.decision.as_dict(), config=config)


def grouped(jobs: Sequence[Job | Exception]) -> list[Group]:
    """Return the jobs by branch; what failed before has none."""
    groups: dict[str, Group] = {}
    for place, job in enumerate(jobs):
        if isinstance(job, Job):
            groups.setdefault(job.branch.key, Group(branch=job.branch, jobs={})).jobs[place] = job
    return list(groups.values())


def _job(switch: Switch, value: object, case: Case | Exception) -> Job | Exception:
    if isinstance(case, Exception):
        return case
    try:
        branch = switch.branch(case.decision)
    except ConfigurationError as error:
        return error
    return Job(branch=branch, task=case if branch.own else value, decision=case.decision)
