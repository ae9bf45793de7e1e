"""Starts a process of the package `worker` as a program of its own, `worker/__main__.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from webapp.config import Config
from webapp.lib.system import logs

ENTRY = Path(__file__).with_name("__main__.py")
# A group of its own keeps Ctrl-C away from a child, as a session does on POSIX.
_FLAGS: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


def start(config: Config, task: Mapping[str, Any], *, stdout: Optional[int] = None) -> subprocess.Popen[bytes]:
    """Start a process for this task, whose `role` is worker, maintenance or chores. Its stdin is a pipe."""
    environment = {  # an empty value overrides `.env`
        **os.environ,
        "QUEUECTL_HOME": str(config.home),
        "QUEUECTL_DATABASE_URL": config.database_url or "",
        "QUEUECTL_PUBLIC_URL": config.public_url or "",
    }
    whole = {**task, "log": logs.options()}
    return subprocess.Popen(
        [sys.executable, str(ENTRY), json.dumps(whole)],
        stdin=subprocess.PIPE,
        stdout=stdout,
        bufsize=0,
        env=environment,
        start_new_session=True,  # for POSIX, as the flags are for Windows
        creationflags=_FLAGS,
    )
