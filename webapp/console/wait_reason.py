"""What keeps workers from jobs, in words, and the command that starts one which would take them.

What it is that keeps them is found in `webapp/insight/blockers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from webapp.core import labels
from webapp.insight.blockers import Obstacle
from webapp.lib.text import listed

START_COMMAND = "python3 manage.py worker start"


def start_command(queue: str = "", requires: str = "") -> str:
    """What starts a worker that has what is required, and serves this queue alone, or all.

    A host's label cannot be given: the command must be typed there, see `place`.
    """
    given = [label for label in labels.split(requires) if not label.startswith(labels.HOST)]
    words = [START_COMMAND, *(["--queue", queue] if queue else []), *(f"--label {label}" for label in given)]
    return " ".join(words)


def place(requires: str) -> str:
    """The host that is required, or ''."""
    return next((one[len(labels.HOST) :] for one in labels.split(requires) if one.startswith(labels.HOST)), "")


def takers(queue: str, requires: str) -> str:
    """Workers that may take these jobs, as a clause behind 'every worker that': 'serves mail and has gpu'."""
    host, others = place(requires), _but_hosts(labels.split(requires))
    return f"serves {queue}{f' on {host}' if host else ''}{f' and has {listed(others)}' if others else ''}"


def wanting(obstacle: Obstacle) -> str:
    """What nobody has, where the obstacle is 'unlabelled', behind 'asks for': 'the label gpu, which no worker has'."""
    host, required = place(obstacle.requires), _but_hosts(labels.split(obstacle.requires))
    serving = "" if _nobody_at_all(obstacle) else f" that serves {obstacle.queue}"
    who = f"no worker{serving}"
    if any(label.startswith(labels.HOST) for label in obstacle.missing):
        return f"the host {host}, on which {who} runs"
    missing = _but_hosts(obstacle.missing)
    if len(missing) > 1:
        return f"the labels {listed(missing)}, of which {who} has any"
    if missing:
        return f"the label {missing[0]}, which {who} has"
    named = f"the label{'s' if len(required) > 1 else ''} {listed(required)}{f' on the host {host}' if host else ''}"
    has = "has it" if len(required) == 1 else "has both" if len(required) == 2 else "has all of them"
    return f"{named}, and no worker{' there' if host else ''}{serving} {has}"


def _nobody_at_all(obstacle: Obstacle) -> bool:
    """Whether workers of other queues lack it as well."""
    others = [view.labels for view in obstacle.alive]
    if not obstacle.missing:
        return not any(labels.suffice(had, obstacle.requires) for had in others)
    return not any(label in had for had in others for label in obstacle.missing)


def _but_hosts(names: Sequence[str]) -> list[str]:
    return [name for name in names if not name.startswith(labels.HOST)]
