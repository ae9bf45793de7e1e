"""Commands with enormous or unprintable output: the worker stays small, the beginning and the end are kept byte for
byte, and the page opens.
"""

from __future__ import annotations

import html
import json
import re
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.faults import flood
from tests.faults.person import Person
from tests.faults.rig import Rig, eventually, free_port

SCRIPT = Path(__file__).with_name("flood.py")
KINDS = ("no newline", "bars", "random", "NUL", "split UTF-8", "long UTF-8")
MOST_GROWTH = 20 * flood.MIB  # bytes, of a worker's memory
HALF = 128 * 1024  # bytes of the beginning and of the end that are kept by default
_EARLIER = re.compile(r'hx-get="(/job/[^"]+/output[^"]*to=[^"]*)"')


@dataclass(frozen=True)
class Ends:
    """The output that must be kept: the first and the last HALF, or all if it is shorter."""

    total: int
    first: bytes
    last: bytes

    @property
    def dropped(self) -> int:
        return self.total - len(self.first) - len(self.last)


def ends_of(pieces: Iterable[bytes]) -> Ends:
    total, first, last = 0, b"", b""
    for piece in pieces:
        total += len(piece)
        room = HALF - len(first)
        first, last = first + piece[:room], (last + piece[room:])[-HALF:]
    return Ends(total, first, last)


@cache
def _ends_of_kind(kind: str) -> Ends:
    return ends_of(flood.pieces(kind))


def flood_the_worker(rig: Rig, rounds: int) -> str:
    """Run every kind of flood, several at once, and view one while it runs. Returns the cost."""
    port = free_port()
    console, supervisor = rig.console(port), rig.workers(1, "--slots", "3")
    person = rig.person(port)
    [first] = rig.submit(command=f"head -c 1000000 /dev/zero && {rig.ledger.command()}")
    rig.reaches(first, "completed")  # the fixed cost of any output
    [worker] = rig.worker_pids()
    before, opened = _memory(worker, "VmRSS"), 0.0
    for number in range(rounds):
        gate, written = rig.folder / f"gate-{number}", rig.folder / f"written-{number}"
        commands = [
            *(_flood(kind) for kind in KINDS),
            f"head -c 3000000 /dev/urandom | tee {written}",
            f"{_flood('lines')} && while [ ! -e {gate} ]; do sleep 0.05; done",
        ]
        ids = rig.submit_many([{"command": f"{command} && {rig.ledger.command()}"} for command in commands])
        urandom, live = ids[-2:]
        whole = _ends_of_kind("lines")
        eventually("the last line is there to be seen", lambda: _stored(rig, live) == whole.total, 60)  # noqa: B023
        opened = max(opened, _open(person, live, whole.last[-100:].decode().strip()))
        gate.touch()
        rig.rest()
        for job_id, kind in zip(ids, KINDS):
            opened = max(opened, _check(rig, person, job_id, _ends_of_kind(kind)))
            if kind == "split UTF-8":
                assert flood.SPLIT.decode().strip() in person.get(f"/job/{job_id}").text
                assert not _marked_truncated(rig, job_id)
        opened = max(opened, _check(rig, person, urandom, ends_of([written.read_bytes()])))
        opened = max(opened, _check(rig, person, live, whole))
        assert _marked_truncated(rig, live)
    growth = _memory(worker, "VmHWM") - before  # the peak, so nothing between two reads is missed
    assert growth < MOST_GROWTH, f"the worker grew by {growth:,} bytes"
    assert rig.worker_pids() == [worker]
    assert "Traceback" not in rig.said()
    rig.stop(supervisor)
    rig.stop(console)
    return f"the worker grew by {growth / flood.MIB:.1f} MiB at most, a page opened in {opened:.2f} s at most"


def _flood(kind: str) -> str:
    return shlex.join([sys.executable, str(SCRIPT), kind])


def _stored(rig: Rig, job_id: str) -> int:
    """The number of stored bytes of a running job."""
    statement = """
        SELECT max(c.position + length(c.data)) FROM output_chunks c JOIN jobs j ON j.seq = c.job_seq WHERE j.id = ?"""
    return int(rig.query(statement, job_id)[0][0] or 0)


def _open(person: Person, job_id: str, words: str = "") -> float:
    """Open the job's page, which must contain this text. Returns the time in seconds."""
    began = time.monotonic()
    page = person.get(f"/job/{job_id}")
    took = time.monotonic() - began
    assert page.status == 200, page.status
    assert b"\0" not in page.body
    assert words in page.text, f"the page of {job_id} has no {words!r}"
    return took


def _check(rig: Rig, person: Person, job_id: str, ends: Ends) -> float:
    """Kept output is exact, and omitted output is counted and reported. Returns the time of the page."""
    statement = """
        SELECT a.output, a.output_cut, a.output_dropped FROM attempts a JOIN jobs j ON j.seq = a.job_seq
        WHERE j.id = ? AND j.state = 'completed'"""
    [(kept, cut, dropped)] = rig.query(statement, job_id)
    assert kept == ends.first + ends.last, f"what is kept of {job_id} is not what it wrote first and last"
    assert dropped == ends.dropped
    assert cut == (len(ends.first) if dropped else None)
    note = b"\n[\xe2\x80\xa6 %d bytes left out here \xe2\x80\xa6]\n" % dropped if dropped else b""
    download = f"/job/{job_id}/download?attempt=1"
    assert person.get(download).body == ends.first + note + ends.last, f"the download of {job_id} is not what is kept"
    assert person.get(download + "&exact=1").body == kept, f"the exact download of {job_id} is not what is kept"
    took = _open(person, job_id)
    if dropped:
        assert f"{dropped:,} bytes left out here" in _whole_page(person, job_id)
    return took


def _marked_truncated(rig: Rig, job_id: str) -> bool:
    [attempt] = json.loads(rig.run("show", job_id, "--json").out)["attempt_history"]
    return bool(attempt["truncated"])


def _whole_page(person: Person, job_id: str) -> str:
    """The page, and all earlier lines that its button loads."""
    text = ""
    more = person.get(f"/job/{job_id}").text
    while more:
        text += more
        link = _EARLIER.search(more)
        more = person.get(html.unescape(link[1])).text if link else ""
    return text


def _memory(pid: int, name: str) -> int:
    """VmRSS, or VmHWM for its peak, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(name + ":")]
    return int(line.split()[1]) * 1024
