"""The plan of the house: no circles, torch only where it is said, rooms and functions of a size.

The floors are contracts of import-linter in pyproject.toml.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import robustness

ROOT = Path(robustness.__file__).parent
HEAVY = {"torch", "transformers"}

MOST_MODULES = 16  # in a folder, its __init__ aside
MOST_LINES = 400  # of a module
MOST_LINES_OF_CODE = 40  # of a function, its docstring aside: a screen

LONG_FUNCTIONS = {
    "plugin.pytest_addoption",  # declares one option after the other
    # to be cut
    "cli.card.card",
    "cli.diff.diff",
    "cli.fleet.fleet",
    "cli.scan.scan",
    "cli.trace.trace",
    "report.collected.checkpoint_result",
    "report.trace.page.to_html",
}
LONG_MODULES = {"vetting"}  # to be cut
IN_CIRCLES = {"robustness.report.markdown.card"}  # to be cut


@cache
def modules() -> dict[str, Path]:
    """The files by their modules' names; a package is called by its own."""
    return {
        ".".join(("robustness", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): file
        for file in sorted(ROOT.rglob("*.py"))
    }


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def statements(node: ast.AST, *, lazy: bool) -> Iterator[ast.AST]:
    """All nodes below one; without those that an import of the module does not execute."""
    for child in ast.iter_child_nodes(node):
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            deferred = True
        if lazy or not deferred:
            yield child
            yield from statements(child, lazy=lazy)


def imported(file: Path, *, lazy: bool) -> set[str]:
    """What a file imports: modules of this package, the first part of the names of others."""
    names: set[str] = set()
    for node in statements(tree(file), lazy=lazy):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            names |= {
                inner if (inner := f"{node.module}.{alias.name}") in modules() else node.module
                for alias in node.names
            }
    return {name if name in modules() else name.partition(".")[0] for name in names}


def circle_from(start: str, graph: dict[str, set[str]]) -> list[str] | None:
    """A way from a module back to itself."""
    ways, seen = [[start]], {start}
    while ways:
        way = ways.pop()
        for module in sorted(graph.get(way[-1], ())):
            if module == start:
                return [*way, module]
            if module not in seen:
                seen.add(module)
                ways.append([*way, module])
    return None


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Not within functions nor for annotations either."""
    files = {name: file for name, file in modules().items() if name not in IN_CIRCLES}
    graph = {name: imported(file, lazy=True) for name, file in files.items()}
    circles = [circle for name in graph if (circle := circle_from(name, graph)) is not None]
    assert not circles, min(circles, key=len)


# ---------------------------------------------------------------- torch


def loads_torch(name: str, seen: set[str]) -> bool:
    """Whether the import of a module imports torch or transformers, itself or by way of others."""
    seen.add(name)
    names = imported(modules()[name], lazy=False)
    if names & HEAVY:
        return True
    parents = {name.rpartition(".")[0]} & modules().keys()
    inner = ((names & modules().keys()) | parents) - seen
    return any(loads_torch(module, seen) for module in sorted(inner))


def rooms() -> dict[str, Path]:
    return {name: file for name, file in modules().items() if file.name == "__init__.py"}


@pytest.mark.parametrize("room", rooms())
def test_a_room_says_whether_its_modules_import_torch(room: str) -> None:
    r"""``Torch-free.``, ``Torch-free but for `a`, `b`.`` or ``Imports torch at module level.``"""
    docstring = " ".join((ast.get_docstring(tree(modules()[room])) or "").split())
    inside = {name for name in modules() if name.rpartition(".")[0] == room} - rooms().keys()
    heavy = {name.rpartition(".")[2] for name in inside if loads_torch(name, set())}
    free = {name.rpartition(".")[2] for name in inside} - heavy
    said = re.search(
        r"(Torch-free|Imports torch at module level)(?:,? but for ((?:`\w+`(?:, | and )?)+))?\.",
        docstring,
    )
    assert said is not None, f"{room} says nothing of torch: {sorted(heavy)} import it"
    others = set(re.findall(r"`(\w+)`", said[2] or ""))
    expected = heavy if said[1] == "Torch-free" else free
    assert others == expected, f"{room}: {said[0]}"


# ---------------------------------------------------------------- sizes


def test_no_folder_holds_more_than_a_glance() -> None:
    counts = {room: len({*file.parent.glob("*.py")}) - 1 for room, file in rooms().items()}
    assert {room: count for room, count in counts.items() if count > MOST_MODULES} == {}


def test_no_module_is_longer_than_it_may_be() -> None:
    long = {
        name.removeprefix("robustness.")
        for name, file in modules().items()
        if len(file.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }
    assert long - LONG_MODULES == set()


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From ``def`` to the end, the docstring aside."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        first = function.body[0]
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_every_function_fits_on_a_screen() -> None:
    long = {
        f"{name.removeprefix('robustness.')}.{node.name}"
        for name, file in modules().items()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and lines_of_code(node) > MOST_LINES_OF_CODE
    }
    assert long - LONG_FUNCTIONS == set()
