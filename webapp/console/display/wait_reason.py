"""Texts about why jobs wait for workers, and the command that starts a matching worker.

`webapp/insight/blockers.py` finds the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from webapp.core import labels
from webapp.insight.blockers import Obstacle
from webapp.lib.text import listed

START_COMMAND = "python3 manage.py worker start"


def start_command(queue: str = "", requires: str = "") -> str:
    """The command that starts a worker with these labels, for this queue or for all.

    It leaves out a host label, because the command must run on that host: see `place`.
    """
    given = [label for label in labels.split(requires) if not label.startswith(labels.HOST)]
    words = [START_COMMAND, *(["--queue", queue] if queue else []), *(f"--label {label}" for label in given)]
    return " ".join(words)


def place(requires: str) -> str:
    """The required host, or ''."""
    return next((one[len(labels.HOST) :] for one in labels.split(requires) if one.startswith(labels.HOST)), "")


def takers(queue: str, requires: str) -> str:
    """A clause after 'all workers that': 'serve mail and have gpu'."""
    host, others = place(requires), _but_hosts(labels.split(requires))
    return f"serve {queue}{f' on {host}' if host else ''}{f' and have {listed(others)}' if others else ''}"


def wanting(obstacle: Obstacle) -> str:
    """The missing worker of an 'unlabelled' obstacle, after 'needs' or 'waiting for': 'a worker with label gpu'."""
    host, required = place(obstacle.requires), _but_hosts(labels.split(obstacle.requires))
    serving = "" if _no_worker_at_all(obstacle) else f" that serves {obstacle.queue}"
    if any(label.startswith(labels.HOST) for label in obstacle.missing):
        return f"a worker on {host}{serving}"
    missing = _but_hosts(obstacle.missing)
    names = missing or required
    one = "a" if missing or len(required) == 1 else "one"  # else each label exists, but not on one worker
    where = f" on {host}" if host and not missing else ""
    return f"{one} worker with label{'s' if len(names) > 1 else ''} {listed(names)}{where}{serving}"


def _no_worker_at_all(obstacle: Obstacle) -> bool:
    """Whether no worker of another queue matches either."""
    others = [view.labels for view in obstacle.alive]
    if not obstacle.missing:
        return not any(labels.suffice(had, obstacle.requires) for had in others)
    return not any(label in had for had in others for label in obstacle.missing)


def _but_hosts(names: Sequence[str]) -> list[str]:
    return [name for name in names if not name.startswith(labels.HOST)]
