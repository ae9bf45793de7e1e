"""Other queues, measured beside ours with the same command: their packages, scripts and workers.

Each has a module here with its `PEERS`; `running.py` installs and runs them. They have their default settings,
and store results where they do so by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Callable, Optional

MODULES = ("huey", "celery", "rq", "procrastinate")
REDIS, POSTGRESQL = "redis", "postgresql"


@dataclass(frozen=True)
class Peer:
    """A peer.

    Attributes:
        name: of its module in the scratch folder, and in the keys of its figures.
        packages: what pip installs for it; the first is the peer itself.
        script: that module. `PUT` has functions that enqueue `bench_job.run` and `bench_job.clock`; `prepare()`, where
            there is one, is called before the first of them is. `put_many(number)`, where there is one, enqueues `run`
            so many times by one call.
        reset: a script that empties its queue.
        workers: the command that starts so many workers; its first word is a program that `packages` brought.
        needs: REDIS, POSTGRESQL or nothing.
        note: what a reader should know of a pool of it.
        processes: as `workers`, with a process for each; where `workers` has several in one.
        there: a statement that counts the processes that are ready, in its PostgreSQL.
    """

    name: str
    title: str
    packages: Sequence[str]
    script: str
    reset: str
    workers: Callable[[int], Sequence[str]]
    needs: str = ""
    note: str = ""
    processes: Optional[Callable[[int], Sequence[str]]] = None
    there: str = ""


REDIS_RESET = """
import os, redis
redis.Redis.from_url(os.environ["BENCH_REDIS"]).flushall()
"""


def known() -> list[Peer]:
    return [peer for name in MODULES for peer in import_module(f"tests.bench.peers.{name}").PEERS]
