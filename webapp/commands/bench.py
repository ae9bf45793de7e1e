"""`bench`: runs the benchmarks of `tests/bench/`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Optional

import click

from tests.bench import SECTIONS, Bench, BenchError, measure, missing, space
from webapp.commands.shared.core import count_option, exit_on_signals, json_option
from webapp.commands.shared.output import print_json, say, show, table

if TYPE_CHECKING:
    from tests.bench.rounds import Row

WINDOWS: bool = sys.platform == "win32"
_SECTIONS = "\n".join(f"  {name:<10}  {what}" for name, what in SECTIONS.items())
_HELP = f"""Run benchmarks: all sections, or the named ones.

Every ratio compares measurements of the same run. The benchmarks use a scratch home folder, which is deleted at the
end. Do not use the machine meanwhile. The exit code is 1 if a section could not be measured.

\b
Sections:
{_SECTIONS}

The section postgresql needs a server on which it can create databases. Set QUEUECTL_BENCH_POSTGRES
(postgresql://user@host/database). It drops these databases at the end.
"""


@click.command(help=_HELP, epilog="Example: manage.py bench drain pickup")
@click.argument("sections", metavar="[SECTION]...", nargs=-1, type=click.Choice(list(SECTIONS)))
@json_option
@count_option("--rounds", 5, 100, "Rounds per measurement.")
@click.option(
    "--peers",
    is_flag=True,
    help="Also measure huey, celery, rq and procrastinate, installed in a scratch environment.",
)
@click.option("--large", is_flag=True, help="Also measure tables of ten million rows: half an hour, 15 GB.")
@click.option("--quick", is_flag=True, help="Use tiny sizes, to check that it works. Do not quote the results.")
def bench(sections: tuple[str, ...], as_json: bool, rounds: int, peers: bool, large: bool, quick: bool) -> int:
    from tests.bench import report
    from tests.bench.machine import describe
    from tests.bench.peers import POSTGRESQL
    from tests.bench.peers.running import installed
    from tests.bench.scratch import scratch

    if WINDOWS:
        raise click.ClickException("the benchmark needs a system with fork, signals and wait4, such as Linux or macOS.")
    unavailable = {} if sections else {name: reason for name in SECTIONS if (reason := missing(name))}
    chosen = [name for name in SECTIONS if name in sections] or [name for name in SECTIONS if name not in unavailable]
    with exit_on_signals(), scratch(space(chosen, large=large, quick=quick)) as place:
        run = Bench(rounds, place, say, large=large)
        run.left_out += [f"{name}: {reason}" for name, reason in unavailable.items()]
        machine = describe(place.folder)
        if not quick:
            place.warm_up()
        with installed(run, POSTGRESQL if chosen == [POSTGRESQL] else None) if peers else nullcontext():
            found = [measured(run, name, quick) for name in chosen]
    rows = [row for of_section in found for row in of_section or ()]
    if as_json:
        print_json({"machine": machine, "rounds": rounds, "quick": quick, "rows": list(map(report.shape, rows)),
                    "left_out": run.left_out})  # fmt: skip
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items()) + "\n")
        show(table(report.COLUMNS, rows))
        for note in report.notes(rows, run.left_out, quick):
            click.echo(note)
    return int(None in found)


def measured(run: Bench, name: str, quick: bool) -> Optional[Sequence[Row]]:
    """Return the rows of a section, or None if it failed. A failure is listed at the end."""
    try:
        return measure(run, name, quick=quick)
    except BenchError as error:
        run.left_out.append(f"{name}: {error}")
        return None
