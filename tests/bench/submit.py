"""submit: jobs sent with the console's form over real HTTP, one by one and by many clients beside busy workers."""

from __future__ import annotations

import http.client
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import Bench, BenchError
from tests.bench.person import NAME, PASSWORD, Line, Person
from tests.bench.pool import ACTOR, number, workers
from tests.bench.rounds import Row, percentile, plain_row
from tests.bench.scratch import eventually, opened
from webapp.accounts import users

COMMAND = "true"
_ALL = "SELECT count(*) FROM jobs"


@dataclass(frozen=True)
class Sizes:
    alone: int = 150  # forms of one client in a round
    clients: int = 16
    seconds: float = 4.0  # for which they send
    workers: int = 2
    rounds: int = 3  # at the most


QUICK = Sizes(alone=5, clients=3, seconds=0.3)


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    alone, crowd = [], []
    home = bench.scratch.home()
    with opened(home):
        users.add(NAME, PASSWORD, "admin", ACTOR)
        with served(bench, home) as port:
            person = Person(port)
            for turn in range(min(bench.rounds, sizes.rounds)):
                alone.append(_alone(person, sizes.alone))
                with workers(bench, home, sizes.workers):
                    crowd.append(_crowd(person, sizes))
                bench.say(f"submit, round {turn + 1}: {alone[-1]:.1f} ms alone, {crowd[-1]:,.0f} jobs/s by many")
    note = f"{sizes.clients} clients, console and {sizes.workers} workers that run the jobs share this machine"
    return [plain_row("submit.alone", alone), plain_row("submit.crowd", crowd, note=note)]


def _alone(person: Person, forms: int) -> float:
    """The median in milliseconds, without workers."""
    line = Line(person)
    line.submit(COMMAND)
    times = [line.submit(COMMAND) for _ in range(forms)]
    line.close()
    return percentile(times, 0.5)


def _crowd(person: Person, sizes: Sizes) -> float:
    """Stored jobs per second while all clients send forms. Raises BenchError."""
    before = number(_ALL)
    until = time.monotonic() + sizes.seconds
    answered: list[int] = []
    faults: list[str] = []

    def send() -> None:
        line, forms = Line(person), 0
        try:
            while time.monotonic() < until:
                line.submit(COMMAND)
                forms += 1
        except (BenchError, OSError) as error:
            faults.append(str(error))
        finally:
            line.close()
            answered.append(forms)

    clients = [threading.Thread(target=send, daemon=True) for _ in range(sizes.clients)]
    began = time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    took = time.monotonic() - began
    stored = number(_ALL) - before
    if faults or stored != sum(answered):
        raise BenchError(f"{sum(answered):,} forms were answered, {stored:,} jobs stored. {' '.join(set(faults))}")
    return stored / took


@contextmanager
def served(bench: Bench, home: Path) -> Iterator[int]:
    """Start a console on this home and wait for it; yields its port."""
    port = free_port()
    process = bench.scratch.manage(home, "web", "--port", str(port))
    wait_for(bench, process, port)
    yield port
    bench.scratch.stop(process)


def wait_for(bench: Bench, process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the console answers. Raises BenchError."""
    eventually("the console answers", lambda: answers(port) or process.poll() is not None, every=0.002)
    if process.poll() is not None:
        raise bench.scratch.failed("the console did not start")


def answers(port: int) -> bool:
    """Whether the console answers. Ignores proxies that urllib might find."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
