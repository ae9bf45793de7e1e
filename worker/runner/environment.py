"""What every job of a worker finds in its environment: that of the worker's start, and the way back to this queue.

A command may call `manage.py` itself. It gets the home, the virtual environment and the database address of its
worker, so that this reaches the same queue. `webapp/config.py` refuses to guess inside a job. No password is in a
variable: an address that has one is in a file in memory, which has no name on any disk and ends with the worker.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from webapp.bootstrap.enter import PYTHON_HOME
from webapp.config import ADDRESS, ADDRESS_FILE, HOME, Config
from webapp.lib import postgres_dsn, sd_notify


def of_jobs(config: Config) -> dict[str, str]:
    """The variables of every job. Its own, and those of its claim, are added to these and replace them."""
    given = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("QUEUECTL_") and name not in sd_notify.VARIABLES
    }
    if PYTHON_HOME in os.environ:
        given["PYTHONHOME"] = os.environ[PYTHON_HOME]
    # A Python program that writes to a pipe keeps up to 8 KiB back, and loses them when it is killed.
    return {"PYTHONUNBUFFERED": "1", **given, **_of_queue(config)}


def _of_queue(config: Config) -> dict[str, str]:
    found = {HOME: str(config.home)}
    if "QUEUECTL_VENV" in os.environ:
        found["QUEUECTL_VENV"] = sys.prefix  # an absolute path, whatever a job's own HOME is
    url = (config.database_url or "").replace("postgresql+psycopg:", "postgresql:", 1)
    if config.is_sqlite or not postgres_dsn.has_secret(url):
        found[ADDRESS] = url  # also if empty: that overrides .env
    else:
        # Without a file in memory (not on Linux) the variable is missing, and a nested manage.py says what to do.
        with suppress(OSError, AttributeError):
            file = os.memfd_create("queuectl-address")  # never closed: it is open while this process lives
            os.fchmod(file, 0o600)
            os.write(file, url.encode())
            found[ADDRESS] = f"{ADDRESS_FILE}/proc/{os.getpid()}/fd/{file}"
    return found
