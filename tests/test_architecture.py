"""The floors of the packages, and which modules may change a job's state or open the database file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter

from webapp.config import CHECKOUT

# From the ground up. A package may import packages of lower floors. Packages in one tuple may import each other, but
# not in a circle.
FLOORS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("webapp.lib", "webapp.config", "webapp.bootstrap"),),
    (("webapp.core",),),
    (("webapp.db",),),
    (("webapp.jobs",),),
    (("webapp.accounts",), ("webapp.insight",), ("webapp.schedules",), ("worker",)),
    (("webapp.notifications",),),
    (("webapp.web",), ("worker.maintenance",)),
    (("webapp.console",), ("webapp.api",), ("webapp.admin",), ("worker.supervisor", "worker.__main__")),
    (("webapp", "webapp.server", "webapp.commands"),),
)
FLOOR_OF = {package: (floor, group) for floor, groups in enumerate(FLOORS, 1) for group in groups for package in group}
SOURCES = {
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("webapp", "worker")
    for path in sorted((CHECKOUT / folder).rglob("*.py"))
}


@cache  # not when the file is imported, which every process of a run does
def _trees() -> dict[str, ast.Module]:
    return {module: ast.parse(path.read_text()) for module, path in SOURCES.items()}


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, those inside functions included, but for `if TYPE_CHECKING` blocks."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _nodes(child)


def _imports(module: str) -> Iterator[str]:
    for node in _nodes(_trees()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in SOURCES else node.module for name in names)


def _floor(module: str) -> tuple[int, tuple[str, ...]]:
    while module not in FLOOR_OF:
        module = module.rpartition(".")[0]
    return FLOOR_OF[module]


def test_imports_only_go_down_the_floors() -> None:
    bad = [
        f"{module} (floor {_floor(module)[0]}) imports {name} (floor {_floor(name)[0]})"
        for module in SOURCES
        for name in set(_imports(module)) & set(SOURCES)
        if _floor(name)[1] != _floor(module)[1] and _floor(name)[0] >= _floor(module)[0]
    ]
    assert bad == []
    assert {"webapp.core.enqueue", "worker.loop.claims", "webapp.console.submit"} <= set(SOURCES)


def test_imports_make_no_circle() -> None:
    graph = {module: {name for name in _imports(module) if name in SOURCES and name != module} for module in SOURCES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_only_the_engines_import_a_sqlite_library() -> None:
    libraries = {"sqlite3", "pysqlite3"}
    assert [name for name in SOURCES if libraries & {one.partition(".")[0] for one in _imports(name)}] == []


def test_only_lifecycle_and_three_sql_texts_change_the_state_of_a_job() -> None:
    """An `update(Job)` that sets `state`, or a text that does, stands in these modules only."""
    found = set()
    for module, path in SOURCES.items():
        source = path.read_text()
        if "UPDATE jobs SET state" in source or ("update(Job)" in source and _sets_state(_trees()[module])):
            found.add(module)
    texts = {"worker.maintenance.recovery", "webapp.core.statements", "webapp.core.flow.dependencies"}
    assert found == {"webapp.jobs.lifecycle", *texts}


def _sets_state(tree: ast.AST) -> bool:
    """Whether a function that has `update(Job)` also has `state=` or `"state": …`."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and "update(Job)" in ast.unparse(function):
            nodes = list(ast.walk(function))
            keywords = {node.arg for node in nodes if isinstance(node, ast.keyword)}
            keys = {ast.unparse(key) for node in nodes if isinstance(node, ast.Dict) for key in node.keys if key}
            if "state" in keywords or "'state'" in keys:
                return True
    return False


def test_a_worker_process_never_loads_the_console() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from worker.supervisor import supervisor\n"
        "no = ('webapp.web', 'webapp.console', 'webapp.commands', 'webapp.api', 'flask_wtf')\n"
        "print([name for name in sys.modules if name.startswith(no)])"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(CHECKOUT)], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_every_module_has_a_docstring() -> None:
    silent = [module for module, tree in _trees().items() if not ast.get_docstring(tree)]
    assert [module for module in silent if not module.endswith(".versions")] == []


def test_files_and_functions_stay_small() -> None:
    assert [module for module, path in SOURCES.items() if len(path.read_text().splitlines()) > 400] == []
    long_functions = [
        f"{module}.{node.name}"
        for module, tree in _trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and (node.end_lineno or 0) - node.lineno >= 60
        and "migrations" not in module
    ]
    assert long_functions == []
