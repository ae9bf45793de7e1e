"""How answers look: tables, times, JSON. Data goes to stdout, messages to stderr.

Text from a job (id, command, error) is printed with its control characters escaped: it could clear the terminal or
change its title.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

import click

from webapp.lib import clock, durations, text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    from webapp.db.models import Job

PIPE_WIDTH = 1_000_000  # columns where stdout is not a terminal: nothing is cut
STYLES = {
    "blocked": "cyan",
    "scheduled": "cyan",
    "pending": "yellow",
    "processing": "blue",
    "completed": "green",
    "failed": "magenta",
    "dead": "bold red",
    "cancelled": "dim",
    "running": "green",
    "draining": "yellow",
    "stopping": "yellow",
    "not responding": "red",
    "lost": "red",
    "expired": "red",
    "paused": "yellow",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
    "error": "red",
}


def say(message: str) -> None:
    """Print a message to stderr."""
    click.echo(message, err=True)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=not _is_utf8()))


def print_json_rows(rows: Iterable[Any]) -> None:
    """Print a list as `print_json` does, but row by row, so that it may be longer than the memory."""
    utf8 = _is_utf8()
    before = "[\n"
    for row in rows:
        text_of_row = json.dumps(row, indent=2, ensure_ascii=not utf8)
        click.echo(f"{before}  " + text_of_row.replace("\n", "\n  "), nl=False)
        before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")


def _is_utf8() -> bool:
    """Whether stdout can write every character. If not, JSON has escapes."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def one_line(words: str) -> str:
    """Return the text without line breaks and with its control characters escaped."""
    return text.escape_controls(text.one_line(words, None))


# --- times -----------------------------------------------------------------------------------------------------------


def ago(at: Optional[int], actor: Optional[str] = None) -> str:
    """Return how long ago something happened, and who did it; '' for None."""
    if at is None:
        return ""
    return (f"{span(at)} ago" if clock.now() - at >= clock.SECOND else "just now") + (f" by {actor}" if actor else "")


def span(moment: int) -> str:
    """Return the time from or until a moment, in whole seconds."""
    return durations.duration(round(abs(clock.now() - moment) / clock.SECOND))


def local_time(at: Optional[int]) -> str:
    """Return a moment in the local time zone, to the second."""
    return "" if at is None else clock.to_datetime(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def standing(job: Job) -> str:
    """Return when a job is due, how long it waits or runs, or when it ended."""
    if job.state in ("scheduled", "failed"):
        what = "due" if job.state == "scheduled" else "retry"
        return f"{what} in {span(job.run_at)}" if job.run_at > clock.now() else f"{what} now"
    if job.state == "blocked":
        return f"blocked {span(job.changed_at)}"
    if job.state == "pending":
        return f"waiting {span(job.run_at)}"
    if job.state == "processing":
        doing = "running" if job.cancel_requested_at is None else "cancelling"
        return f"{doing} {span(job.started_at or clock.now())}"
    return ago(job.finished_at)


def two_digits(number: float) -> str:
    """Return an estimate with two significant digits: '1,200', '0.25'."""
    return f"{float(f'{number:.2g}'):,g}"


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of a table. `cell` returns the value for a row, or None for an empty cell.

    On a narrow terminal only `flexible` columns are cut, at the end of the text. An `optional` column is left out if
    all its cells are empty.
    """

    header: str
    cell: Callable[[Any], object]
    flexible: bool = False
    right: bool = False
    optional: bool = False


def present(
    rows: Iterable[Any],
    columns: Sequence[Column],
    as_json: bool,
    shape: Callable[[Any], Any],
    empty: str = "",
    *,
    more: str = "",
) -> None:
    """Print a list as a table, or as JSON with `shape` for each row. `empty` and `more` are messages.

    `empty` is printed where there is no row. `more` follows the list if it has more rows than `rows`.
    """
    if as_json:
        print_json_rows(shape(row) for row in rows)
    elif listed := list(rows):
        show(table(columns, listed))
    else:
        say(empty)
    if more:
        say(more)


def tell(words: object, value: Any, as_json: bool) -> None:
    """Print what a command has done: in words, or a value as JSON."""
    if as_json:
        print_json(value)
    else:
        click.echo(words)


def see_more(limit: int, count: object) -> str:
    """A message for a list that ends at its limit; `count`: how many rows there are."""
    return f"Only the first {limit:,} are shown, of {count}. Use --limit to see more."


def console() -> Console:
    """Return a rich console that prints text as it is. It honors NO_COLOR and cuts lines only on a terminal."""
    from rich.console import Console

    made = Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made


def show(*renderables: Any) -> None:
    """Print rich objects to stdout. Where that is not a terminal, lines have no padding at the end."""
    made = console()
    if made.is_terminal:
        made.print(*renderables, crop=False, sep="\n")
        return
    with made.capture() as captured:
        made.print(*renderables, crop=False, sep="\n")
    click.echo("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def table(columns: Sequence[Column], rows: Iterable[Any]) -> Any:
    """Return a rich table of plain text. A cell that is a state has its color."""
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    shown = []
    for column in columns:
        words = [_cell(column.cell(row)) for row in rows]
        if column.optional and not any(words):
            continue
        widest = max(map(len, words), default=0)
        made.add_column(
            column.header,
            justify="right" if column.right else "left",
            # On a narrow terminal rich keeps this width: an id that is cut is of no use.
            min_width=min(widest, 16) if column.flexible else max(widest, len(column.header)),
        )
        shown.append([Text(word, style=STYLES.get(word, ""), no_wrap=True, overflow="ellipsis") for word in words])
    for line in zip(*shown):
        made.add_row(*line)
    return made


def _cell(value: object) -> str:
    return "" if value is None else one_line(str(value))


def grid(rows: Iterable[Sequence[Union[str, Text]]], columns: int = 2, first_style: str = "dim") -> Any:
    """Return a rich table without headers. Only the last column breaks lines on a narrow terminal."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    for place in range(columns - 1):
        made.add_column(style="" if place else first_style, no_wrap=True)
    made.add_column(overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def progress_bars(*, transient: bool) -> Iterator[Optional[Progress]]:
    """Show progress bars on stderr; None if it is not a terminal. Each task has a field `note`."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), note, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=transient) as progress:
        yield progress
