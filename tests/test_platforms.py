"""Every module can be imported without fork and POSIX signals. Tests in `worker/` run such processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from webapp.config import CHECKOUT

pytestmark = pytest.mark.every_python

# Twice: the first time for the libraries, which look for their platform as they are imported, and the second time for
# ours alone, on what Windows has.
_IMPORT_ALL = r"""
import importlib, os, pathlib, re, signal, sys
checkout = pathlib.Path(sys.argv[1])
sys.path[0] = str(checkout)
names = sorted(
    ".".join(path.relative_to(checkout).with_suffix("").parts).replace(".__init__", "")
    for folder in ("webapp", "worker") for path in (checkout / folder).rglob("*.py")
    if "versions" not in path.parts and path.name != "env.py"  # Alembic alone can load these
    and path.name not in ("gunicorn_app.py", "waitress_app.py")  # each platform has one of them
)
def import_all():
    for name in names:
        importlib.import_module(name)
argv, sys.argv = sys.argv, ["-"]
import_all()
for name in [name for name in sys.modules if name.partition(".")[0] in ("webapp", "worker")]:
    del sys.modules[name]
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog", "gunicorn"):
    sys.modules[name] = None
wanted = "SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN"
for name in [name for name in dir(signal) if re.match("SIG[A-Z]|SIG_", name) and name not in wanted.split()]:
    delattr(signal, name)
for name in dir(os):
    if re.match("fork|posix_|wait[34]?$|WNOHANG|W[A-Z]+SIG|WIF|get.?[ug]id|set.?[ug]id|getpg|setpg|getsid|setsid|kill"
                "pg|uname|pread|pwrite|register_at|set_blocking|mkfifo|O_CLOEXEC|O_NON|POSIX_|sysconf|sched_", name):
        delattr(os, name)
sys.platform = "win32"
import_all()
from worker import processes
assert not processes.FORKS
print(len(names))
"""


def test_every_module_can_be_imported_without_fork_and_posix_signals() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, str(CHECKOUT)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 60
