import subprocess
import sys

import pytest

import pointsman.integrations


@pytest.mark.parametrize("name", pointsman.integrations.__all__)
def test_every_name_of_the_facade_is_there(name: str) -> None:
    assert getattr(pointsman.integrations, name).__name__ == name


def test_the_facade_is_sorted_and_says_no_to_other_names() -> None:
    assert pointsman.integrations.__all__ == sorted(pointsman.integrations.__all__)
    assert set(pointsman.integrations.__all__) <= set(dir(pointsman.integrations))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pointsman.integrations.nonsense  # noqa: B018


def test_importing_the_facade_imports_nothing_else() -> None:
    heavy = "{'torch', 'transformers', 'peft', 'numpy', 'aiohttp', 'pydantic_settings'}"
    code = f"import sys, pointsman.integrations; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
