"""The cost of a claim in a large table, the size of a finished job, and the effect of a long read on both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Optional

from tests.bench import Bench
from tests.bench.peers.running import Running
from tests.bench.postgresql.doors import Door, Ours, Theirs
from tests.bench.postgresql.found import Found
from tests.bench.postgresql.server import Database, make

PENDING = 10  # of so many jobs one is pending, or more where the claims need them; the others are finished
FLUSH = 1.2  # seconds after which a server process tells at its next commit what it has done to the tables
BLOCK = 20  # claims of one side at a time


def claims(bench: Bench, peer: Optional[Running], name: str, jobs: int, claims: int, found: Found) -> None:
    """A claim alone and a claim with a settle, in milliseconds."""
    with _doors(bench, peer) as doors:
        for side, door in doors.items():
            bench.say(f"postgresql: filling {jobs:,} rows, {side}")
            door.fill(jobs - jobs // PENDING, max(jobs // PENDING, bench.rounds * _taken(claims)))
        for turn in range(bench.rounds):
            times = _round(doors, claims)
            for side, (alone, both) in times.items():
                found.add(f"claim.{name}", side, alone)
                found.add(f"turn.{name}", side, both)
            said = ", ".join(f"{side} {alone:.2f} ms" for side, (alone, _) in times.items())
            bench.say(f"postgresql, a claim beside {jobs:,} rows, round {turn + 1}: {said}")


def _taken(claims: int) -> int:
    """How many jobs a round takes."""
    return -(-claims // BLOCK) * (2 * BLOCK + 1)


def _round(doors: Mapping[str, Door], claims: int) -> dict[str, tuple[float, float]]:
    """For each side the medians of claims and of turns."""
    alone: dict[str, list[float]] = {side: [] for side in doors}
    both: dict[str, list[float]] = {side: [] for side in doors}
    while len(next(iter(alone.values()))) < claims:
        for side, door in doors.items():
            for _ in range(BLOCK):
                alone[side].append(_milliseconds(door.claim))
                door.settle()
            door.claim()
            both[side] += [_milliseconds(door.turn) for _ in range(BLOCK)]
            door.settle()
    return {side: (median(alone[side]), median(both[side])) for side in doors}


def bytes_of_finished(bench: Bench, peer: Optional[Running], jobs: int, found: Found) -> None:
    """The size of a completed job with its attempt, without output."""
    with _doors(bench, peer) as doors:
        for side, door in doors.items():
            empty = door.database.size()
            door.fill(jobs, 0)
            found.add("bytes", side, (door.database.size() - empty) / jobs)


@dataclass(frozen=True)
class Read:
    """A table whose jobs all ran while a snapshot was held: per job, and at the end."""

    dead: float  # versions of rows
    size: float  # bytes
    last: float  # milliseconds that a turn took in the last tenth


def beside_a_reader(bench: Bench, peer: Optional[Running], jobs: int, found: Found) -> None:
    """Measured once, because it is slow: a held snapshot keeps all row versions, and claims must skip them."""
    with _doors(bench, peer) as doors:
        for side, door in doors.items():
            one = _read(door, jobs)
            for name, value in (("dead", one.dead), ("size", one.size), ("last", one.last)):
                found.add(f"reader.{name}", side, value)
            bench.say(
                f"postgresql, {jobs:,} jobs beside a reader, {side}: {one.dead:.1f} dead rows and "
                f"{one.size:,.0f} bytes a job, {one.last:.2f} ms a turn at the end"
            )


def _read(door: Door, jobs: int) -> Read:
    empty = door.database.size()
    door.fill(0, jobs)
    with _snapshot(door.database):
        door.claim()
        times = [_milliseconds(door.turn) for _ in range(jobs - 1)]
        time.sleep(FLUSH)
        door.settle()
        dead = door.database.dead()
    return Read(dead / jobs, (door.database.size() - empty) / jobs, median(times[-max(1, jobs // 10) :]))


@contextmanager
def _snapshot(database: Database) -> Iterator[None]:
    """A session that keeps its snapshot, like a long report or a dump."""
    with database.connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM pg_class")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def _doors(bench: Bench, peer: Optional[Running]) -> Iterator[dict[str, Door]]:
    with ExitStack() as stack:
        doors: dict[str, Door] = {"ours": Ours(stack, bench.scratch, make(stack))}
        if peer is not None:
            doors["theirs"] = Theirs(stack, peer, make(stack))
        yield doors


def _milliseconds(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000
