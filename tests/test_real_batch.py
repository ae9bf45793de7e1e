"""Real batches through the CLI: commands end as under `sh -c`, and 500 commands over the files of this system."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest

from tests.deadline import LIMIT
from tests.real_commands import COMMANDS, SCRIPTS
from webapp.config import CHECKOUT, Config
from webapp.db.application import create_core
from webapp.db.engines import reading
from webapp.jobs import job_detail

SIZE = 500
PLACES = ("/usr/share/doc", "/usr/share/perl5", "/usr/lib/python3", "/etc", "/usr/share")
WORD = b"License"


def _files() -> list[Path]:
    """Enough readable files of this system, the same for every run on it."""
    found: list[Path] = []
    for place in PLACES:
        for path in sorted(Path(place).rglob("*")):
            if len(found) == SIZE:
                return found
            if path.is_file() and not path.is_symlink() and 0 < path.stat().st_size < 200_000 and path not in found:
                found.append(path)
    return found


def _job(number: int, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job over one file, and what must come of it."""
    file, data = shlex.quote(str(path)), path.read_bytes()
    job: dict[str, Any] = {
        "id": f"batch-{number}",
        "max_retries": number % 2,
        "queue": ("sums", "zips", "greps")[number % 3],
    }
    if number % 3 == 0:
        job["command"] = f"sha256sum < {file}"
        return job, {"state": "completed", "stdout": f"{hashlib.sha256(data).hexdigest()}  -\n", "exit_code": 0}
    if number % 3 == 1:
        job["command"] = f"gzip -c {file} | gzip -dc | cksum"
        return job, {"state": "completed", "stdout": f"{_cksum(data)} {len(data)}\n", "exit_code": 0}
    lines = sum(WORD in line for line in data.split(b"\n"))
    job["command"] = f"LC_ALL=C grep -a -c {WORD.decode()} {file}"
    if lines:
        return job, {"state": "completed", "stdout": f"{lines}\n", "exit_code": 0}
    return job, {"state": "dead", "stdout": "0\n", "exit_code": 1}


def _cksum(data: bytes) -> int:
    """POSIX cksum: CRC-32 by its generator, most significant bit first, with the length behind the data."""
    length, size = b"", len(data)
    while size:
        length += bytes([size & 0xFF])
        size >>= 8
    # zlib's CRC is the same polynomial with all bits mirrored, begun and ended with ones.
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data + length)
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2) ^ 0xFFFFFFFF


def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECKOUT / "manage.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.mark.full
def test_five_hundred_commands_over_real_files_end_as_expected(home: Path, tmp_path: Path) -> None:
    files = _files()
    assert len(files) == SIZE
    work = [_job(number, path) for number, path in enumerate(files)]
    expected = {job["id"]: outcome for job, outcome in work}
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job, _ in work))
    assert manage("config", "set", "backoff_base", "1").returncode == 0
    submitted = manage("enqueue", "--file", str(tmp_path / "jobs.jsonl"))
    assert submitted.stdout.split() == [job["id"] for job, _ in work], submitted.stderr
    drained = manage("worker", "start", "--count", "3", "--drain")
    assert drained.returncode == 0, drained.stderr

    jobs = {job["id"]: job for job in json.loads(manage("list", "--json", "--limit", "1000").stdout)}
    assert {id_: (job["state"], job["exit_code"]) for id_, job in jobs.items()} == {
        id_: (outcome["state"], outcome["exit_code"]) for id_, outcome in expected.items()
    }
    dead = [id_ for id_, outcome in expected.items() if outcome["state"] == "dead"]
    assert 0 < len(dead) < SIZE
    assert {job["id"] for job in json.loads(manage("dlq", "list", "--json").stdout)} <= set(dead)
    with create_core(Config(home=home, database_url=None, public_url=None)).app_context(), reading() as session:
        for id_, outcome in expected.items():
            job = job_detail.find(session, id_)
            assert job is not None
            attempts = job_detail.attempts(session, job, with_output=True)
            retries = (job.max_retries or 0) if outcome["state"] == "dead" else 0
            assert [attempt.number for attempt in attempts] == list(range(1, retries + 2))
            assert {attempt.output.decode() for attempt in attempts} == {outcome["stdout"]}
    shown = json.loads(manage("show", dead[0], "--json").stdout)["attempt_history"][-1]
    assert (shown["exit_code"], shown["stdout"], shown["truncated"]) == (1, "0\n", False)


# --- as under sh -c ---

ENV = {"GREETING": "good day, 世界", "TRICKY": " a=b 'c' \"d\" $e \\f\nnext ", "word": "theirs"}
# A job of ours finds no LANG, as under a service manager; it must not get what Python makes of that.
BASE = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LOGNAME": "batch"}


class Ended(NamedTuple):
    """`status` as of subprocess: the exit code, or the negative number of the signal."""

    stdout: bytes
    stderr: bytes
    status: Optional[int]


class Work(NamedTuple):
    id: str
    command: str
    argv: Sequence[str]  # what it is compared with
    cwd: Optional[str] = None


def _work(folder: Path) -> list[Work]:
    folder.mkdir()
    work = [Work(f"sh-{n}", command, ["/bin/sh", "-c", "--", command]) for n, command in enumerate(COMMANDS)]
    work += [
        one._replace(id=f"{one.id}-in-usr", cwd="/usr") for one in work if "env" in one.command or "$" in one.command
    ]
    for n, command in enumerate(SCRIPTS):
        file = folder / str(n)
        file.write_text(command)
        file.chmod(0o700)
        work.append(Work(f"script-{n}", command, [str(file)]))
        work.append(Work(f"script-{n}-in-usr", f"\n\n{command}", [str(file)], "/usr"))
    return work


def _run(one: Work, environment: dict[str, str]) -> Ended:
    """As `sh -c` runs it for a service manager: no terminal, no input, a session of its own."""
    cwd = one.cwd or environment["PWD"]
    variables = {**environment, **ENV, "PWD": cwd}
    done = subprocess.run(
        one.argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=cwd,
        env=variables,
        start_new_session=True,
        check=False,
        timeout=LIMIT,
    )
    return Ended(done.stdout, _without_path(one, done.stderr), done.returncode)


def _without_path(one: Work, stderr: bytes) -> bytes:
    """The shell's name in messages is the same; that of a script is another file."""
    return re.sub(rb"/\S+/(files|scripts)/[^\s:]+", b"SCRIPT", stderr) if len(one.argv) == 1 else stderr


@pytest.mark.only("sqlite")  # a database changes nothing of what a command sees
@pytest.mark.parametrize("limited", [False, pytest.param(True, marks=pytest.mark.full)])
def test_real_commands_end_as_under_sh_byte_for_byte(config: Config, tmp_path: Path, limited: bool) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**BASE, "TMPDIR": str(scratch), "PWD": str(tmp_path)}
    ours = {"QUEUECTL_HOME": str(config.home), "QUEUECTL_VENV": sys.prefix}

    def manage(*arguments: str) -> None:
        command = [sys.executable, str(CHECKOUT / "manage.py"), *arguments]
        done = subprocess.run(
            command, env={**environment, **ours}, cwd=tmp_path, capture_output=True, timeout=LIMIT, check=False
        )
        assert done.returncode == 0, done.stderr

    work = _work(tmp_path / "files")
    jobs = [{"id": one.id, "command": one.command, "cwd": one.cwd, "env": ENV, "max_retries": 0} for one in work]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    if limited:
        manage("config", "set", "job_memory_limit", "512")
        manage("config", "set", "job_process_limit", "500")
    manage("enqueue", "--file", str(tmp_path / "jobs.jsonl"))
    manage("worker", "start", "--drain", "--slots", "8")

    # What a job gets beside the environment of its worker's start, see docs/jobs.md.
    job_environment = {**environment, "PYTHONUNBUFFERED": "1"}
    with ThreadPoolExecutor(4) as pool:
        expected = dict(zip([one.id for one in work], pool.map(lambda one: _run(one, job_environment), work)))
    with create_core(config).app_context(), reading() as session:
        found = {}
        for one in work:
            job = job_detail.find(session, one.id)
            assert job is not None
            [attempt] = job_detail.attempts(session, job, with_output=True)
            output = job_detail._kept(attempt)
            stderr = _without_path(one, output.stream(2))
            found[one.id] = Ended(output.stream(1), stderr, -attempt.signal if attempt.signal else attempt.exit_code)
    # Not `found == expected`: pytest compares long texts for minutes.
    different = [one for one in work if found[one.id] != expected[one.id]]
    shown = [
        f"{one.command!r} in {one.cwd}: job {found[one.id]!r:.500}, sh {expected[one.id]!r:.500}" for one in different
    ]
    assert shown == []
