"""A real batch: 500 shell commands over the files of this system, through the CLI, every result verified otherwise."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import LIMIT
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
def test_five_hundred_commands_over_real_files_end_as_they_must(home: Path, tmp_path: Path) -> None:
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
