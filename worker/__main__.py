"""A supervisor's child as a program of its own, started by `worker/supervisor/spawning.py` where there is no fork."""

import json
import os
import sys
from typing import Any

# Replaces this script's folder: its modules are imported as `worker.…` only.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def _work(task: dict[str, Any]) -> int:
    import signal

    from webapp import config as configuration
    from webapp.db.application import create_core
    from webapp.lib import logs
    from worker.loop import worker as loop
    from worker.maintenance import process as maintenance
    from worker.maintenance.scaling import Scaling
    from worker.messages import Assignment

    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # the supervisor handles these
    logs.set_up(task["log_level"])
    config = configuration.load()
    app = create_core(config, migrate=False)
    supervisor = sys.stdin.fileno()
    assignment = Assignment(**{**task["assignment"], "parent": supervisor})
    if task["role"] == "maintenance":
        return maintenance.run(app, supervisor, Scaling(assignment, sys.stdout.fileno()))
    return loop.run(app, config, assignment)


def _main() -> None:
    from webapp.bootstrap.enter import prefer_locked_packages

    prefer_locked_packages(sys.path[0])
    from worker import messages

    task = json.loads(sys.argv[1])
    messages.run_child(task["name"], lambda: _work(task))


if __name__ == "__main__":
    _main()
