"""Pools of workers on the server, ours and procrastinate's: pick-up and drain.

A pool is running and idle before the measurement, so the start does not count. It then picks up jobs one at a time,
and empties a queue that one transaction filled.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tests.bench import Bench, BenchError
from tests.bench.peers.running import Running
from tests.bench.pickup import picked_up
from tests.bench.pool import ACTOR, ENDED, ask, number, workers
from tests.bench.postgresql.found import OURS, THEIRS, Found
from tests.bench.postgresql.server import Database
from tests.bench.rounds import percentile
from tests.bench.scratch import eventually
from webapp.core.job_spec import JobSpec
from webapp.jobs.actions import enqueue

COMMAND = "true"
PROCESSES, SLOTS = "processes", "slots"
FORMS = (PROCESSES, SLOTS)  # so many processes with one job at a time, or one process with so many
PATIENCE = 60.0  # seconds in which workers must be there, and one more for each of them
WARM = 3  # samples of ours that are left out, as the first of a peer are


@dataclass(frozen=True)
class Pool:
    """The results of a pool: milliseconds until each sample started, jobs per second."""

    picked_up: list[float]
    rate: float


def pools(
    bench: Bench, home: Path, database: Database, peer: Optional[Running], sizes: tuple[int, ...], samples: int,
    jobs: int, found: Found,
) -> None:  # fmt: skip
    """One round of all pools, each side after the other. The context's database is `database`."""
    for count in sizes:
        for form in FORMS:
            done = {OURS: _ours(bench, home, database, count, form, samples, jobs)}
            if peer is not None and (count, form) not in found.failed:
                try:
                    done[THEIRS] = _theirs(peer, count, form, samples, jobs)
                except BenchError as error:
                    found.failed.add((count, form))
                    bench.left_out.append(f"{peer.title}, {count} {form}: {error}")
            for side, pool in done.items():
                found.add(f"drain.{count}.{form}", side, pool.rate)
                found.add(f"pickup.{count}.{form}.p50", side, percentile(pool.picked_up, 0.5))
                found.add(f"pickup.{count}.{form}.p99", side, percentile(pool.picked_up, 0.99))
            said = "; ".join(
                f"{side} {pool.rate:,.0f}/s, pick-up {percentile(pool.picked_up, 0.5):.1f} ms"
                for side, pool in done.items()
            )
            bench.say(f"postgresql, {count} {form}: {said}")


def _ours(bench: Bench, home: Path, database: Database, count: int, form: str, samples: int, jobs: int) -> Pool:
    database.run("TRUNCATE jobs CASCADE")
    processes, slots = (count, 1) if form == PROCESSES else (1, count)
    with workers(bench, home, processes, "--slots", str(slots), QUEUECTL_DATABASE_URL=database.for_us):
        times, _ = picked_up(samples + WARM)
        before = number("SELECT max(seq) FROM jobs")
        enqueue([JobSpec(command=COMMAND)] * jobs, ACTOR)
        wanted = samples + WARM + jobs
        eventually("the jobs are done", lambda: number(ENDED) >= wanted, 60 + jobs / 20, every=0.2)
    [(first, last, attempts)] = ask(
        f"SELECT min(started_at), max(finished_at), count(*) FROM attempts WHERE job_seq > {before}"  # noqa: S608
    )
    if attempts != jobs:
        raise BenchError(f"of {jobs:,} jobs {attempts:,.0f} attempts were made.")
    return Pool(times[WARM:], jobs / ((last - first) / 1e6))


def _theirs(peer: Running, count: int, form: str, samples: int, jobs: int) -> Pool:
    if form == PROCESSES:
        peer = peer.as_processes()
    peer.reset()
    with peer.working(count):
        server = Database(peer.place.postgresql)
        there = count if form == PROCESSES else 1
        eventually("its workers are there", lambda: server.run(peer.peer.there)[0][0] >= there, PATIENCE + count)
        time.sleep(0.5)  # from there to where it listens
        times = peer.picks_up(samples)
        return Pool(times, peer.drains(jobs))


# --- enqueue ---------------------------------------------------------------------------------------------------------


def stores(database: Database, peer: Optional[Running], singles: int, many: int, found: Found) -> None:
    """One round of enqueues without workers, jobs per second."""
    database.run("TRUNCATE jobs CASCADE")
    began = time.perf_counter()
    for _ in range(singles):
        enqueue([JobSpec(command=COMMAND)], ACTOR)
    found.add("enqueue.one", OURS, singles / (time.perf_counter() - began))
    began = time.perf_counter()
    enqueue([JobSpec(command=COMMAND)] * many, ACTOR)
    found.add("enqueue.many", OURS, many / (time.perf_counter() - began))
    if peer is not None:
        peer.reset()
        found.add("enqueue.one", THEIRS, peer.stores("one", singles))
        found.add("enqueue.many", THEIRS, peer.stores("many", many))
