"""A process of the package as a program of its own, started by `worker/program.py`: chores, or without fork any."""

import json
import os
import sys
from typing import Any

# Replaces this script's folder: its modules are imported as `worker.…` only.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def _work(task: dict[str, Any]) -> int:
    import signal

    from webapp import config as configuration
    from webapp.lib.system import logs

    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # the supervisor handles these
    logs.set_up(**task["log"])
    config, parent = configuration.load(), sys.stdin.fileno()
    if task["role"] == "chores":
        from webapp.db.application import create_core
        from worker.maintenance import chores

        return chores.run(create_core(config, migrate=False), config, parent, retains=task["retains"])

    from webapp.core.storage.database import open_database
    from worker.messages import Assignment

    database = open_database(config, "worker")
    assignment = Assignment(**{**task["assignment"], "parent": parent})
    if task["role"] == "maintenance":
        from worker.maintenance import process as maintenance
        from worker.maintenance.scaling import Scaling

        return maintenance.run(database, parent, Scaling(assignment, sys.stdout.fileno()))
    from worker.loop import worker

    return worker.run(database, assignment)


def _main() -> None:
    from webapp.bootstrap.enter import prefer_locked_packages, undo_locale_coercion

    undo_locale_coercion()
    prefer_locked_packages(sys.path[0])
    from worker import messages

    task = json.loads(sys.argv[1])
    messages.run_child(task["name"], lambda: _work(task))


if __name__ == "__main__":
    _main()
