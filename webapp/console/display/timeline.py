"""A job's history: events, attempts and the phases between them in one list, and the phases as a bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional, Union

from webapp.db.models import Attempt, Job
from webapp.jobs.job_detail import TimelineEntry
from webapp.jobs.job_phases import Phase, totals
from webapp.lib import clock
from webapp.lib.durations import duration

SHOWN = 80  # entries in the list; the rest is counted
DRAWN = 60  # phases in the bar: the last ones
WIDTH = 1000.0  # of the bar, in units of its view box
LEAST = 5.0  # smallest width of a phase
OPEN = 40.0  # width of the current phase

WORDS = {
    "not_due": "not due for",
    "waited": "waited",
    "ran": "ran",
    "backed_off": "backed off",
    "unclear": "backed off, then waited",
}
NOW_WORDS = {"backed_off": "backs off"}


@dataclass(frozen=True)
class AttemptLine:
    """An attempt. `row` None: it runs. `error` is '' if a newer line or the head of the page says the same."""

    number: int
    started_at: int
    row: Optional[Attempt] = None
    error: str = ""


Line = Union[TimelineEntry, AttemptLine, Phase]


class Segment(NamedTuple):
    """One phase in the bar, in units of the view box."""

    kind: str
    x: float
    width: float
    text: str
    open: bool


@dataclass(frozen=True)
class Bar:
    """`legend` has kind, label and total of each kind; `text` is the same for screen readers."""

    segments: list[Segment]
    legend: list[tuple[str, str, str]]
    cut: bool

    @property
    def text(self) -> str:
        return ", ".join(f"{word} {total}" for _, word, total in self.legend)


def merged(
    job: Job, moments: Sequence[TimelineEntry], attempts: Sequence[Attempt], phases: Sequence[Phase]
) -> list[Line]:
    """All in one list, newest first. A phase is placed between the events at its two ends."""
    lines: list[Line] = [one for one in moments if one.attempt is None]
    keyed = [(line.at, 0, place, line) for place, line in enumerate(lines)]  # type: ignore[union-attr]
    keyed += [(one.started_at, 0, len(keyed) + one.number, one) for one in _attempts(job, attempts)]
    keyed += [(one.start, 1, place, one) for place, one in enumerate(phases) if one.kind != "ran"]
    return [line for *_, line in sorted(keyed, key=lambda key: key[:3], reverse=True)]


def _attempts(job: Job, ended: Sequence[Attempt]) -> list[AttemptLine]:
    """Newest first. Each error stands once: with the newest attempt that has it, or in the head of the page."""
    said = {job.error_key, job.last_error} if job.state in ("failed", "dead") else set()
    lines = []
    if job.state == "processing" and job.started_at is not None:
        lines.append(AttemptLine(job.attempts, job.started_at))
    for one in reversed(ended):
        cause = one.error_key or one.error
        new = one.state in ("failed", "lost") and cause not in said
        if new:
            said.add(cause)
        lines.append(AttemptLine(one.number, one.started_at, one, (one.error or "") if new else ""))
    return lines


def phase_text(phase: Phase) -> str:
    """'waited 3 s', 'backs off 40 s'. The template adds the duration of the current phase."""
    if phase.end is None:
        return {"waited": "waiting", "ran": "running"}[phase.kind]
    word = NOW_WORDS.get(phase.kind, WORDS[phase.kind]) if phase.end > clock.now() else WORDS[phase.kind]
    return f"{word} {duration((phase.end - phase.start) / clock.SECOND)}"


def bar_of(phases: Sequence[Phase]) -> Optional[Bar]:
    """The last phases, to scale except for very short ones. None before the first attempt has ended."""
    sums = totals(phases)
    if "ran" not in sums:
        return None
    drawn = phases[-DRAWN:]
    whole = sum(phase.end - phase.start for phase in drawn if phase.end is not None) or 1
    widths = [OPEN if one.end is None else max((one.end - one.start) / whole * WIDTH, LEAST) for one in drawn]
    scale = WIDTH / sum(widths)
    segments, x = [], 0.0
    for phase, width in zip(drawn, widths):
        text = "in progress" if phase.end is None else phase_text(phase)
        text = f"attempt {phase.attempt} {text}" if phase.attempt is not None else text
        segments.append(Segment(phase.kind, round(x, 1), round(width * scale, 1), text, phase.end is None))
        x += width * scale
    legend = [(kind, WORDS[kind], duration(total / clock.SECOND)) for kind, total in sums.items()]
    return Bar(segments, legend, len(phases) > DRAWN)
