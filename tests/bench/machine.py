"""The machine: enough to judge a figure, and nothing that identifies its owner."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from webapp.admin.doctor import file_system_of
from webapp.core.storage import sqlite
from webapp.lib.version import __version__


def describe(folder: Path) -> dict[str, Any]:
    return {
        "queuectl": __version__,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "sqlite": f"{sqlite.library.sqlite_version} ({sqlite.library.__name__.split('.')[0]})",
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('-')[0].split('.')[:2])}",
        "file_system": file_system_of(folder),
    }
