"""docs/architecture.md against the code: the import rules, the layers in its pictures, the paths and names."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
OPERATOR, BRIDGE, SHARED = "intake_operator", "intake_bridge", "intake_shared"
SOURCES = {
    package: source
    for package, folder in ((OPERATOR, "operator"), (BRIDGE, "bridge"), (SHARED, "shared"))
    if (source := ROOT / folder / "src" / package).is_dir()
}

# What a module that decides may not reach, by whichever way: drivers, clients, loops, processes.
IO = {
    *("aiohttp", "asyncio", "http", "httpx", "kopf", "kubernetes", "psycopg", "psycopg_pool"),
    *("selectors", "socket", "subprocess", "threading", "urllib3"),
}
# SQL is where a string begins with a statement.
STATEMENT = re.compile(
    r"\s*(SELECT\s|WITH\s+\w+\s+AS|INSERT INTO\s|UPDATE\s+\S+\s+SET\s|DELETE FROM\s|LOCK TABLE\s|TRUNCATE\s"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|ROLE|FUNCTION|SCHEMA|EXTENSION|DATABASE)\s)"
)
SQL_MAY_STAND_IN = re.compile(
    r"intake_operator\.(database|ledger|inventory)\.|intake_bridge\.adapters\.|intake_shared\."
)


@cache
def modules() -> Mapping[str, Path]:
    """Every module of ours, by its name; a package is its `__init__`."""
    found = {}
    for source in SOURCES.values():
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str, *, in_functions: bool = True) -> frozenset[str]:
    """What a module imports: modules of ours by their name, of others the first part of it."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if in_functions else _outside_of_functions(tree)
    return frozenset(name for node in nodes for name in _imported(node))


def _imported(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=aliases):
            named = [alias.name for alias in aliases]
        case ast.ImportFrom(module=str(source), names=aliases, level=0):
            named = [f"{source}.{alias.name}" for alias in aliases]
        case ast.ImportFrom():
            raise AssertionError("a relative import")
        case _:
            return
    for name in named:
        yield name if name in modules() else _home(name)


def _home(name: str) -> str:
    """The module that a name is imported from."""
    source = name.rpartition(".")[0]
    return source if source in modules() else name.partition(".")[0]


def _outside_of_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _outside_of_functions(child)


def within(*rooms: str) -> list[str]:
    """The modules of these rooms: a module, or a package with all that is below it."""
    found = [module for module in modules() if any(module == room or module.startswith(f"{room}.") for room in rooms)]
    assert found, rooms
    return found


def reached(module: str) -> dict[str, str]:
    """All that a module imports, directly or not, each with the module that imports it."""
    found: dict[str, str] = {}
    todo = [module]
    while todo:
        here = todo.pop()
        for name in imports(here) - found.keys():
            found[name] = here
            if name in modules():
                todo.append(name)
    return found


def wrong(importers: Iterable[str], forbidden: Iterable[str]) -> set[tuple[str, str]]:
    """Imports of these rooms, or of what is below them, by these modules."""
    rooms = tuple(forbidden)
    return {
        (importer, name)
        for importer in importers
        for name in imports(importer)
        if any(name == room or name.startswith(f"{room}.") for room in rooms)
    }


def test_operator_and_bridge_do_not_import_each_other() -> None:
    assert wrong(within(OPERATOR), [BRIDGE]) == set()
    assert wrong(within(BRIDGE), [OPERATOR]) == set()


def test_what_both_share_imports_neither() -> None:
    shared = [module for module in modules() if module.partition(".")[0] == SHARED]
    assert wrong(shared, [OPERATOR, BRIDGE]) == set()


@pytest.mark.parametrize(
    "room", [f"{OPERATOR}.decide", f"{OPERATOR}.children", f"{OPERATOR}.model", f"{BRIDGE}.domain"]
)
def test_decisions_reach_no_io(room: str) -> None:
    found = {(module, name, by) for module in within(room) for name, by in reached(module).items() if name in IO}
    assert found == set()


def test_the_model_and_the_children_import_nothing_above_them() -> None:
    ground = {f"{OPERATOR}.{name}" for name in ("model", "names", "reasons")}
    for room, more in (("model", set()), ("children", {"children"}), ("decide", {"children", "decide"})):
        allowed = ground | {f"{OPERATOR}.{name}" for name in more}
        ours = {
            (module, name)
            for module in within(f"{OPERATOR}.{room}")
            for name in imports(module)
            if name.startswith(OPERATOR) and not any(name == room or name.startswith(f"{room}.") for room in allowed)
        }
        assert ours == set()


def test_only_the_watch_and_the_wiring_import_kopf_and_only_kube_imports_its_client() -> None:
    assert {module for module, _ in wrong(within(OPERATOR), ["kopf"])} == {f"{OPERATOR}.watch", f"{OPERATOR}.app"}
    others = set(within(OPERATOR)) - set(within(f"{OPERATOR}.kube"))
    assert wrong(others, ["kubernetes"]) == set()


def test_only_the_pass_and_the_wiring_import_observing_and_acting() -> None:
    others = set(within(OPERATOR)) - {f"{OPERATOR}.reconcile", f"{OPERATOR}.app"}
    assert wrong(others, [f"{OPERATOR}.observe", f"{OPERATOR}.act"]) == set()
    assert {module for module, _ in wrong(within(OPERATOR), [f"{OPERATOR}.app"])} == {f"{OPERATOR}.__main__"}


def test_the_command_imports_nothing_of_the_operator() -> None:
    command = within(f"{OPERATOR}.command")
    assert wrong(command, set(within(OPERATOR)) - {OPERATOR, *command}) == set()


def test_the_bridge_s_ports_import_only_its_domain() -> None:
    others = set(within(BRIDGE)) - {BRIDGE, *within(f"{BRIDGE}.domain")}
    assert wrong([f"{BRIDGE}.ports"], others) == set()
    assert wrong(within(f"{BRIDGE}.domain"), [f"{BRIDGE}.adapters", f"{BRIDGE}.observability"]) == set()


@pytest.mark.parametrize("package", SOURCES)
def test_there_is_no_circle_of_imports(package: str) -> None:
    # An import within a function is of something that may not be installed; it happens when all else has.
    graph = {module: imports(module, in_functions=False) & set(within(package)) for module in within(package)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(("heading", "package"), [("The operator:", OPERATOR), ("The bridge:", BRIDGE)])
def test_imports_keep_to_the_layers_of_the_picture(heading: str, package: str) -> None:
    layers = pictured(heading, package)
    apart = within(f"{OPERATOR}.command") if package == OPERATOR else []
    level: dict[str, int] = {}
    for module in within(package):
        if module == package or module in apart:
            continue
        rooms = [room for room in layers if module == room or module.startswith(f"{room}.")]
        assert rooms, f"docs/architecture.md does not say where {module} is"
        level[module] = layers[rooms[0]]
    upward = {
        (module, name) for module in level for name in imports(module) & level.keys() if level[name] < level[module]
    }
    assert upward == set()


def pictured(heading: str, package: str) -> dict[str, int]:
    """The rooms in the picture below a heading, with the number of their line."""
    (picture,) = re.findall(rf"^{heading}\n\n```\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    found: dict[str, int] = {}
    for number, line in enumerate(picture.splitlines()):
        for room in re.findall(r"(?:^|(?<=  ))([\w]+(?:\.py|/))(?=  |$)", line):
            module = f"{package}.{room.removesuffix('.py').rstrip('/')}"
            assert module in modules(), room
            found[module] = number
    assert found
    return found


def test_sql_stands_in_sql_files_and_in_the_rooms_that_speak_to_a_database() -> None:
    found = {module for module, path in modules().items() if any(statements(path))}
    assert {module for module in found if not SQL_MAY_STAND_IN.match(module)} == set()
    assert found, "the search finds SQL where it is"


def statements(path: Path) -> Iterator[str]:
    """The strings of a module that begin as SQL does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value):
            yield node.value


def files(text: str) -> Iterator[tuple[str, list[str]]]:
    """The paths in its pictures, and those in its prose with the names that they have: `path`: `name`, `name`."""
    for picture in re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from ((path, []) for path in re.findall(r"(?<![\w./])[\w/]+\.(?:py|sql)", picture))
    for path, names in re.findall(r"`([\w./-]+(?:\.(?:py|sql|md|yaml)|/))`(?:: ((?:`[^`]+`(?:, | and )?)+))?", text):
        yield path, re.findall(r"`([^`]+)`", names)


@pytest.mark.parametrize(("path", "names"), list(files(PAGE)), ids=str)
def test_the_page_names_what_is_there(path: str, names: list[str]) -> None:
    found = [place for base in (ROOT, SOURCES[OPERATOR], SOURCES[BRIDGE]) if (place := base / path).exists()]
    assert found, path
    for name in names:
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", found[0].read_text(encoding="utf-8")), name


def test_the_standard_library_is_no_module_of_ours() -> None:
    assert not {module.partition(".")[0] for module in modules()} & sys.stdlib_module_names
