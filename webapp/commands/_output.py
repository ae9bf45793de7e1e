"""How answers look: tables, times, JSON. Data goes to stdout, messages to stderr.

What comes from a job (ids, commands, errors) is shown with its control characters escaped: a command may hold a
sequence that clears the terminal or writes to its title.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, TextIO

import click

from webapp.lib import clock
from webapp.lib.text import escaped

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


def one_line(text: str) -> str:
    """The text without line breaks, its control characters as escapes."""
    return escaped(" ↵ ".join(text.strip().splitlines()) if "\n" in text else text)


def visible(text: str) -> str:
    """The text with its lines, all other control characters as escapes."""
    return "\n".join(escaped(line) for line in text.split("\n"))


# --- times -----------------------------------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """A length of time in its two largest units: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s" if seconds >= 0.05 or seconds <= 0 else f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    for unit, size, lesser, lesser_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // lesser_size
            return f"{whole // size} {unit}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole} s"


def ago(at: Optional[int], now: int) -> str:
    if at is None:
        return ""
    return f"{span((now - at) / clock.SECOND)} ago" if now - at >= clock.SECOND else "just now"


def local_time(at: Optional[int]) -> str:
    """A moment in the reader's zone, to the second."""
    return "" if at is None else clock.to_datetime(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def standing(job: Job, now: int) -> str:
    """Where a job stands in time, as its state asks for it."""
    if job.state in ("scheduled", "failed"):
        wait = (job.run_at - now) / clock.SECOND
        what = "due" if job.state == "scheduled" else "retry"
        return f"{what} in {span(wait)}" if wait > 0 else f"{what} now"
    if job.state == "pending":
        return f"waits {span((now - job.run_at) / clock.SECOND)}"
    if job.state == "processing":
        doing = "cancelling" if job.cancel_requested_at is not None else "runs"
        return f"{doing} {span((now - (job.started_at or now)) / clock.SECOND)}"
    return ago(job.finished_at, now)


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of a table. Where a terminal is too narrow, only a `flexible` one is cut, and its end goes first.

    `optional`: without a word in any row it is left out.
    """

    header: str
    flexible: bool = False
    right: bool = False
    optional: bool = False


def console(file: Optional[TextIO] = None) -> Console:
    """A rich console that takes texts as they are. It honours NO_COLOR, and cuts nothing where there is no terminal."""
    from rich.console import Console

    made = Console(file=file, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = WIDE
    return made


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to stdout. Cells that are a state wear its colour."""
    show(table(columns, rows))


def show(*renderables: Any) -> None:
    """Print rich things to stdout; where that is no terminal, without the blanks that pad their lines."""
    made = console()
    if made.is_terminal:
        made.print(*renderables, crop=False, sep="\n")
        return
    with made.capture() as captured:
        made.print(*renderables, crop=False, sep="\n")
    click.echo("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> Any:
    """A rich table of plain texts."""
    from rich.table import Table

    lines = [[one_line(cell) for cell in row] for row in rows]
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
        made.add_row(*(_cell(text) for text in line))
    return made


def _cell(text: str) -> Text:
    from rich.text import Text

    return Text(text, style=STYLES.get(text, ""), no_wrap=True, overflow="ellipsis")
