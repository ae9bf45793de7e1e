"""Labels: what a job requires of its worker, and what workers have. A host is a label too: `host:web-1`.

A job's labels are one sorted text in its row. Jobs of a queue with the same labels form a label set.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

MOST = 8  # labels of one job, and of one worker
HOST = "host:"


class LabelSet(NamedTuple):
    """The pending jobs of a queue that require these labels; `requires` as `text_of` writes it, empty for no labels."""

    queue: str
    requires: str = ""


def text_of(labels: Iterable[str]) -> str:
    return ",".join(sorted({tidy(label) for label in labels}))


def split(text: str) -> list[str]:
    return text.split(",") if text else []


def of_worker(given: Iterable[str], host: str) -> frozenset[str]:
    """All labels of a worker: those it was started with, and the label of its host."""
    return frozenset({*map(tidy, given), of_host(host)})


def of_host(host: str) -> str:
    """The label of a host. Host names ignore case; characters that labels may not have become '-'."""
    return HOST + re.sub(r"[^a-z0-9._:-]", "-", host.lower())


def suffice(had: Collection[str], requires: str) -> bool:
    """Whether a worker with these labels may run a job with these requirements."""
    return all(label in had for label in split(requires))


def tidy(label: str) -> str:
    """A label in the form used for comparison: host labels in lower case."""
    return of_host(label[len(HOST) :]) if label.lower().startswith(HOST) else label
