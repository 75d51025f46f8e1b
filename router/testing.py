"""Fakes for the tests of those who build on Pointsman, and for our own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from pointsman.router.conversation import Conversation
from pointsman.router.decision import DEFAULT_LABELS, Decision, Label, Reason, Scores
from pointsman.router.errors import ConfigurationError, GatekeeperError
from pointsman.router.policy import Policy
from pointsman.router.window import Window

__all__ = ["RecordingHandler", "ScriptedClassifier", "decided"]


def decided(label: str = "data_platform", route: str = "knowledge_base") -> Decision:
    """Return a decision as a handler is given it: sure of `label`, on its way to `route`."""
    return Decision(
        id="1",
        label=label,
        route=route,
        probabilities={label: 1.0},
        confidence=1.0,
        margin=1.0,
        reason=Reason.CONFIDENT,
        bundle="scripted",
        truncated=False,
        seconds=0.0,
    )


class ScriptedClassifier:
    """A gatekeeper that answers from a script and remembers what it was asked."""

    def __init__(
        self,
        script: Mapping[str, str | Mapping[str, float] | GatekeeperError] | Callable[[Window], str],
        *,
        labels: Sequence[Label] = DEFAULT_LABELS,
        confidence: float = 0.98,
        thresholds: Mapping[str, float] | None = None,
        bundle: str = "scripted",
    ) -> None:
        """Answer each message with its label in `script`.

        Args:
            script: message -> label name, probabilities, or an error to raise; or a function from window to label.
            labels: what may be answered.
            confidence: the probability of a label that is given by name.
            thresholds: as in `Policy`.
            bundle: the id to report.
        """
        self.windows: list[Window] = []
        self.closed = 0
        self._script = script
        self._confidence = confidence
        self._bundle = bundle
        self._policy = Policy(labels=labels, thresholds=thresholds or {})

    @property
    def bundle(self) -> str:
        """The id given at construction."""
        return self._bundle

    @property
    def policy(self) -> Policy:
        """The labels and thresholds given at construction."""
        return self._policy

    async def classify(self, windows: Sequence[Window]) -> list[Scores]:
        """Return the scripted scores and remember the windows."""
        self.windows.extend(windows)
        return [self._scores(window) for window in windows]

    async def aclose(self) -> None:
        """Count the call."""
        self.closed += 1

    def _scores(self, window: Window) -> Scores:
        if callable(self._script):
            answer: str | Mapping[str, float] | GatekeeperError = self._script(window)
        elif window.message in self._script:
            answer = self._script[window.message]
        else:
            raise ConfigurationError(f"the script has no answer to {window.message!r}")
        if isinstance(answer, GatekeeperError):
            raise answer
        if not isinstance(answer, str):
            return Scores(probabilities=answer)
        names = [label.name for label in self._policy.labels]
        rest = (1 - self._confidence) / max(len(names) - 1, 1)
        return Scores(probabilities={name: self._confidence if name == answer else rest for name in names})


class RecordingHandler:
    """A handler that says a fixed text, word by word, and remembers what it was given."""

    def __init__(self, text: str = "ok", *, error: Exception | None = None) -> None:
        self.calls: list[tuple[Conversation, Decision]] = []
        self.closed = 0
        self._text = text
        self._error = error

    async def stream(self, conversation: Conversation, decision: Decision) -> AsyncIterator[str]:
        """Yield the text in words; raise the given error at its end."""
        self.calls.append((conversation, decision))
        for number, word in enumerate(self._text.split(" ")):
            yield f" {word}" if number else word
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        """Count the call."""
        self.closed += 1
