"""Finds a queuectl on this machine that serves another queue, for users who look at an empty one by mistake."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from webapp import config as configuration
from webapp.config import Config

if TYPE_CHECKING:
    from psutil import Process

SERVING = (["up"], ["worker", "start"])  # the commands that start workers


def hint(config: Config) -> Optional[str]:
    """A sentence for a user of the default queue if only another queue on this machine has workers, else None."""
    if not configuration.is_default(config) or _had_workers():
        return None
    for process in _supervisors():
        home = _home_of(process)
        if home != config.home:
            where = f" with QUEUECTL_HOME={home}" if home else ""
            how = "Run `queuectl` instead of manage.py" if shutil.which("queuectl") else "See docs/deployment.md"
            return (
                f"this queue is in {config.home} and has no workers. Another queue has: user "
                f"{process.info['username']} runs queuectl here{where} (pid {process.pid}). {how} to use that one."
            )
    return None


def _had_workers() -> bool:
    from sqlalchemy import select

    from webapp.db.engines import reading
    from webapp.db.models import Worker

    with reading() as session:
        return session.scalar(select(Worker.id).limit(1)) is not None


def _supervisors() -> list[Process]:
    """The processes that run `manage.py up` or `manage.py worker start`, without their forks."""
    import psutil

    found = {}
    for process in psutil.process_iter(["cmdline", "ppid", "username"]):
        words = process.info["cmdline"] or []
        at = next((number for number, word in enumerate(words) if Path(word).name == "manage.py"), len(words))
        if any(words[at + 1 : at + 1 + len(serving)] == serving for serving in SERVING):
            found[process.pid] = process
    return [process for process in found.values() if process.info["ppid"] not in found]


def _home_of(process: Process) -> Optional[Path]:
    """The home folder of its queue; None if another user's process does not tell, or if it is on another database."""
    import psutil

    try:
        values = process.environ()
    except psutil.Error:
        return None
    if values.get("QUEUECTL_DATABASE_URL"):
        return None
    home = values.get("QUEUECTL_HOME") or os.path.join(values.get("HOME", ""), ".queuectl")
    return Path(home)
