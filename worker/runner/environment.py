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
from webapp.config import (
    ADDRESS,
    ADDRESS_FILE,
    ALLOW_PRIVATE_TARGETS,
    CHECKOUT,
    HOME,
    MAIL_FROM,
    PUBLIC_URL,
    SMTP_URL,
    Config,
)
from webapp.core import trace_context
from webapp.lib import postgres_dsn
from webapp.lib.system import sd_notify

_NOT_FOR_JOBS = {*sd_notify.VARIABLES, *trace_context.VARIABLES}


def of_jobs(config: Config) -> dict[str, str]:
    """The variables of every job. Its own, and those of its claim, are added to these and replace them."""
    given = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("QUEUECTL_") and name not in _NOT_FOR_JOBS
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
            found[ADDRESS] = _in_memory(url)
    return found


def of_system_jobs(config: Config) -> dict[str, str]:
    """What jobs of SYSTEM_QUEUE get too: how to start `manage.py`, and what sends their messages."""
    smtp = config.smtp_url or ""
    if "@" in smtp:
        with suppress(OSError, AttributeError):  # not on Linux, but these jobs run our own program only
            smtp = _in_memory(smtp)
    return {
        "QUEUECTL_PYTHON": sys.executable,
        "QUEUECTL_MANAGE": str(CHECKOUT / "manage.py"),
        SMTP_URL: smtp,  # also if empty: that overrides .env, which may have changed since the worker's start
        MAIL_FROM: config.mail_from or "",
        PUBLIC_URL: config.public_url or "",
        ALLOW_PRIVATE_TARGETS: "1" if config.allow_private_targets else "0",
    }


def _in_memory(secret: str) -> str:
    """The address of a file in memory with this text. Raises OSError, and AttributeError where there are none."""
    file = os.memfd_create("queuectl-address")  # never closed: it is open while this process lives
    os.fchmod(file, 0o600)
    os.write(file, secret.encode())
    return f"{ADDRESS_FILE}/proc/{os.getpid()}/fd/{file}"
