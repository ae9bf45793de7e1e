"""What every child of a supervisor has: an ear for it, and an end. What they do is in `worker/loop/worker.py` and `worker/maintenance/process.py`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from dataclasses import dataclass
from typing import Callable, NoReturn, Optional

from webapp.config import ConfigError
from webapp.core.relocated import Relocated

# Exit codes: after DONE, OUTDATED and MOVED the supervisor starts no other worker.
DONE, EXPIRED, BROKEN, OUTDATED, MOVED = 0, 75, 70, 78, 79

# What a worker hears from its supervisor: let what runs finish; hand it back at once; take no more.
STOP, NOW, QUIET = "stop", "now", "quiet"
LOOK = "look"  # what a keeper hears: a worker has ended; and STOP: the supervisor was told to stop
# What a keeper may add to how many workers people want.
END, TAKEN_OVER, ELSEWHERE = "end", "taken over", "elsewhere"
GONE = "gone"  # what both hear when the supervisor's end of the pipe was closed, by itself or by its death

log = logging.getLogger("queuectl.supervisor")


@dataclass(frozen=True)
class Wanted:
    """What a keeper tells its supervisor: so many workers, beside those (pids) that are about to leave.

    `then` is END where a person stopped everything, TAKEN_OVER where a newer version has the database, ELSEWHERE where
    the queue was moved to another one, else empty. `serving` of its workers are in the database and run.
    """

    count: int
    leaving: tuple[int, ...] = ()
    then: str = ""
    serving: int = 0

    def line(self) -> bytes:
        """Shorter than the 4096 bytes that a pipe takes whole, so that a keeper's death tears none."""
        return json.dumps([self.count, self.leaving, self.then, self.serving], separators=(",", ":")).encode() + b"\n"

    @staticmethod
    def parse(line: bytes) -> Optional[Wanted]:
        """None for anything else that a process may print."""
        try:
            count, leaving, then, serving = json.loads(line)
            return Wanted(int(count), tuple(map(int, leaving)), str(then), int(serving))
        except (ValueError, TypeError):
            return None


def listen(descriptor: int, hear: Callable[[str], None]) -> None:
    """Have `hear` called, in a thread, with each word that comes through a pipe, and with GONE at its end.

    A thread, because on Windows nothing waits for a pipe but a read; and no buffered reader, because its lock, held at
    the interpreter's end, is a fatal error.
    """

    def read() -> None:
        rest, data = b"", b" "
        while data:
            try:
                data = os.read(descriptor, 4096)
            except OSError:
                data = b""
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                hear(line.decode().strip())
        hear(GONE)

    threading.Thread(target=read, name="ear", daemon=True).start()


def live(name: str, work: Callable[[], int]) -> NoReturn:
    """Be this process until its work is done; end with its exit code, BROKEN where it failed.

    Ends without the interpreter's ceremony: what is open belongs to the supervisor as well, or to threads that wait.
    """
    code = BROKEN
    try:
        code = work()
    except ConfigError as error:
        log.error("%s: %s", name, error)
    except Relocated as moved:
        log.error("%s: %s", name, moved)
        code = MOVED
    except BaseException:
        log.exception("%s failed", name)
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
