"""idle: the cost of a pool of four workers, supervisor and maintenance without jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tests.bench import Bench, BenchError
from tests.bench.figures import Figure
from tests.bench.peers.running import Running, attempt
from tests.bench.pool import ACTOR, ENDED, Pool, cpu_of, number, pool_of, pss_of, workers
from tests.bench.rounds import Row, plain_row
from tests.bench.scratch import eventually, opened
from webapp.core.job_spec import JobSpec
from webapp.jobs.actions import enqueue


@dataclass(frozen=True)
class Sizes:
    workers: int = 4
    settling: float = 10.0  # seconds
    windows: int = 3
    window: float = 20.0  # seconds
    jobs: int = 400
    peer_window: float = 30.0  # seconds


QUICK = Sizes(settling=0.2, windows=2, window=0.5, jobs=8, peer_window=0.5)


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    seconds = sizes.settling + sizes.windows * sizes.window
    bench.say(f"idle: {seconds:.0f} s of nothing")
    with opened(bench.scratch.home()) as config, workers(bench, config.home, sizes.workers) as process:
        time.sleep(sizes.settling)
        pool = pool_of(process)
        first = _each(pool, cpu_of)
        costs = [_cost(pool, sizes.window) for _ in range(sizes.windows)]
        minutes = sizes.windows * sizes.window / 60
        spent = {name: (used - first[name]) / minutes for name, used in _each(pool, cpu_of).items()}
        fresh = _memory(pool)
        enqueue([JobSpec(command="true")] * sizes.jobs, ACTOR)
        eventually("the jobs are done", lambda: number(ENDED) >= sizes.jobs, within=120)
        used = _memory(pool)
        if pool_of(process) != pool:
            raise BenchError("a process of the idle pool was replaced while it was measured.")
    rows = [plain_row("idle.cpu", costs, note=_list(spent, 3), parts=spent, tolerance=1.0)]
    if fresh and used:
        rows += [
            plain_row("idle.pss", [sum(fresh.values())], note=_list(fresh, 1), parts=fresh),
            plain_row("idle.pss.used", [sum(used.values())], note=_list(used, 1), parts=used),
        ]
    else:
        bench.left_out.append("idle: this system does not tell what processes share (PSS).")
    return [*rows, *_peers(bench, sizes)]


def _peers(bench: Bench, sizes: Sizes) -> list[Row]:
    rows = []
    for peer in list(bench.peers):
        bench.say(f"idle, {peer.title}: {sizes.settling + sizes.peer_window:.0f} s of nothing")
        look = partial(Running.idle, workers=sizes.workers, settling=sizes.settling, window=sizes.peer_window)
        found = attempt(bench, peer, look)
        if found is not None:
            of_pool, key = f"{peer.title}, idle pool of {sizes.workers}", f"idle.{peer.peer.name}"
            rows.append(plain_row(Figure(f"{key}.cpu", f"{of_pool}, CPU", "s/min"), [found[0]]))
            rows.append(plain_row(Figure(f"{key}.pss", f"{of_pool}, PSS", "MiB"), [found[1]], note=peer.peer.note))
    return rows


def _cost(pool: Pool, window: float) -> float:
    """CPU seconds per minute of all processes, measured for this number of seconds."""
    before, began = sum(_each(pool, cpu_of).values()), time.monotonic()
    time.sleep(window)
    return (sum(_each(pool, cpu_of).values()) - before) / ((time.monotonic() - began) / 60)


def _memory(pool: Pool) -> dict[str, float]:
    """MiB by process; empty if the system does not report it."""
    try:
        return _each(pool, pss_of)
    except BenchError:
        return {}


def _each(pool: Pool, look: Callable[[int], float]) -> dict[str, float]:
    found = {"supervisor": look(pool.supervisor), "maintenance": sum(map(look, pool.maintenance))}
    return {**found, **{f"worker {place}": look(pid) for place, pid in enumerate(pool.workers, 1)}}


def _list(parts: dict[str, float], digits: int) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in parts.items())
