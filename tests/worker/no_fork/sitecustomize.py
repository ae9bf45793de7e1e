"""Removes from Python on Linux what Windows does not have, as far as the libraries allow.

Tests put this folder on PYTHONPATH; every Python that starts under it imports this file first. `os.name` and
`sys.platform` stay as they are: psutil and subprocess must go on using Linux.
"""

import os
import select
import signal
import stat
import sys
from typing import Any

for name in ("fcntl", "grp", "termios"):
    sys.modules[name] = None  # type: ignore[assignment]

for module, names in (
    (os, "fork forkpty getpgid getsid killpg mkfifo posix_spawn posix_spawnp pread register_at_fork set_blocking"),
    (os, "setpgid setsid uname wait wait3 wait4 O_CLOEXEC O_NONBLOCK"),
    (select, "epoll poll"),
    (signal, "SIGALRM SIGCHLD SIGHUP SIGPIPE SIGTSTP SIGUSR1 SIGUSR2 SIGXFSZ"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)


class _SocketsOnly:
    """An object and not a function, because `selectors` makes an attribute of its class of it."""

    def __init__(self, select_: Any) -> None:
        self._select = select_

    def __call__(self, *arguments: Any) -> Any:
        for one in (one for some in arguments[:3] for one in some):
            if not stat.S_ISSOCK(os.fstat(one if isinstance(one, int) else one.fileno()).st_mode):
                raise OSError(10038, "An operation was attempted on something that is not a socket")
        return self._select(*arguments)


select.select = _SocketsOnly(select.select)
