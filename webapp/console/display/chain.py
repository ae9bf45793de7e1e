"""Draws a chain of jobs: boxes in layers, as SVG without script, for `templates/job/_chain.html`.

Above MOST_BOXES jobs, those with the same state and batch in neighbouring layers share a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from sqlalchemy.orm import Session

from webapp.db.models import Job
from webapp.jobs.flow import chains
from webapp.jobs.flow.chains import Graph, Node
from webapp.lib.durations import about
from webapp.lib.text import plural, shorten

MOST_BOXES = 200
MOST_COLUMNS = 20  # of boxes that stand for several jobs
WIDTH, HEIGHT, GAP_X, GAP_Y, EDGE = 176, 44, 48, 12, 4
SHOWN_ID = 20  # characters
MOST_COUNTED = 1_000
GONE = "gone"


class Box(NamedTuple):
    """One job, or several. `id` '': several. Positions are of its upper left corner."""

    x: int
    y: int
    state: str
    id: str
    title: str
    note: str
    text: str
    here: bool
    critical: bool


class Line(NamedTuple):
    """An edge from a parent to its follower, as the path of a curve."""

    path: str
    critical: bool


@dataclass(frozen=True)
class Chain:
    """The drawing. `summary` describes it in a sentence; `listed`: jobs for the list beneath, in their order."""

    boxes: list[Box]
    lines: list[Line]
    width: int
    height: int
    summary: str
    listed: list[Node]
    whole: bool
    collapsed: bool


def values_of(session: Session, job: Job) -> dict[str, Any]:
    """What the page of a job shows: its chain, and how many jobs are blocked below, up to MOST_COUNTED."""
    failed = job.state in ("dead", "cancelled")
    below = len(chains.blocked_below(session, job, MOST_COUNTED)) if failed else 0
    return {"chain": chain_of(chains.graph(session, job), job.id), "below": below, "most_below": MOST_COUNTED}


def chain_of(graph: Optional[Graph], job_id: str) -> Optional[Chain]:
    if graph is None:
        return None
    collapsed = len(graph.nodes) > MOST_BOXES
    groups = _groups(graph.nodes, job_id) if collapsed else [[node] for node in graph.nodes]
    columns = _columns(groups, MOST_COLUMNS if collapsed else None)
    tallest = max(len(column) for column in columns)
    height = tallest * (HEIGHT + GAP_Y) - GAP_Y + 2 * EDGE
    boxes, place = [], {}
    for number, column in enumerate(columns):
        top = EDGE + (tallest - len(column)) * (HEIGHT + GAP_Y) // 2
        for row, group in enumerate(column):
            box = _box(group, EDGE + number * (WIDTH + GAP_X), top + row * (HEIGHT + GAP_Y), job_id)
            boxes.append(box)
            place.update(dict.fromkeys((node.seq for node in group), box))
    width = len(columns) * (WIDTH + GAP_X) - GAP_X + 2 * EDGE
    listed = graph.nodes[:MOST_BOXES]
    return Chain(boxes, _lines(graph.nodes, place), width, height, _summary(graph), listed, graph.whole, collapsed)


def _groups(nodes: Sequence[Node], job_id: str) -> list[list[Node]]:
    """Jobs that share a box: the same column, state and batch. The job of the page has its own."""
    deepest = max(node.layer for node in nodes) + 1
    found: dict[object, list[Node]] = {}
    for node in nodes:
        column = node.layer * min(MOST_COLUMNS, deepest) // deepest
        key = node.id if node.id == job_id else (column, node.state, node.batch)
        found.setdefault(key, []).append(node)
    return list(found.values())


def _columns(groups: Sequence[list[Node]], most: Optional[int]) -> list[list[list[Node]]]:
    deepest = max(node.layer for group in groups for node in group) + 1
    number = deepest if most is None else min(most, deepest)
    columns: list[list[list[Node]]] = [[] for _ in range(number)]
    for group in groups:
        columns[group[0].layer * number // deepest].append(group)
    return [column for column in columns if column]


def _box(group: Sequence[Node], x: int, y: int, job_id: str) -> Box:
    first = group[0]
    state = first.state or GONE
    critical = any(node.critical for node in group)
    if len(group) == 1:
        took = f" · {about(first.seconds)}" if first.seconds is not None else ""
        note = f"{state}{took}"
        text = f"{first.id}: {note}{', on the critical path' if critical else ''}"
        return Box(x, y, state, first.id, shorten(first.id, SHOWN_ID), note, text, first.id == job_id, critical)
    title = plural(len(group), "job")
    note = f"{state}{f' · {shorten(first.batch, 12)}' if first.batch else ''}"
    text = f"{title}: {state}{f', batch {first.batch}' if first.batch else ''}"
    return Box(x, y, state, "", title, note, text, False, critical)


def _lines(nodes: Sequence[Node], place: dict[int, Box]) -> list[Line]:
    critical = {node.seq for node in nodes if node.critical}
    found: dict[tuple[int, int, int, int], bool] = {}
    for node in nodes:
        for parent in node.parents:
            a, b = place[parent], place[node.seq]
            if (a.x, a.y) != (b.x, b.y):
                key = (a.x + WIDTH, a.y + HEIGHT // 2, b.x, b.y + HEIGHT // 2)
                found[key] = found.get(key, False) or (parent in critical and node.seq in critical)
    lines = []
    for (x1, y1, x2, y2), marked in found.items():
        middle = (x1 + x2) // 2
        lines.append(Line(f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}", marked))
    return sorted(lines, key=lambda line: line.critical)  # marked ones on top


def _summary(graph: Graph) -> str:
    counts: dict[str, int] = {}
    for node in graph.nodes:
        counts[node.state or GONE] = counts.get(node.state or GONE, 0) + 1
    states = ", ".join(f"{number:,} {state}" for state, number in counts.items())
    path = [node.id for node in graph.nodes if node.critical]
    critical = ""
    if graph.critical_seconds:
        names = " → ".join(path if len(path) <= 5 else [*path[:3], "…", path[-1]])
        critical = f" Critical path, {about(graph.critical_seconds)}: {names}."
    return f"{plural(len(graph.nodes), 'job')}: {states}.{critical}"
