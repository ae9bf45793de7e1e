"""`bench`: measures this machine and the queue on it. What is measured, and how, stands in `tests/bench/`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Optional

import click

from tests.bench import SECTIONS, Bench, BenchError, measure, missing, space
from webapp.commands.shared.core import json_option
from webapp.commands.shared.output import Column, print_json, say, show, table

if TYPE_CHECKING:
    from tests.bench.rounds import Row

WINDOWS: bool = sys.platform == "win32"


_SECTIONS = "\n".join(f"  {name:<10}  {what}" for name, what in SECTIONS.items())
_HELP = f"""Measure this machine, and the queue on it: all sections, or those named.

Every ratio compares what was measured side by side. It all happens on a scratch home, which is removed afterwards;
leave the machine alone meanwhile. Ends with 1 where a section could not be measured.

\b
Sections:
{_SECTIONS}

The one on PostgreSQL needs a server in which databases may be made: name it in QUEUECTL_BENCH_POSTGRES
(postgresql://user@host/database). What is made there is dropped afterwards.
"""


@click.command(help=_HELP, epilog="Example: manage.py bench drain pickup")
@click.argument("sections", metavar="[SECTION]...", nargs=-1, type=click.Choice(list(SECTIONS)))
@json_option
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="How often each thing is measured."
)
@click.option(
    "--peers",
    is_flag=True,
    help="Install huey, celery, rq and procrastinate in a scratch environment; measure them, too.",
)
@click.option("--large", is_flag=True, help="Tables of ten million rows, too: half an hour, 15 GB.")
@click.option("--quick", is_flag=True, help="Tiny sizes, to see that it works: not to be quoted.")
def bench(sections: tuple[str, ...], as_json: bool, rounds: int, peers: bool, large: bool, quick: bool) -> int:
    from tests.bench.machine import describe
    from tests.bench.peers import POSTGRESQL
    from tests.bench.peers.running import installed
    from tests.bench.scratch import scratch

    if WINDOWS:
        raise click.ClickException("the benchmark needs a system with fork, signals and wait4, such as Linux or macOS.")
    wanting = {} if sections else {name: reason for name in SECTIONS if (reason := missing(name))}
    chosen = [name for name in SECTIONS if name in sections] or [name for name in SECTIONS if name not in wanting]
    with told_to_end(), scratch(space(chosen, large=large, quick=quick)) as place:
        run = Bench(rounds, place, say, large=large)
        run.left_out += [f"{name}: {reason}" for name, reason in wanting.items()]
        machine = describe(place.folder)
        if not quick:
            place.warm_up()
        with installed(run, POSTGRESQL if chosen == [POSTGRESQL] else None) if peers else nullcontext():
            found = [measured(run, name, quick) for name in chosen]
    rows = [row for of_section in found for row in of_section or ()]
    failed = None in found
    if as_json:
        print_json({"machine": machine, "rounds": rounds, "quick": quick, "rows": list(map(shape, rows)),
                    "left_out": run.left_out})  # fmt: skip
        return int(failed)
    click.echo(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items()))
    click.echo()
    show(table(COLUMNS, rows))
    tell_notes(rows, run.left_out, quick)
    return int(failed)


def measured(run: Bench, name: str, quick: bool) -> Optional[Sequence[Row]]:
    """The rows of a section; None where it failed, which is told at the end, beside what the others found."""
    try:
        return measure(run, name, quick=quick)
    except BenchError as error:
        run.left_out.append(f"{name}: {error}")
        return None


@contextmanager
def told_to_end() -> Iterator[None]:
    """Told to end, it leaves nothing behind; the default would end it here and now."""
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    before = {number: signal.signal(number, lambda got, _: sys.exit(128 + got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def amount(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def compared(value: Optional[float], unit: str) -> Optional[str]:
    return f"{amount(value)} {unit}" if value is not None else None


COLUMNS = (
    Column("FIGURE", lambda row: row.figure.title, flexible=True),
    Column("VALUE", lambda row: f"{amount(row.value.median)} {row.figure.unit}", right=True),
    Column("LEAST", lambda row: amount(row.value.least), right=True),
    Column("GREATEST", lambda row: amount(row.value.greatest), right=True),
    Column("OURS", lambda row: compared(row.ours, row.unit), right=True),
    Column("LIMIT", lambda row: compared(row.limit, row.unit), right=True),
    Column("GOAL", lambda row: row.figure.goal, right=True),
    Column("RESULT", lambda row: row.verdict),
)


def tell_notes(rows: Sequence[Row], left_out: Sequence[str], quick: bool) -> None:
    notes = [f"{row.figure.title}: {row.note}." for row in rows if row.note]
    notes += [f"{row.figure.title}: too noisy to quote, {row.noise}." for row in rows if row.noise is not None]
    notes += [f"Not measured: {sentence}" for sentence in left_out]
    if quick:
        notes.append("Tiny sizes: these figures say that it works, and nothing else.")
    if notes:
        click.echo()
    for note in notes:
        click.echo(note)


def shape(row: Row) -> dict[str, Any]:
    goal = row.figure.goal
    return {
        "key": row.figure.key,
        "title": row.figure.title,
        "unit": row.figure.unit,
        "value": row.value.median,
        "least": row.value.least,
        "greatest": row.value.greatest,
        "ours": row.ours,
        "limit": row.limit,
        "of": row.unit or None,
        "goal": {"at_most" if goal.most else "at_least": goal.bound} if goal is not None else None,
        "met": goal.is_met(row.value.median) if goal is not None else None,
        "too_noisy": row.noise,
        "note": row.note or None,
        "parts": dict(row.parts) or None,
        "rounds": [dict(one) for one in row.rounds],
    }
