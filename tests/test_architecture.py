"""The house as design says: who may import whom, who may touch a state, who may open the database file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from webapp.config import CHECKOUT

SOURCES = sorted(path for folder in ("webapp", "worker") for path in (CHECKOUT / folder).rglob("*.py"))


def _imports(path: Path, *, everywhere: bool = False) -> Iterator[str]:
    """The modules that a file imports: at its top level, outside `if TYPE_CHECKING`, or everywhere in it."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree)) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def _within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_imports_only_go_downstairs(path: Path) -> None:
    name = _name(path)
    # A worker's files are for workers: who only imports `worker` inside a function is not held up by it.
    found = set(_imports(path))
    if name.startswith("worker/"):
        core = (
            "alike",
            "backoff",
            "bulk",
            "canaries",
            "clock",
            "config",
            "db",
            "doorbell",
            "elsewhere",
            "labels",
            "lanes",
            "locks",
            "models",
            "lifecycle",
            "migrations",
            "notifying",
            "rollups",
            "sessions",
            "settings",
            "throttle",
            "story",
            "operations",
            "postgresql",
            "trouble",
        )
        allowed = {"webapp", *(f"webapp.{module}" for module in core), "webapp.__version__", "webapp.create_core"}
        ours = {module for module in found if _within(module, "webapp")}
        bad = {module for module in ours if module not in allowed and not _within(module, *(allowed - {"webapp"}))}
        assert not bad
    elif not name.startswith("webapp/commands/"):
        assert not {module for module in found if _within(module, "worker")}
    if name.startswith("webapp/api/"):
        assert not {module for module in found if _within(module, "webapp.console", "webapp.commands")}
    if name.startswith("webapp/") and not name.startswith(("webapp/console/", "webapp/commands/", "webapp/api/")):
        upstairs = ("webapp.console", "webapp.commands", "webapp.api")
        assert not {module for module in found if _within(module, *upstairs)}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "db.py"], ids=_name)
def test_only_db_py_knows_a_sqlite_library(path: Path) -> None:
    assert not {module for module in _imports(path, everywhere=True) if _within(module, "sqlite3", "pysqlite3")}


def test_every_source_was_looked_at() -> None:
    assert {"webapp/db/engines.py", "webapp/jobs/lifecycle.py", "worker/loop/claims.py"} <= {
        _name(path) for path in SOURCES
    }


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_only_lifecycle_and_the_workers_statements_change_a_jobs_state(path: Path) -> None:
    """An update of Job that sets `state`, or an SQL text that does, stands in three files only."""
    may = {"webapp/jobs/lifecycle.py", "worker/maintenance/recovery.py", "webapp/core/statements.py"}
    source = path.read_text()
    updates = "update(Job)" in source and ('"state"' in source or "state=" in source)
    texts = "UPDATE jobs SET state" in source
    if _name(path) in may:
        assert updates or texts
    elif texts:
        pytest.fail("an SQL text changes a job's state")
    else:
        assert "update(Job)" not in source or not _sets_state(path)


def _sets_state(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values":
            of_job = "update(Job)" in ast.unparse(node.func)
            if of_job and any(keyword.arg == "state" for keyword in node.keywords):
                return True
    return False


def test_a_worker_process_never_loads_the_console() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from worker import supervisor, loop, keeper\n"
        "no = ('webapp.console', 'webapp.commands', 'webapp.api', 'flask_wtf', 'flask_login', 'flask_smorest')\n"
        "print([name for name in sys.modules if name.startswith(no)])"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(CHECKOUT)], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_every_module_says_what_lives_in_it() -> None:
    silent = [_name(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert [name for name in silent if not name.endswith("versions/__init__.py")] == []
