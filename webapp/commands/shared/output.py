"""How answers look: tables, times, JSON. Data goes to stdout, messages to stderr.

What comes from a job (ids, commands, errors) is shown with its control characters escaped: a command may hold a
sequence that clears the terminal or writes to its title.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional, TextIO

import click

from webapp.lib import clock, durations, text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from webapp.db.models import Job

WIDE = 1_000_000  # columns of something that is no terminal: nothing is cut there
STYLES = {
    "scheduled": "cyan",
    "pending": "yellow",
    "processing": "blue",
    "completed": "green",
    "failed": "magenta",
    "dead": "bold red",
    "cancelled": "dim",
    "running": "green",
    "quiet": "yellow",
    "stopping": "yellow",
    "silent": "red",
    "expired": "red",
    "paused": "yellow",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
}


def say(message: str) -> None:
    """A message for the person; a program that reads stdout does not see it."""
    click.echo(message, err=True)


def print_json(value: Any) -> None:
    # An encoding that cannot carry every character gets escapes: still the same JSON.
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    click.echo(json.dumps(value, indent=2, ensure_ascii=not utf8))


def one_line(words: str) -> str:
    """The text without line breaks, its control characters as escapes."""
    return text.escape_controls(text.one_line(words, None))


# --- times -----------------------------------------------------------------------------------------------------------


def ago(at: Optional[int], now: int) -> str:
    if at is None:
        return ""
    return f"{span(at, now)} ago" if now - at >= clock.SECOND else "just now"


def ago_by(at: Optional[int], actor: Optional[str], now: int) -> Optional[str]:
    """When something was done, and by whom."""
    return None if at is None else f"{ago(at, now)} by {actor}"


def span(start: int, end: int) -> str:
    """How much time lies between two moments, in whole seconds."""
    return durations.duration(round(max(end - start, 0) / clock.SECOND))


def local_time(at: Optional[int]) -> str:
    """A moment in the reader's zone, to the second."""
    return "" if at is None else clock.to_datetime(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def standing(job: Job, now: int) -> str:
    """Where a job stands in time, as its state asks for it."""
    if job.state in ("scheduled", "failed"):
        what = "due" if job.state == "scheduled" else "retry"
        return f"{what} in {span(now, job.run_at)}" if job.run_at > now else f"{what} now"
    if job.state == "pending":
        return f"waits {span(job.run_at, now)}"
    if job.state == "processing":
        doing = "cancelling" if job.cancel_requested_at is not None else "runs"
        return f"{doing} {span(job.started_at or now, now)}"
    return ago(job.finished_at, now)


def two_digits(number: float) -> str:
    """'1,200', '0.25': of an estimate no more digits are known."""
    return f"{float(f'{number:.2g}'):,g}"


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of a table: `cell` is its value for a row, None for nothing.

    Where a terminal is too narrow, only a `flexible` column is cut, and its end goes first. An `optional` column is
    left out if it is empty in all rows.
    """

    header: str
    cell: Callable[[Any], object]
    flexible: bool = False
    right: bool = False
    optional: bool = False


def present(
    rows: Sequence[Any], columns: Sequence[Column], as_json: bool, shape: Callable[[Any], Any], empty: str = ""
) -> None:
    """Print a list: as JSON, with each row in its `shape`; as a table; or the message `empty` where there is no row."""
    if as_json:
        print_json([shape(row) for row in rows])
    elif rows:
        show(table(columns, rows))
    else:
        say(empty)


def tell_more(limit: int) -> None:
    say(f"These are the first {limit:,}; there are more. Show them with --limit.")


def console(file: Optional[TextIO] = None) -> Console:
    """A rich console that takes texts as they are. It honours NO_COLOR, and cuts nothing where there is no terminal."""
    from rich.console import Console

    made = Console(file=file, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = WIDE
    return made


def show(*renderables: Any) -> None:
    """Print rich things to stdout; where that is no terminal, without the blanks that pad their lines."""
    made = console()
    if made.is_terminal:
        made.print(*renderables, crop=False, sep="\n")
        return
    with made.capture() as captured:
        made.print(*renderables, crop=False, sep="\n")
    click.echo("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def table(columns: Sequence[Column], rows: Iterable[Any]) -> Any:
    """A rich table of plain texts. A cell that is a state has its colour."""
    from rich.table import Table

    lines = [[_text(column.cell(row)) for column in columns] for row in rows]
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    shown = [place for place, one in enumerate(columns) if not one.optional or any(line[place] for line in lines)]
    lines = [[line[place] for place in shown] for line in lines]
    for index, column in enumerate(columns[place] for place in shown):
        widest = max((len(line[index]) for line in lines), default=0)
        made.add_column(
            column.header,
            justify="right" if column.right else "left",
            # A least width holds against a narrow terminal; an id that is cut is of no use.
            min_width=min(widest, 16) if column.flexible else max(widest, len(column.header)),
        )
    for line in lines:
        made.add_row(*map(_cell, line))
    return made


def _text(value: object) -> str:
    return "" if value is None else one_line(str(value))


def _cell(words: str) -> Text:
    from rich.text import Text

    return Text(words, style=STYLES.get(words, ""), no_wrap=True, overflow="ellipsis")
