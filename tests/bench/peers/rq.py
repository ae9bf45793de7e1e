"""RQ with its pool of workers, each of which forks for a job."""

from __future__ import annotations

from tests.bench.peers import REDIS, REDIS_RESET, Peer

_SCRIPT = """
import os
import redis
import rq
import bench_job

queue = rq.Queue(connection=redis.Redis.from_url(os.environ["BENCH_REDIS"]))
PUT = {"run": lambda: queue.enqueue(bench_job.run), "clock": lambda: queue.enqueue(bench_job.clock)}
"""

PEERS = (
    Peer(
        "rq_redis",
        "RQ (Redis)",
        ("rq", "redis"),
        _SCRIPT,
        REDIS_RESET,
        lambda count: ("rq", "worker-pool", "-q", "-n", str(count), "-u", "{redis}"),
        REDIS,
    ),
)
