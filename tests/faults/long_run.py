"""`manage.py test --faults`: every fault in turn for a given time, with a seed for repetition.

The same seed makes the same choices, but their timing may differ. The first turn runs all faults, including the large
ones; further turns repeat those that profit from repetition. A table shows the results.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

import click

from tests.faults import (
    bombs,
    clocks,
    crowds,
    disks,
    floods,
    kills,
    locks,
    machine,
    moves,
    posts,
    power,
    scaling,
    servers,
    stops,
    trees,
    upgrades,
)
from tests.faults.cluster import new_servers
from tests.faults.rig import Rig
from tests.faults.served import ServedRig

SMALL_DISK = 48  # MiB


@dataclass
class Fault:
    """One fault. `run` gets a rig and `rounds`, the number for one turn. `once`: too large to repeat.

    `servers`: the number of PostgreSQL servers, all but the first standbys; 0: a SQLite file.
    """

    name: str
    run: Callable[[Any, int], Any]
    rounds: int
    once: bool = False
    on_small_disk: bool = False
    servers: int = 0
    may_repeat: bool = False  # attempts under the same number, after a power cut

    done: int = field(default=0, init=False)
    jobs: int = field(default=0, init=False)
    losses: int = field(default=0, init=False)
    violations: list[str] = field(default_factory=list, init=False)
    note: str = field(default="", init=False)


def faults() -> list[Fault]:
    """In the order of the first turn: faults that find most in the shortest time come first."""
    return [
        Fault("kill -9 of workers", kills.kill_workers, 24),
        Fault("kill -9 of the supervisor", kills.kill_supervisors, 3),
        Fault("kill -9 of maintenance while scaling", scaling.kill_maintenance_while_scaling, 6),
        Fault("kill -9 of a supervisor that scales", scaling.kill_supervisors_while_scaling, 3),
        Fault("a supervisor stopped while scaling", scaling.stop_a_supervisor_while_scaling, 2),
        Fault("kill -9 of everything at once", kills.kill_everything, 3),
        Fault("kill -9 of the console in mid-POST", posts.kill_console_in_mid_post, 5),
        Fault("stopped past twice the lease", stops.stop_past_the_lease, 2),
        Fault("stopped between claim and spawn", stops.stop_between_claim_and_spawn, 2),
        Fault("stopped with the write lock", stops.stop_with_the_lock, 2),
        Fault("a command stopped with the lock", stops.stop_a_person_with_the_lock, 2),
        Fault("settled after the tree was killed", trees.settle_too_late, 2),
        Fault("poison among seven, 8 slots", trees.poison_among_seven, 1),
        Fault("cancelled, then the worker dies", trees.cancel_then_die, 3),
        Fault("daemons that hold stdout", trees.leave_daemons, 3),
        Fault("TERM ignored", trees.ignore_the_request_to_end, 3),
        Fault("memory and process bombs", bombs.set_off, 2),
        Fault("upgraded under old workers", upgrades.take_over, 1),
        Fault("moved while all write", moves.move_to_a_file_and_back, 1),
        Fault("power cut", _cuts, 50, may_repeat=True),
        Fault("disk full", disks.fill_the_disk, 2, on_small_disk=True),
        Fault("database or folder read-only", disks.read_only_database, 1),
        Fault("disk turns read-only", disks.turn_read_only, 1),
        Fault("home gone", disks.take_the_home_away, 1),
        Fault("bytes flipped", disks.damage, 4),
        Fault("lock held past the lease", locks.hold_past_the_lease, 1),
        Fault("lock held for 32 s", _hold_for_long, 1),
        Fault("cancelled while the lock is held", locks.cancel_while_the_lock_is_held, 2),
        Fault("told 'busy'", locks.be_told_busy, 1),
        Fault("wall clock ±1 h", clocks.set_the_clock, 1),
        Fault("two supervisors, two consoles", crowds.two_of_each, 2),
        Fault("floods of output", floods.flood_the_worker, 2),
        Fault("killed in a backup", crowds.kill_in_backup, 10),
        Fault("PostgreSQL restarted", partial(servers.restart, mode="fast"), 4, servers=1),
        Fault("PostgreSQL crashes", partial(servers.restart, mode="immediate"), 4, servers=1, may_repeat=True),
        Fault("it crashes right after a claim", servers.crash_after_a_claim, 4, servers=1),
        Fault("it crashes right after an end", servers.crash_after_an_end, 4, servers=1, may_repeat=True),
        Fault("its sessions are ended", servers.terminate_everybody, 8, servers=1),
        Fault("it has no connection left", servers.take_all_connections, 3, servers=1),
        Fault("it is away past the lease", servers.stay_away_past_the_lease, 2, servers=1),
        Fault("a reader is idle in it", servers.leave_a_reader_idle, 4, servers=1),
        Fault("its primary dies", servers.fail_over, 1, servers=2, may_repeat=True),
        Fault("10,000 jobs, 50 workers", _great_crowd, 1, once=True),
        Fault("a reader that stays", _reader, 1, once=True),
        Fault("1,000,000 due at once, and a bulk act", _million, 1, once=True),
    ]


def _cuts(rig: Rig, rounds: int) -> None:
    lost = power.cut_the_power(rig, cuts=rounds, turns=120)
    assert not lost, lost[:5]


def _hold_for_long(rig: Rig, rounds: int) -> None:
    locks.hold_past_the_lease(rig, rounds, seconds=32)


def _great_crowd(rig: Rig, rounds: int) -> None:
    crowds.crowd(rig, 10_000 * rounds, 50)


def _reader(rig: Rig, rounds: int) -> str:
    return f"the log is {crowds.a_reader_that_stays(rig, 1500 * rounds) >> 20} MiB afterwards"


def _million(rig: Rig, rounds: int) -> str:
    figures = crowds.many_due_at_once(rig, 1_000_000 * rounds)
    return "another writer's p99: " + ", ".join(f"{what} {value * 1000:.0f} ms" for what, value in figures.items())


def play(fault: Fault, seed: str, keep: bool) -> None:
    """One turn of one fault, on a rig of its own."""
    folder = Path(tempfile.mkdtemp(prefix="queuectl-faults-"))
    rig: Optional[Rig] = None
    before = len(fault.violations)
    try:
        with ExitStack() as stack:
            disk = stack.enter_context(machine.small_disk(folder / "disk", SMALL_DISK)) if fault.on_small_disk else None
            (folder / "rig").mkdir()
            luck = random.Random(seed).getrandbits(64)
            if fault.servers:
                rig = ServedRig(folder / "rig", luck, *stack.enter_context(new_servers(fault.servers)))
            else:
                rig = Rig(folder / "rig", luck, disk / "home" if disk else None)
            stack.callback(rig.close)
            note = fault.run(rig, fault.rounds)
            fault.note = note if isinstance(note, str) else fault.note
            fault.done += fault.rounds
            fault.violations += _judged(fault, rig)
            fault.jobs += len(rig.rows())
            fault.losses += rig.losses()
    except machine.Impossible as reason:
        fault.note = f"skipped: {reason}"
    except Exception as error:
        fault.violations.append(f"{type(error).__name__}: {error}")
        click.echo(traceback.format_exc(), err=True)
    if rig is not None and len(fault.violations) > before and keep:
        click.echo(f"  what it left is in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _judged(fault: Fault, rig: Rig) -> list[str]:
    if fault.run is _million:
        return []  # its jobs are inserted directly, and most are never run
    return rig.judge(may_repeat=fault.may_repeat)


def turns(all_faults: Sequence[Fault], until: float) -> Iterator[tuple[int, Fault]]:
    turn = 0
    while True:
        turn += 1
        for fault in all_faults:
            if time.monotonic() > until:
                return
            if turn == 1 or not fault.once:
                yield turn, fault


@click.command()
@click.option("--minutes", type=float, default=30.0)
@click.option("--seed", type=int, default=None)
@click.option("--only", default="", help="A part of the names of those that are wanted.")
@click.option("--keep", is_flag=True, help="Keep the folders of those that broke.")
def main(minutes: float, seed: Optional[int], only: str, keep: bool) -> None:
    """See the module."""
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    click.echo(f"seed {seed}, {minutes:g} minutes")
    wanted = [fault for fault in faults() if only in fault.name]
    started = time.monotonic()
    for turn, fault in turns(wanted, started + minutes * 60):
        began = time.monotonic()
        bad = len(fault.violations)
        play(fault, f"{seed}/{turn}/{fault.name}", keep)
        result = "VIOLATED" if len(fault.violations) > bad else fault.note or "held"
        click.echo(f"{time.monotonic() - started:6.0f} s  {fault.name}: {result} ({time.monotonic() - began:.0f} s)")
    _report(wanted, seed)
    if any(fault.violations for fault in wanted):
        sys.exit(1)


def _report(wanted: Sequence[Fault], seed: int) -> None:
    width = max(len(fault.name) for fault in wanted)
    click.echo(f"\n{'fault':<{width}}  {'rounds':>6}  {'jobs':>8}  {'losses':>6}  violations")
    for fault in wanted:
        text = str(len(fault.violations)) if fault.done or fault.violations else fault.note or "not reached"
        note = f"  {fault.note}" if fault.note and fault.done else ""
        click.echo(f"{fault.name:<{width}}  {fault.done:>6}  {fault.jobs:>8,}  {fault.losses:>6}  {text}{note}")
    for fault in wanted:
        for violation in fault.violations[:10]:
            click.echo(f"  {fault.name}: {violation}")
    click.echo(f"seed {seed}")


if __name__ == "__main__":
    main()
