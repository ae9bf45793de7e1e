"""A dry run: everything that can be known before, as one report."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from webapp.admin.move import checks, marks, quiet
from webapp.admin.move.marks import COPYING, DONE
from webapp.admin.move.sides import MoveError, Side, Teller


@dataclass
class Report:
    """What a dry run found. It can be moved where there are neither `faults` nor `misfits`."""

    source: Side
    target: Side
    counts: dict[str, int]
    size: int  # bytes
    standing: str
    faults: list[str] = field(default_factory=list)
    misfits: list[checks.Misfit] = field(default_factory=list)
    running: list[quiet.Running] = field(default_factory=list)
    workers: int = 0


def examine(target: Side, teller: Teller) -> Report:
    """Count and check, and change nothing. Raises MoveError where the target may not be had at all."""
    source = Side.here()
    _refuse_itself(source, target)
    with source.reading() as connection:
        begun = marks.moves(connection, "from")
    known = [move.id for move in begun]
    if begun and begun[0].phase == COPYING:
        raise MoveError(f"the queue is on its way to {begun[0].address}. Go on without --dry-run, or --undo it.")
    if begun and begun[0].phase == DONE:
        raise MoveError(f"{begun[0].words}.")
    report = Report(source, target, checks.counts(source), checks.size(source), checks.standing(target, known))
    report.faults = list(checks.faults_of(target, report.size))
    report.running, report.workers = quiet.running(), len(quiet.workers())
    if source.is_sqlite and not target.is_sqlite:
        report.misfits = list(checks.misfits(source, teller.stage("check", sum(report.counts.values()))))
    return report


def _refuse_itself(source: Side, target: Side) -> None:
    same = source.address == target.address
    if source.is_sqlite and target.is_sqlite:
        with suppress(OSError):
            same = source.config.sqlite_path.samefile(target.config.sqlite_path)
    if same:
        raise MoveError(f"the queue is at {target.address} already.")
