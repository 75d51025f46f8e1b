import builtins
import re

import pointsman.router.errors as module
from pointsman.router import PointsmanError


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Class -> (parent, built-in) as the module's docstring draws them."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    for line in (module.__doc__ or "").splitlines():
        match = re.match(r"^( *)[*x+] (\w+)(?: \(also (\w+)\))?$", line)
        if match:
            depth = len(match[1]) // 2
            path[depth:] = [match[2]]
            tree[match[2]] = (path[depth - 1] if depth else None, match[3])
    return tree


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    real: dict[str, tuple[str | None, str | None]] = {}
    for name in module.__all__:
        ours = [base.__name__ for base in getattr(module, name).__bases__ if issubclass(base, PointsmanError)]
        foreign = [base.__name__ for base in getattr(module, name).__bases__ if base.__name__ in vars(builtins)]
        real[name] = (ours[0] if ours else None, next((base for base in foreign if base != "Exception"), None))

    assert drawn_tree() == real


def test_every_error_of_the_module_is_exported() -> None:
    classes = {name for name, value in vars(module).items() if isinstance(value, type)}

    assert classes == set(module.__all__)
