"""`deploy/queuectl`: the command line beside a service. A stand-in plays systemd 252."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Processes, Result
from tests.commands.test_up import read_until
from tests.users import NO_MANAGER, folder_of, needs_root, uid_of
from webapp.commands.shared import elsewhere
from webapp.config import CHECKOUT

SYSTEMCTL = r"""#!/bin/sh
# show UNIT --property NAME --value
[ "$2" = "${TEST_UNIT-queuectl}" ] || { [ "$4" != LoadState ] || echo not-found; exit 0; }
case $4 in
LoadState) echo loaded ;;
User) echo "$TEST_USER" ;;
Environment) printf '%s\n' "$TEST_ENVIRONMENT" ;;
EnvironmentFiles) printf '%s\n' "$TEST_FILE (ignore_errors=no)" "/missing/file (ignore_errors=yes)" ;;
ExecStart) echo "{ path=/bin/sh ; argv[]=/bin/sh $TEST_CHECKOUT/manage.py up --port 8000 ; ignore_errors=no }" ;;
esac
"""
# What systemd prints for: Environment="ODD=it's a $HOME `x`; \"q\" & |"
ODD = r""" "ODD=it's a \$HOME \`x\`; \"q\" & |" PLAIN=1"""
MANAGE = 'echo "user $(id -un)"; env; for one in "$@"; do echo "argument $one"; done; exit 7\n'


class Machine:
    """A machine with a service, and stand-ins for manage.py and `sudo` that print their arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bin", "deploy"):
            (folder / name).mkdir()
            (folder / name).chmod(0o755)
        (folder / "manage.py").write_text(MANAGE)
        self.launcher = folder / "deploy" / "queuectl"
        self.launcher.write_bytes((CHECKOUT / "deploy" / "queuectl").read_bytes())
        self.settings = folder / "queuectl.env"
        self.settings.write_text("# ours\n\nQUEUECTL_DATABASE_URL='postgresql://q:p w@db/q'\n  DOUBLE=\"a b\"\nlast=1")
        self.settings.chmod(0o600)
        for name, text in (
            ("systemctl", SYSTEMCTL),
            ("sudo", '#!/bin/sh\necho "sudo $@"\n'),
            ("python3", '#!/bin/sh\nexec /bin/sh "$@"\n'),
        ):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for file in (folder / "manage.py", self.launcher):
            file.chmod(0o755)

    def run(self, *argv: str, user: Any = None, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",  # of cron
            "TEST_USER": NO_MANAGER,
            "TEST_ENVIRONMENT": f"QUEUECTL_HOME={self.folder}{ODD}",
            "TEST_FILE": str(self.settings),
            "TEST_CHECKOUT": str(self.folder),
            **environment,
        }
        return subprocess.run(
            [str(self.launcher), *argv], capture_output=True, text=True, env=given, cwd="/", user=user, check=False
        )


@pytest.fixture
def machine() -> Iterator[Machine]:
    with folder_of(NO_MANAGER) as folder:
        (folder.parent / "opt").mkdir()
        (folder.parent / "opt").chmod(0o755)
        yield Machine(folder.parent / "opt")


@needs_root
def test_root_gets_the_user_settings_and_passwords_of_the_service(machine: Machine) -> None:
    done = machine.run("enqueue", "--command", "echo 'a  b'; $HOME", LOGNAME="root", SUDO_USER="ana", HOME="/root")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (7, "")
    assert f"user {NO_MANAGER}" in lines
    assert f"QUEUECTL_HOME={machine.folder}" in lines
    assert """ODD=it's a $HOME `x`; "q" & |""" in lines
    assert {"PLAIN=1", "DOUBLE=a b", "last=1", "QUEUECTL_DATABASE_URL=postgresql://q:p w@db/q"} <= set(lines)
    assert "LOGNAME=ana" in lines  # for the audit trail
    assert f"HOME={pwd.getpwnam(NO_MANAGER).pw_dir}" in lines
    assert lines[-3:] == ["argument enqueue", "argument --command", "argument echo 'a  b'; $HOME"]


@needs_root
def test_other_users_need_sudo_only_for_settings_of_root(machine: Machine) -> None:
    sudo = f"sudo -- env QUEUECTL_UNIT=queuectl {machine.launcher} status -v\n"
    assert machine.run("status", "-v", user="daemon").stdout == sudo
    assert machine.run("status", "-v", user=NO_MANAGER).stdout == sudo
    os.chown(machine.settings, uid_of(NO_MANAGER), 0)
    assert f"user {NO_MANAGER}\n" in machine.run("status", user=NO_MANAGER).stdout


@needs_root
def test_a_job_uses_its_own_environment(machine: Machine) -> None:
    done = machine.run("enqueue", user=NO_MANAGER, QUEUECTL_JOB_ID="job1", QUEUECTL_HOME="/of/the/job")
    assert f"user {NO_MANAGER}\n" in done.stdout
    assert "QUEUECTL_HOME=/of/the/job\n" in done.stdout


@needs_root
def test_another_unit_is_found_by_its_name_or_refused(machine: Machine) -> None:
    assert f"user {NO_MANAGER}\n" in machine.run("status", TEST_UNIT="queuectl-worker").stdout
    assert f"user {NO_MANAGER}\n" in machine.run("status", TEST_UNIT="mail", QUEUECTL_UNIT="mail").stdout
    refused = machine.run("status", QUEUECTL_UNIT="mail")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "there is no systemd unit mail" in refused.stderr


@needs_root
def test_without_a_service_it_runs_manage_py_of_its_checkout(machine: Machine, tmp_path: Path) -> None:
    (machine.folder / "bin" / "queuectl").symlink_to(machine.launcher)
    machine.launcher = machine.folder / "bin" / "queuectl"
    done = machine.run("status", user="daemon", TEST_UNIT="none")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (7, "argument status")
    assert "user daemon\n" in done.stdout


# --- without the launcher ---


def test_an_empty_own_queue_mentions_the_queue_of_the_service(processes: Processes, tmp_path: Path) -> None:
    up = processes.start("up", "--port", "0", "--workers", "1")
    read_until(up, "Ctrl-C stops everything")
    [found] = [one for one in elsewhere._supervisors() if one.pid == up.pid]
    assert str(elsewhere._home_of(found)) == os.environ["QUEUECTL_HOME"]

    def run(*argv: str) -> Result:
        return processes.run(*argv, HOME=str(tmp_path), QUEUECTL_HOME="")

    enqueued = run("enqueue", "--command", "true")
    note = f"Note: this queue is in {tmp_path}/.queuectl and has no workers. Another queue has: user "
    assert (enqueued.code, enqueued.err.startswith(note)) == (0, True), enqueued.err
    assert note in run("status", "--json").err
    assert "Note:" not in processes.run("status", "--json").err
