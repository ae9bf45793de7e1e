"""`status`: the queue at a glance. One job is `show`'s, the fleet in detail `worker list`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.shared.core import core, json_option
from webapp.commands.shared.output import STYLES, print_json, show, two_digits
from webapp.core import labels
from webapp.lib import clock
from webapp.lib.durations import about, duration
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.insight.blockers import Obstacle
    from webapp.jobs.queries import Waiting

MOST_STRANDED = 3  # groups of jobs that are named


@click.command(epilog="Example: manage.py status --json")
@json_option
def status(as_json: bool) -> None:
    """Show how many jobs are in each state, which workers are alive, and what waits."""
    from webapp.db.engines import reading
    from webapp.insight import blockers, fleet, trends
    from webapp.insight.queues import all_queues
    from webapp.jobs import queries
    from webapp.jobs import settings as tunables
    from webapp.web import serializers

    if as_json:
        with core(), reading() as session:
            print_json(serializers.status(session))
        return
    with core(), reading() as session:
        now = clock.now()
        states = queries.count_states_exactly(session)
        workers = fleet.workers(session, tunables.load(session).lease)
        waited = queries.waited(queries.oldest_pending(session), now)
        minute = queries.count_finished_since(session, now - serializers.MINUTE)
        hour = queries.count_finished_since(session, now - serializers.HOUR)
        lately = trends.trend(session, trends.RANGES["1h"])
        paused = queries.paused_queues(session)
        alive = [view for view in workers if view.alive]
        stranded = blockers.stranded(all_queues(session, lately.rates), alive)
    silent = len(workers) - len(alive)
    _print(
        states,
        {
            "workers": _workers(len(alive), silent, sum(view.worker.slots for view in alive), states),
            "oldest pending": "nothing waits" if waited is None else f"waits {duration(round(waited))}",
            "finished": f"{minute} in the last minute, {hour} in the last hour",
            "rate": _rate(sum(lately.rates.values())),
            "last hour": _times(serializers.trend(lately)),
            "paused queues": ", ".join(paused) or None,
            "no worker for": _stranded(stranded),
        },
    )


def _workers(alive: int, silent: int, slots: int, states: dict[str, int]) -> str:
    if not alive and not silent:
        waiting = states["pending"] + states["scheduled"] + states["failed"]
        return "none" + (" · start one: manage.py worker start" if waiting else "")
    text = f"{alive} alive, {plural(slots, 'slot')}"
    return text + (f", {silent} silent (see manage.py worker list)" if silent else "")


def _stranded(found: list[tuple[Waiting, Obstacle]]) -> Optional[str]:
    """Jobs that no worker may take, for none has what they require."""
    told = [
        f"{one.number} in {one.label_set.queue}, which need{'s' if one.number.number == 1 else ''} "
        + " and ".join(labels.split(one.label_set.requires))
        for one, _ in found[:MOST_STRANDED]
    ]
    more = [f"and {len(found) - MOST_STRANDED} more such groups"] if len(found) > MOST_STRANDED else []
    return "; ".join(told + more) or None


def _rate(per_minute: float) -> Optional[str]:
    return f"about {two_digits(per_minute)} runs end a minute" if per_minute else None


def _times(hour: dict[str, Any]) -> Optional[str]:
    """How long jobs waited and ran, half of them and 95 % of them at the most."""
    if hour["run_seconds"]["p50"] is None:
        return None
    waits, runs = hour["wait_seconds"], hour["run_seconds"]
    words = [f"ran {about(runs['p50'])}, 95 % within {about(runs['p95'])}"]
    if waits["p50"] is not None:
        words.insert(0, f"waited {about(waits['p50'])}, 95 % within {about(waits['p95'])}")
    return "; ".join(words)


def _print(states: dict[str, int], lines: dict[str, Optional[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    for state, number in states.items():
        grid.add_row(Text(state, style=STYLES[state] if number else "dim"), Text(f"{number:,}"))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in lines.items():
        if text is not None:
            facts.add_row(name, text)
    show(grid, "", facts)
