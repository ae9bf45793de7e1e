"""postgresql: the queue on a PostgreSQL server, compared with procrastinate on the same server.

Both sides take turns in each round. Procrastinate needs `--peers`; without it ours is measured alone. All databases
are created for it and dropped afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Optional

from tests.bench import Bench, BenchError
from tests.bench.peers import POSTGRESQL
from tests.bench.peers.running import Running
from tests.bench.postgresql import pools, tables
from tests.bench.postgresql.found import Found
from tests.bench.postgresql.server import make, missing
from tests.bench.rounds import Row
from tests.bench.scratch import opened

__all__ = ["QUICK", "Sizes", "measure", "missing"]


@dataclass(frozen=True)
class Sizes:
    workers: tuple[int, ...] = (2, 8, 32)
    samples: int = 40  # of pick-ups, of each pool
    jobs: int = 800  # that each pool drains
    singles: int = 300  # enqueued one at a time, in a round
    batch: int = 10_000
    finished: int = 100_000
    many: int = 1_000_000  # rows
    most: int = 10_000_000
    claims: int = 100  # in a round, of each kind
    read: int = 20_000  # jobs that run while a snapshot is held
    read_long: int = 100_000


QUICK = Sizes(
    samples=3, jobs=40, singles=10, batch=50, finished=1_000, many=1_000, most=2_000, claims=20, read=50, read_long=100
)


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    reason = missing()
    if reason:
        raise BenchError(reason)
    peer: Optional[Running] = next((one for one in bench.peers if one.peer.needs == POSTGRESQL), None)
    if peer is None:
        bench.left_out.append("postgresql: procrastinate beside it; --peers installs it in a scratch environment.")
    found = Found()
    with ExitStack() as stack:
        database = make(stack)
        with opened(bench.scratch.home(), database.for_us) as config:
            for turn in range(bench.rounds):
                bench.say(f"postgresql, round {turn + 1}")
                pools.pools(bench, config.home, database, peer, sizes.workers, sizes.samples, sizes.jobs, found)
                pools.stores(database, peer, sizes.singles, sizes.batch, found)
    tables.bytes_of_finished(bench, peer, sizes.finished, found)
    tables.claims(bench, peer, "many", sizes.many, sizes.claims, found)
    if bench.large:
        tables.claims(bench, peer, "most", sizes.most, sizes.claims, found)
    tables.beside_a_reader(bench, peer, sizes.read_long if bench.large else sizes.read, found)
    return found.rows()
