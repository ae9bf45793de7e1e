"""What a supervisor gives its children to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Assignment:
    """What a supervisor tells its children. `queues` None means all; at the end of the pipe `parent` it is gone.

    `count`: how many workers it was started with; people may have changed that since.
    """

    supervisor_id: str
    supervisor_pid: int
    count: int
    slots: int
    queues: Optional[Sequence[str]]
    drain: bool
    parent: int
