"""Labels: what a job requires of the worker that is to run it, and what workers have. A host is one: `host:web-1`.

A job's labels stand in its row as one text, sorted. Those of one queue that require the same are a lane (`db/label_sets.py`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

MOST = 8  # labels of one job, and of one worker
HOST = "host:"


@dataclass(frozen=True)
class LabelSet:
    """The pending jobs of a queue that require these labels; `requires` as `text_of` writes it, empty for no labels."""

    queue: str
    requires: str = ""


def text_of(labels: Iterable[str]) -> str:
    return ",".join(sorted({tidy(label) for label in labels}))


def split(text: str) -> list[str]:
    return text.split(",") if text else []


def of_worker(given: Iterable[str], host: str) -> frozenset[str]:
    """All that a worker has: what it was started with, and its host's."""
    return frozenset({*map(tidy, given), of_host(host)})


def of_host(host: str) -> str:
    """The label of a host. Its name knows no case, and some machines have signs in theirs that labels may not have."""
    return HOST + re.sub(r"[^a-z0-9._:-]", "-", host.lower())


def suffice(had: Collection[str], requires: str) -> bool:
    """Whether a worker with these labels may run what requires those."""
    return all(label in had for label in split(requires))


def tidy(label: str) -> str:
    """A label as it is compared: a host's name has one way to be written."""
    return of_host(label[len(HOST) :]) if label.lower().startswith(HOST) else label
