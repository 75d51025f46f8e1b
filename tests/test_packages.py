import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("router", "adapters", "training", "integrations")


@pytest.mark.parametrize("name", PACKAGES)
def test_all_lists_exactly_what_a_package_offers(name: str) -> None:
    package = importlib.import_module(f"pointsman.{name}")
    lazy = vars(package).get("_HOMES")  # name -> module, where names are imported when they are first asked for
    public = (
        set(lazy)
        if lazy
        else {
            attribute
            for attribute, value in vars(package).items()
            if not attribute.startswith("_") and not isinstance(value, ModuleType)
        }
    )

    assert set(package.__all__) == public
    assert all(hasattr(package, attribute) for attribute in package.__all__)
    assert len(package.__all__) == len(set(package.__all__))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_bare_import_from_the_repository_root_is_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert f"ImportError: import pointsman.{name}, not {name}" in done.stderr


def test_importing_the_packages_loads_no_heavy_library() -> None:
    heavy = ("torch", "transformers", "peft", "accelerate", "sklearn", "scipy")
    code = (
        "import sys, pointsman.router, pointsman.adapters, pointsman.training, pointsman.integrations\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
