"""One child of a supervisor as a program of its own, where there is no fork: `worker/supervisor/spawning.py` starts it.

The script's folder must not stay on the path: what lies in it is imported as `worker.…` only.
"""

import json
import os
import sys
from typing import Any

sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def _work(task: dict[str, Any]) -> int:
    import signal

    from webapp import config as configuration
    from webapp.db.application import create_core
    from webapp.lib import logs
    from worker.assignment import Assignment
    from worker.loop import worker as loop
    from worker.maintenance import process as maintenance
    from worker.maintenance import scaling

    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # the supervisor's affair; it tells through the pipe
    logs.set_up(task["log_level"])
    config = configuration.load()
    app = create_core(config, migrate=False)
    supervisor = sys.stdin.fileno()
    assignment = Assignment(**{**task["assignment"], "parent": supervisor})
    if task["role"] == "keeper":
        return maintenance.run(app, supervisor, scaling.Scaling(assignment, sys.stdout.fileno()))
    return loop.run(app, config, assignment)


def _main() -> None:
    from webapp.bootstrap.enter import prefer_locked_packages

    prefer_locked_packages(sys.path[0])
    from worker import messages

    task = json.loads(sys.argv[1])
    messages.live(task["name"], lambda: _work(task))


if __name__ == "__main__":
    _main()
