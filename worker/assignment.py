"""What a supervisor gives its children to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from webapp.core import labels
from worker import processes


@dataclass(frozen=True)
class Assignment:
    """What a supervisor tells its children. `queues` None means all; at the end of the pipe `parent` it is gone.

    `count`: how many workers it was started with; people may have changed that since. `labels`: what those have beside
    their host's.
    """

    supervisor_id: str
    supervisor_pid: int
    count: int
    slots: int
    queues: Optional[Sequence[str]]
    labels: Sequence[str]
    drain: bool
    parent: int = -1  # each process that has one puts in its own

    @property
    def has(self) -> frozenset[str]:
        """All labels of its workers, their host's among them."""
        return labels.of_worker(self.labels, processes.host_name())
