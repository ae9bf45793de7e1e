"""A job's timeline as its page shows it: moments and what lay between them in one list, and all of it as a bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Union

from webapp.jobs.job_detail import TimelineEntry
from webapp.jobs.job_phases import Phase, totals
from webapp.lib import clock
from webapp.lib.durations import duration

SHOWN = 80  # lines of the list; the rest is counted
DRAWN = 60  # phases in the bar, the last ones
WIDTH = 1000.0  # of the whole bar, in the units of its view box
LEAST = 5.0  # of a phase, so that the shortest can be seen
OPEN = 40.0  # of one that goes on

WORDS = {
    "not_due": "not due for",
    "waited": "waited",
    "ran": "ran",
    "backed_off": "backed off",
    "unclear": "backed off and waited",
}
NOW_WORDS = {"backed_off": "backs off"}
Line = Union[TimelineEntry, Phase]


@dataclass(frozen=True)
class Segment:
    """One phase in the bar: where it begins and how wide it is, in units of the view box."""

    kind: str
    x: float
    width: float
    text: str
    open: bool


@dataclass(frozen=True)
class Bar:
    """`legend` has kind, word and sum of each kind that occurred; `text` is the same for those who do not see it."""

    segments: list[Segment]
    legend: list[tuple[str, str, str]]
    cut: bool

    @property
    def text(self) -> str:
        return ", ".join(f"{word} {total}" for _, word, total in self.legend)


def merged(moments: Sequence[TimelineEntry], lived: Sequence[Phase]) -> list[Line]:
    """Both in one list, newest first. A phase stands between the moments at its two ends."""
    keyed = [(one.at, 0, place, one) for place, one in enumerate(moments)]
    keyed += [(one.start, 1, place, one) for place, one in enumerate(lived)]  # type: ignore[misc]
    return [line for *_, line in sorted(keyed, key=lambda key: key[:3], reverse=True)]


def told(phase: Phase) -> str:
    """'waited 3 s', 'backs off 40 s'; what goes on has its length told by a time element behind these words."""
    if phase.end is None:
        return {"waited": "has waited for", "ran": "has run for"}[phase.kind]
    word = NOW_WORDS.get(phase.kind, WORDS[phase.kind]) if phase.end > clock.now() else WORDS[phase.kind]
    return f"{word} {duration((phase.end - phase.start) / clock.SECOND)}"


def bar_of(lived: Sequence[Phase]) -> Optional[Bar]:
    """The last phases to scale, but for those that are too short to see. None before the first attempt has ended."""
    sums = totals(lived)
    if "ran" not in sums:
        return None
    drawn = lived[-DRAWN:]
    whole = sum(phase.end - phase.start for phase in drawn if phase.end is not None) or 1
    widths = [OPEN if one.end is None else max((one.end - one.start) / whole * WIDTH, LEAST) for one in drawn]
    scale = WIDTH / sum(widths)
    segments, x = [], 0.0
    for phase, width in zip(drawn, widths):
        text = "goes on" if phase.end is None else told(phase)
        text = f"attempt {phase.attempt} {text}" if phase.attempt is not None else text
        segments.append(Segment(phase.kind, round(x, 1), round(width * scale, 1), text, phase.end is None))
        x += width * scale
    legend = [(kind, WORDS[kind], duration(total / clock.SECOND)) for kind, total in sums.items()]
    return Bar(segments, legend, len(lived) > DRAWN)
