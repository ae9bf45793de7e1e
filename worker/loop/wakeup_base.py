"""What a worker asks of whatever tells it that there is work. The ways to learn it are in `wakeup.py`."""

from __future__ import annotations

import math
import threading
from typing import Optional

from webapp.core.transaction import Connection

SLOW_LOOK = 10.0  # seconds: behind the notification, should one be missed
BLIND_LOOK = 0.5  # where nothing notifies that should
VERSION_LOOK = 0.05  # between two looks at the data version


class Wakeup:
    """Tells that somebody may have stored work.

    Attributes:
        look_every: seconds between two questions whether it `rang`, where there is no descriptor.
    """

    look_every = math.inf

    @property
    def slow_look(self) -> float:
        """Seconds after which a worker looks for work although nothing told it, as things stand."""
        return SLOW_LOOK

    def descriptor(self) -> Optional[int]:
        """What can be read from once somebody has; None where nothing tells of itself."""
        return None

    def rang(self) -> bool:
        """Whether anybody may have stored work since the last question; forgets it."""
        return False

    def listen(self, connection: Connection, ended: threading.Event, seconds: float) -> bool:
        """Let so many seconds pass, or until `ended`, and hear meanwhile what the database says on this connection.

        False, and sooner, where the connection no longer works.
        """
        del connection
        ended.wait(seconds)
        return True

    def close(self) -> None:
        """Listen no more."""
