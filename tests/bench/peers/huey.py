"""huey, on SQLite and on Redis, with worker processes: Python runs one of its default threads at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.peers import REDIS, REDIS_RESET, Peer

_SCRIPT = """
import os
import huey
import bench_job

app = {app}
PUT = {{"run": app.task()(bench_job.run), "clock": app.task()(bench_job.clock)}}
"""
_SQLITE_RESET = """
import pathlib
for path in pathlib.Path(".").glob("huey.db*"):
    path.unlink()
"""


def _workers(name: str, count: int) -> Sequence[str]:
    return ("huey_consumer", f"{name}.app", "-w", str(count), "-k", "process", "-q")


PEERS = (
    Peer(
        "huey_sqlite",
        "huey (SQLite)",
        ("huey",),
        _SCRIPT.format(app='huey.SqliteHuey("bench", filename="huey.db")'),
        _SQLITE_RESET,
        lambda count: _workers("huey_sqlite", count),
    ),
    Peer(
        "huey_redis",
        "huey (Redis)",
        ("huey", "redis"),
        _SCRIPT.format(app='huey.RedisHuey("bench", url=os.environ["BENCH_REDIS"])'),
        REDIS_RESET,
        lambda count: _workers("huey_redis", count),
        REDIS,
    ),
)
