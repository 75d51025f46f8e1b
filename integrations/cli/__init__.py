"""The command line. Nothing here imports a model library before a command needs it."""

from pointsman.integrations.cli.app import app, main

__all__ = ["app", "main"]
