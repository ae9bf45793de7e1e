"""A rig with its queue on PostgreSQL servers, and clients that submit jobs while the servers fail."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import psutil
import psycopg

from tests.deadline import DEADLINE
from tests.faults.cluster import DATABASE, USER, Server
from tests.faults.invariant import violations
from tests.faults.rig import NotInTime, Rig, eventually

PAUSE = 0.05  # seconds between two jobs of a client, enough for two cores
AGAIN = 0.3  # seconds before a retry
LONGEST = 0.4  # seconds that a job takes
GIVE_UP = 30.0  # seconds with errors only, after which a client gives up


class ServedRig(Rig):
    """The rig on these servers. The first one that accepts writes is the database."""

    def __init__(self, folder: Path, seed: int, *servers: Server) -> None:
        super().__init__(folder, seed)
        self.servers = servers
        self.environment["QUEUECTL_DATABASE_URL"] = self.url

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"postgresql://{USER}@{places}/{DATABASE}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the processes of the product, but not their commands."""
        commands = {one.pid for one in self.commands()}
        mine = [one for one in self.processes() if one.pid not in commands]
        try:
            for process in mine:
                with contextlib.suppress(psutil.NoSuchProcess):  # a command that started just now and has ended
                    process.suspend()
            yield
        finally:
            for process in mine:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    # --- the database ---

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A read transaction. Waits until a server answers."""
        connection = eventually("a server takes connections", self._connection)
        with contextlib.closing(connection):
            yield connection

    def _connection(self) -> Optional[psycopg.Connection[Any]]:
        with contextlib.suppress(psycopg.OperationalError):
            return psycopg.connect(
                host=",".join("127.0.0.1" for _ in self.servers),
                port=",".join(str(server.port) for server in self.servers),
                user=USER,
                dbname=DATABASE,
                target_session_attrs="read-write",
                autocommit=True,
            )
        return None

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return super().query(statement.replace("?", "%s"), *values)

    def worker_pids(self) -> list[int]:
        with contextlib.suppress(psycopg.errors.UndefinedTable):  # it is being created
            return [pid for (pid,) in self.query("SELECT pid FROM workers WHERE state = 'running'")]
        return []

    def judge(self, *, may_repeat: bool = False) -> list[str]:
        found = violations(self.acknowledged, self.submitted, self.rows(), self.ledger.lines(), may_repeat=may_repeat)
        return found + [f"process {process.pid} outlives its claim" for process in self.commands()]

    def token(self) -> str:
        """The token of a program that may submit."""
        answer = self.run("token", "create", "load", "--scope", "submit")
        assert answer.code == 0, answer.err
        return answer.out.split()[-1]


class Client(threading.Thread):
    """Submits one job after another. It retries failures with the same id until they succeed.

    Attributes:
        told: the answers and how often each came.
        wrong: answers that are never allowed, whatever happens to the server.
    """

    def __init__(self, rig: ServedRig) -> None:
        super().__init__(daemon=True)
        self.told: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._rig = rig
        self._over = threading.Event()

    def __str__(self) -> str:
        return f"a {type(self).__name__.lower()} that was told {dict(self.told)}"

    def was_told(self, words: str, times: int = 1) -> bool:
        return sum(number for told, number in self.told.copy().items() if words in told) >= times

    def run(self) -> None:
        while not self._over.is_set():
            with _IDS:
                [job_id] = self._rig.new_ids(1)
                seconds = round(self._rig.random.uniform(0, LONGEST), 2)
            self._insist(job_id, self._rig.ledger.command(seconds))
            self._over.wait(PAUSE)

    def _insist(self, job_id: str, command: str) -> None:
        key, until, again = uuid.uuid4().hex, time.monotonic() + GIVE_UP, False
        while True:
            answer = self.submit(job_id, command, key, again)
            self.told[answer] += 1
            if answer == "stored":
                self._rig.acknowledged.add(job_id)
                return
            if time.monotonic() > until:
                self.wrong.append(f"{job_id} could not be submitted for {GIVE_UP:g} s: {answer}")
                return
            again = True
            time.sleep(AGAIN)

    @abstractmethod
    def submit(self, job_id: str, command: str, key: str, again: bool) -> str:
        """Try once. Return 'stored' or the failure; add forbidden answers to `wrong`."""

    def end(self) -> None:
        self._over.set()
        self.join(GIVE_UP + 60)


_IDS = threading.Lock()


class Program(Client):
    """Uses the API, with an Idempotency-Key."""

    def __init__(self, rig: ServedRig, port: int, token: str) -> None:
        super().__init__(rig)
        self._address = f"http://127.0.0.1:{port}/api/v1/jobs"
        self._token = token

    def submit(self, job_id: str, command: str, key: str, again: bool) -> str:
        del again  # the key says it
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        body = json.dumps({"id": job_id, "command": command}).encode()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self._address, body, headers), timeout=DEADLINE
            ) as answer:
                answer.read()
                return "stored"
        except urllib.error.HTTPError as error:
            problem = json.loads(error.read())
            told = f"{error.code}: {problem['detail']}"
            if error.code not in {503, 409} or not problem["detail"]:
                self.wrong.append(told)
            return told
        except OSError as error:
            self.wrong.append(f"no answer: {error}")
            return "no answer"


class Command(Client):
    """Runs `enqueue` on the command line."""

    def submit(self, job_id: str, command: str, key: str, again: bool) -> str:
        del key
        answer = self._rig.run("enqueue", "--id", job_id, "--command", command)
        if answer.code == 0 or (again and f"'{job_id}' is already used by" in answer.err):
            return "stored"
        if answer.code != 6 or answer.out or answer.err.count("\n") != 1 or not answer.err.startswith("Error: "):
            self.wrong.append(f"{answer.code}: {answer.out}{answer.err}")
        return answer.err


@contextmanager
def load(rig: ServedRig, port: int, token: str, *, commands: bool = True) -> Iterator[list[Client]]:
    """Programs and a command line that submit during the block. No answer may be wrong."""
    clients: list[Client] = [Program(rig, port, token), Program(rig, port, token)]
    clients += [Command(rig)] if commands else []
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.end()
    late = [client for client in clients if client.is_alive()]
    if late:
        raise NotInTime("a client waits for its answer for ever")
    wrong = [answer for client in clients for answer in client.wrong]
    assert not wrong, wrong[:5]
