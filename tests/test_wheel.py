"""The wheel that a stranger installs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("router", "adapters", "training", "integrations")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools leaves a `build` folder, whose stale files would be in the next wheel
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def tracked(pattern: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_of_the_four_packages_is_in_the_wheel(wheel: zipfile.ZipFile, package: str) -> None:
    inside = {name.removeprefix("pointsman/") for name in wheel.namelist() if name.startswith(f"pointsman/{package}/")}

    assert tracked(f"{package}/**/*.py") <= inside
    assert not [name for name in inside if "__pycache__" in name]


def test_types_data_and_the_recipe_travel_with_the_code(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())

    wanted = tracked("training/data/*") | {"training/recipe.toml"} | tracked("adapters/shipped/*/**/*.*")
    assert "pointsman/py.typed" in names
    assert {f"pointsman/{name}" for name in wanted if not (ROOT / name).is_dir()} <= names


def test_only_pointsman_is_installed_and_the_command_with_it(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]

    assert {top for top in tops if not top.endswith(".dist-info")} == {"pointsman"}
    assert "pointsman = pointsman.integrations.cli:main" in wheel.read(metadata).decode()


def test_the_wheel_works_from_a_folder_of_its_own(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import pointsman.training.recipe as recipe\n"
        "from pointsman.training import Recipe\n"
        "from pointsman.training.recipe import SHIPPED_RECIPE\n"
        "print(recipe.__file__, len(Recipe.read(SHIPPED_RECIPE).data_files()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert int(done.stdout.split()[-1]) > 10
