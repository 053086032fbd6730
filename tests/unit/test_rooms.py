"""The layout of the code: who may import whom, and how large constructors and modules may be.

All imports count: those inside of functions and those for type checkers too.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ALMOST_PURE = {"bridge.plan"}  # it reads the configuration
PURE_MODULES = {
    f"bridge.{name}"
    for name in ("records", "ledger", "allowance", "backoff", "partitioner", "errors", "seen")
}
PURE_FOLDERS = ("bridge.channels", "bridge.exchange", "bridge.books", "bridge.consumer")
IO_LIBRARIES = {"aiokafka", "websockets", "asyncio", "uvloop", "socket", "ssl", "threading"}

ARCHITECTURE = ROOT / "docs" / "architecture.md"
ITEMISED = ("bridge.exchange", "bridge.books", "bridge.websocket", "bridge.spool", "bridge.kafka")

MOST_PARAMETERS = 6
MOST_LINES = 350
EXCUSE = "Longer than 350 lines because"

Graph = Mapping[str, set[str]]


@cache
def sources() -> dict[str, Path]:
    """Return the file of each module of the project, by name; a package's is its `__init__.py`."""
    found = {}
    for path in sorted((ROOT / "bridge").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def tree(module: str) -> ast.Module:
    """Return the parsed source of a module."""
    return ast.parse(sources()[module].read_text())


@cache
def imports() -> Graph:
    """Return what each module of the project imports: modules of the project by name, others by package."""
    return {module: {_known(name) for name in _imported(module)} for module in sources()}


def _imported(module: str) -> Iterable[str]:
    """Return what a module imports: `from a import b` as "a.b"."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _known(name: str) -> str:
    """Return the module that an imported name refers to: itself, or the one that has it as an attribute."""
    while name.startswith("bridge.") and name not in sources():
        name = name.rpartition(".")[0]
    return name if name.startswith("bridge") else name.partition(".")[0]


def reached(modules: Iterable[str]) -> dict[str, str]:
    """Return all that these modules import, directly or through others, and how: "a > b > c"."""
    ways = {module: module for module in modules}
    left = list(ways)
    while left:
        module = left.pop()
        for name in imports().get(module, set()) - ways.keys():
            ways[name] = f"{ways[module]} > {name}"
            left.append(name)
    return ways


def room(module: str) -> str:
    """Return the folder of a module below `bridge`, or the module itself if it lies loose."""
    return ".".join(module.split(".")[:2])


def inside(folder: str) -> list[str]:
    """Return all modules of a folder."""
    return [module for module in sources() if room(module) == folder]


def is_pure(module: str) -> bool:
    """Return whether a module is one of those that may do no input or output."""
    return module in PURE_MODULES or room(module) in PURE_FOLDERS


def rooms() -> Graph:
    """Return which rooms each room imports."""
    graph: dict[str, set[str]] = {}
    for module, names in imports().items():
        others = {room(name) for name in names if name in sources()} - {room(module), "bridge"}
        graph.setdefault(room(module), set()).update(others)
    return graph


def assert_no_circle(graph: Graph) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" > ".join(error.args[1]))


@pytest.mark.parametrize("module", [one for one in sources() if is_pure(one)])
def test_a_pure_module_imports_only_pure_modules_of_the_project(module: str) -> None:
    assert not [way for name, way in reached([module]).items() if name in sources() and not is_pure(name)]


@pytest.mark.parametrize("module", [one for one in sources() if is_pure(one) or one in ALMOST_PURE])
def test_a_pure_module_reaches_no_library_that_does_input_or_output(module: str) -> None:
    assert not [way for name, way in reached([module]).items() if name in IO_LIBRARIES]


def test_the_plan_reads_nothing_but_the_configuration() -> None:
    allowed = {"bridge.plan", "bridge.config"}
    ways = reached(ALMOST_PURE)
    assert not [
        way
        for name, way in ways.items()
        if name in sources() and not is_pure(name) and room(name) not in allowed
    ]


def test_the_edges_to_the_exchange_and_to_kafka_do_not_know_each_other() -> None:
    edges = ("bridge.websocket", "bridge.kafka")
    for mine, other in (edges, edges[::-1]):
        assert not [way for name, way in reached(inside(mine)).items() if room(name) == other]


def test_the_edge_to_the_disk_does_not_know_kafka() -> None:
    assert not [way for name, way in reached(inside("bridge.spool")).items() if room(name) == "bridge.kafka"]


def test_no_circle_of_modules() -> None:
    assert_no_circle({module: names & sources().keys() - {module} for module, names in imports().items()})


def test_no_circle_of_folders() -> None:
    assert_no_circle(rooms())


@pytest.mark.parametrize("module", sources())
def test_a_constructor_takes_at_most_six_parameters(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "__init__":
            arguments = node.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            assert len(named) - 1 <= MOST_PARAMETERS, f"line {node.lineno}: {[one.arg for one in named]}"


@pytest.mark.parametrize("module", sources())
def test_a_module_of_more_than_350_lines_says_why(module: str) -> None:
    lines = len(sources()[module].read_text().splitlines())
    docstring = " ".join((ast.get_docstring(tree(module)) or "").split())
    assert lines <= MOST_LINES or re.search(EXCUSE, docstring), f"{lines} lines"


def documented() -> list[list[set[str]]]:
    """Return the rows of the table of modules in architecture.md: the names in each of its three cells.

    A file or folder is named as its room is: "bridge.plan", "bridge.kafka"; all others as they stand there.
    """
    chapter = ARCHITECTURE.read_text().partition("\n## Modules\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in chapter.splitlines() if line.startswith("| `")]
    return [[{_room_named(name) for name in re.findall("`([^`]+)`", cell)} for cell in row] for row in rows]


def _room_named(name: str) -> str:
    return re.sub(r"^(\w+)(?:/|\.py)$", r"bridge.\1", name)


def test_the_table_of_modules_names_each_room_once() -> None:
    named = [name for row in documented() for name in row[0]]
    assert sorted(named) == sorted(rooms().keys() - {"bridge", "bridge.__main__"})


@pytest.mark.parametrize("folder", ITEMISED)
def test_the_table_of_modules_names_what_is_in_a_folder(folder: str) -> None:
    (about,) = (row[1] for row in documented() if folder in row[0])
    assert {module.split(".")[2] for module in inside(folder) if module != folder} - about == set()


def test_the_table_of_modules_says_what_each_room_imports() -> None:
    first, *rows = documented()
    for named, _, imported in rows:
        if imported:
            found = set[str]().union(*(rooms()[name] for name in named)) - first[0] - named
            assert {name for name in imported if name.startswith("bridge.")} == found, f"{named}"
