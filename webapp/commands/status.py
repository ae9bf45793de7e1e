"""`status`: the queue at a glance. `commands`: what ran, by pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional

import click

from webapp.commands.shared.core import json_option, read_session
from webapp.commands.shared.output import STYLES, Column, grid, present, print_json, show, two_digits
from webapp.core import labels
from webapp.lib import clock, histograms
from webapp.lib.durations import about, duration
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.insight.blockers import Obstacle
    from webapp.insight.rollups import Commands
    from webapp.jobs.queries import Waiting

SHOWN_BLOCKED = 3  # groups of jobs without a matching worker
SHOWN_PAUSED = 20  # names of paused queues


@click.command(epilog="Example: manage.py status --json")
@json_option
def status(as_json: bool) -> None:
    """Show job counts by state, workers, and waiting jobs."""
    from webapp.insight import blockers, fleet, trends, windows
    from webapp.jobs import queries, settings
    from webapp.web import serializers

    with read_session() as session:
        if as_json:
            print_json(serializers.status(session))
            return
        now = clock.now()
        states = queries.count_states_exactly(session)
        workers = fleet.workers(session, settings.load(session).lease)
        waited = queries.waited(queries.oldest_pending(session), now)
        minute = queries.count_finished_since(session, now - clock.MINUTE)
        hour = queries.count_finished_since(session, now - clock.HOUR)
        recent = trends.trend(session, windows.RANGES["1h"])
        paused = queries.paused_queues(session)
        alive = [view for view in workers if view.alive]
        blocked = blockers.stranded(session, alive)
    silent = len(workers) - len(alive)
    facts = {
        "workers": _workers(len(alive), silent, sum(view.worker.slots for view in alive), states),
        "oldest pending": "no pending jobs" if waited is None else duration(round(waited)),
        "finished": f"{minute} in the last minute, {hour} in the last hour",
        "rate": f"about {two_digits(recent.rate)} runs/min" if recent.rate else None,
        "last hour": _latency(serializers.trend(recent)),
        "paused queues": _some(paused),
        "no worker for": _blocked(blocked),
    }
    show(_counts(states), "", grid((name, text) for name, text in facts.items() if text is not None))


def _counts(states: dict[str, int]) -> Any:
    from rich.text import Text

    width = max(len(f"{number:,}") for number in states.values())
    rows = [
        (Text(state, style=STYLES[state] if number else "dim"), f"{number:,}".rjust(width))
        for state, number in states.items()
    ]
    return grid(rows, first_style="")


def _workers(alive: int, silent: int, slots: int, states: dict[str, int]) -> str:
    if not alive and not silent:
        waiting = states["pending"] + states["scheduled"] + states["failed"]
        return "none" + (" · start one: manage.py worker start" if waiting else "")
    text = f"{alive} alive, {plural(slots, 'slot')}"
    return text + (f", {silent} not responding (see manage.py worker list)" if silent else "")


def _blocked(found: list[tuple[Waiting, Obstacle]]) -> Optional[str]:
    """Jobs whose labels no worker has."""
    words = [
        f"{one.number} in {one.label_set.queue} (requires {', '.join(labels.split(one.label_set.requires))})"
        for one, _ in found[:SHOWN_BLOCKED]
    ]
    more = [f"{len(found) - SHOWN_BLOCKED} more groups"] if len(found) > SHOWN_BLOCKED else []
    return "; ".join(words + more) or None


def _some(names: list[str]) -> Optional[str]:
    more = [f"{len(names) - SHOWN_PAUSED:,} more"] if len(names) > SHOWN_PAUSED else []
    return ", ".join(names[:SHOWN_PAUSED] + more) or None


def _latency(hour: dict[str, Any]) -> Optional[str]:
    """Percentiles of waiting and running times, if any job ran."""
    words = [
        f"{name} p50 {about(times['p50'])}, p95 {about(times['p95'])}"
        for name, times in (("wait", hour["wait_seconds"]), ("run", hour["run_seconds"]))
        if times["p50"] is not None
    ]
    return "; ".join(words) if hour["run_seconds"]["p50"] is not None else None


@click.command(epilog="Example: manage.py commands --over 7d")
@click.option("--over", type=click.Choice(("1h", "24h", "7d")), default="24h", show_default=True,
              help="The last hour, day or week, in full hours.")  # fmt: skip
@json_option
def commands(over: str, as_json: bool) -> None:
    """Show runs by command pattern, with failures and durations. The console has a page for each."""
    from webapp.insight import commands as insight
    from webapp.insight.windows import RANGES
    from webapp.web import serializers

    with read_session() as session:
        found = insight.listing(session, RANGES[over].window(clock.now()))
    columns = [
        Column("COMMAND", lambda one: one.shape, flexible=True),
        Column("RUNS", lambda one: f"{one.runs:,}", right=True),
        Column("FAILED", lambda one: f"{two_digits(100 * one.failures / one.runs)} %", right=True),
        *(Column(name.upper(), _quantile(part), right=True) for name, part in (("p50", 0.5), ("p95", 0.95))),
    ]
    present(found, columns, as_json, serializers.command, "No runs in this time.")


def _quantile(part: float) -> Callable[[Commands], Optional[str]]:
    def cell(one: Commands) -> Optional[str]:
        seconds = histograms.quantile(one.durations, part)
        return None if seconds is None else about(seconds)

    return cell
