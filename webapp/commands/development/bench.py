"""`bench`: runs the benchmarks of `tests/bench/`."""

from __future__ import annotations

import sys

import click

from tests.bench import SECTIONS
from webapp.commands.shared.core import count_option, exit_on_signals, json_option
from webapp.commands.shared.output import print_json, say, show, table

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
    from tests.bench import report, whole_run

    if WINDOWS:
        raise click.ClickException("the benchmark needs a system with fork, signals and wait4, such as Linux or macOS.")
    with exit_on_signals():
        found = whole_run.run(sections, rounds, say, peers=peers, large=large, quick=quick)
    if as_json:
        rows = [report.shape(row) for row in found.rows]
        facts = {"machine": found.machine, "rounds": rounds, "quick": quick}
        print_json({**facts, "rows": rows, "left_out": found.left_out})
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.machine.items()) + "\n")
        show(table(report.COLUMNS, found.rows))
        for note in report.notes(found.rows, found.left_out, quick):
            click.echo(note)
    return 0 if found.complete else 1
