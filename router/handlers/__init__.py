"""Handlers that need nothing but the standard library."""

from pointsman.router.handlers.knowledge_base import KnowledgeBase, Passage
from pointsman.router.handlers.refusal import Refusal
from pointsman.router.handlers.small_talk import SmallTalk

__all__ = ["KnowledgeBase", "Passage", "Refusal", "SmallTalk"]
