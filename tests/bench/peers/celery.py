"""Celery with its default pool of processes, on Redis."""

from __future__ import annotations

from tests.bench.peers import REDIS, REDIS_RESET, Peer

_SCRIPT = """
import os
import celery
import bench_job

app = celery.Celery("bench", broker=os.environ["BENCH_REDIS"])
PUT = {
    "run": app.task(name="run")(bench_job.run).delay,
    "clock": app.task(name="clock")(bench_job.clock).delay,
}
"""

PEERS = (
    Peer(
        "celery_redis",
        "Celery (Redis)",
        ("celery", "redis", "packaging"),  # whose Redis transport asks for the last without saying so
        _SCRIPT,
        REDIS_RESET,
        lambda count: ("celery", "-A", "celery_redis", "worker", "-c", str(count), "-P", "prefork", "-l", "ERROR"),
        REDIS,
    ),
)
