"""Decides where a message goes and dispatches it. Needs only the standard library and pydantic."""

if __name__ != "pointsman.router":
    raise ImportError(f"import pointsman.router, not {__name__}: a second copy of every class would be made")

from pointsman.router.batching import BatchLimits, MicroBatcher
from pointsman.router.breaker import BreakerSettings
from pointsman.router.conversation import Conversation, ConversationLike, Message, Role
from pointsman.router.decision import DEFAULT_LABELS, Decision, Label, Reason, Scores
from pointsman.router.dispatch import Dispatcher
from pointsman.router.errors import (
    BaseModelError,
    BaseModelNotFoundError,
    BundleCorruptError,
    BundleError,
    BundleNotFoundError,
    ConfigurationError,
    DataError,
    GatekeeperClosed,
    GatekeeperError,
    GatekeeperOutOfMemory,
    GatekeeperOverloaded,
    HandlerError,
    HandlerOverloaded,
    HandlerTimeout,
    HandlerUnavailable,
    InputError,
    MissingDependencyError,
    PointsmanError,
)
from pointsman.router.handlers import KnowledgeBase, Passage, Refusal, SmallTalk
from pointsman.router.policy import Choice, Policy
from pointsman.router.protocols import Classifier, Handler
from pointsman.router.router import Reply, Router
from pointsman.router.text import detect_language, normalise
from pointsman.router.track import Limits
from pointsman.router.trip import DispatchEvent, EventKind, Reroute
from pointsman.router.window import Window

__all__ = [
    "DEFAULT_LABELS",
    "BaseModelError",
    "BaseModelNotFoundError",
    "BatchLimits",
    "BreakerSettings",
    "BundleCorruptError",
    "BundleError",
    "BundleNotFoundError",
    "Choice",
    "Classifier",
    "ConfigurationError",
    "Conversation",
    "ConversationLike",
    "DataError",
    "Decision",
    "DispatchEvent",
    "Dispatcher",
    "EventKind",
    "GatekeeperClosed",
    "GatekeeperError",
    "GatekeeperOutOfMemory",
    "GatekeeperOverloaded",
    "Handler",
    "HandlerError",
    "HandlerOverloaded",
    "HandlerTimeout",
    "HandlerUnavailable",
    "InputError",
    "KnowledgeBase",
    "Label",
    "Limits",
    "Message",
    "MicroBatcher",
    "MissingDependencyError",
    "Passage",
    "PointsmanError",
    "Policy",
    "Reason",
    "Refusal",
    "Reply",
    "Reroute",
    "Role",
    "Router",
    "Scores",
    "SmallTalk",
    "Window",
    "detect_language",
    "normalise",
]
