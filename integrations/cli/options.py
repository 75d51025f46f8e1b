"""The options that several commands share, and the settings they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.integrations.cli.boundary import about_options

if TYPE_CHECKING:
    from pointsman.integrations.settings import Settings

__all__ = ["BaseOption", "BundleOption", "ConfigOption", "DeviceOption", "JsonOption", "StoreOption", "settings_from"]

BundleOption = Annotated[
    str | None, typer.Option("--bundle", metavar="ID|FOLDER", help="The gatekeeper; by default the current one.")
]
BaseOption = Annotated[
    str | None, typer.Option("--base", metavar="FOLDER", help="The base model's weights, where they are not found.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings; by default ./pointsman.toml if it exists.")
]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="FOLDER", help="Where bundles are kept; ~/.pointsman/bundles.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def settings_from(config: Path | None, **options: Any) -> Settings:
    """Return the settings under these options; what is None is left to the environment and the file.

    Raises:
        OptionError: one of them cannot be used.
    """
    from pointsman.integrations.settings import load_settings

    with about_options():
        return load_settings(config, **options)
