"""Bombs: commands that take all memory or all processes that they can get. Limits contain them."""

from __future__ import annotations

from tests.faults.machine import Impossible
from tests.faults.rig import Rig
from worker.runner import cgroups

BOMBS = {
    "memory": "tail /dev/zero",
    "processes": "bomb() { bomb | bomb & }; bomb; sleep 1; exit 1",
}


def set_off(rig: Rig, rounds: int) -> None:
    """Run each bomb beside ordinary jobs, in the same and another worker. Only the bomb dies, with the right reason."""
    if len(cgroups.offered()) < 2:
        raise Impossible("no control groups can be made here")
    rig.run("config", "set", "job_memory_limit", "128")
    rig.run("config", "set", "job_process_limit", "100")
    supervisor = rig.workers(2, "--slots", "3")
    workers = set(rig.worker_pids())
    for _ in range(rounds):
        for reason, command in BOMBS.items():
            others = rig.submit(4, seconds=1)
            [bomb] = rig.submit(command=f"{rig.ledger.command()}; {command}", max_retries=0)
            rig.rest()
            query = "SELECT j.state, a.reason FROM jobs j JOIN attempts a ON a.job_seq = j.seq WHERE j.id = ?"
            assert rig.query(query, bomb) == [("dead", reason)]
            assert {rig.state(job_id) for job_id in others} == {"completed"}
    assert rig.losses() == 0
    assert set(rig.worker_pids()) == workers
    rig.stop(supervisor)
