"""Runs commands of the product and kills them at their n-th write, with SIGKILL, before that is committed.

A program: it imports the product once, then reads one JSON object a line, {"argv", "environment", "kill_at"}, forks a
process that runs the command, and answers with {"code", "said", "writes"}. What is killed is a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))

import alembic.command  # noqa: F401 - all that a command needs, so that a fork of this is ready
import psycopg  # noqa: F401
from sqlalchemy import Engine, event

from webapp.admin import move as moving  # noqa: F401
from webapp.admin.move import copying
from webapp.commands import main
from webapp.commands.admin import move  # noqa: F401
from webapp.insight import rollups  # noqa: F401
from webapp.jobs import (
    actions,  # noqa: F401
    canary,  # noqa: F401
)
from worker.maintenance import process as maintenance  # noqa: F401

copying.ROWS = 40  # so that some tables go in several batches
WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "SELECT setval")


def _count(kill_at: Optional[int], told: int) -> None:
    """Tell of each commit of a transaction that wrote something; be killed before the one that is asked for."""
    number = 0

    @event.listens_for(Engine, "before_cursor_execute")
    def notice(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(WRITES):
            connection.info["wrote"] = True

    @event.listens_for(Engine, "commit")
    def commit(connection: Any) -> None:
        nonlocal number
        if connection.info.pop("wrote", False):
            number += 1
            if number == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(told, b".")


def _run(order: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        pid = os.fork()
        if pid == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os.environ.clear()
            os.environ.update(order["environment"])
            code = 70
            try:
                _count(order["kill_at"], told.fileno())
                code = main(order["argv"])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "said": said.read().decode(),
            "writes": os.fstat(told.fileno()).st_size,
        }


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line))) + "\n")
        sys.stdout.flush()
