"""What a supervisor and its children send each other, and how a child process runs and exits."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, NoReturn, Optional, Union

from webapp.config import ConfigError
from webapp.core.storage.relocated import Relocated
from worker import shortage

# Exit codes. The supervisor does not replace a worker that ended with DONE, OUTDATED or MOVED.
DONE, EXPIRED, BROKEN, OUTDATED, MOVED = 0, 75, 70, 78, 79

# Messages to a worker: finish running jobs and exit; release running jobs and exit; claim no more jobs; claim again.
STOP, NOW, QUIET, RESUME = "stop", "now", "quiet", "resume"
# Message to the maintenance process, which also gets STOP: a worker has ended, so check at once.
CHECK = "check"
# Both receive this when the pipe from the supervisor closes: the supervisor has ended or died.
GONE = "gone"

# Why no workers are wanted any more, as the maintenance process reports it.
STOP_REQUESTED = "a user requested it"
TAKEN_OVER = "a newer version uses the database"
RELOCATED = "the queue was moved to another database"

log = logging.getLogger("queuectl.supervisor")


@dataclass(frozen=True)
class Assignment:
    """What a supervisor's children work on.

    Attributes:
        count: the number of workers at the start. People may scale the supervisor later.
        slots: jobs that each worker runs at the same time.
        queues: None for all.
        labels: the workers' labels, without the host's.
        order: in which order workers look at `queues`: 'strict', or the weights of the queues; None: by priority and
            age of the jobs.
        parent: the descriptor of the pipe from the supervisor. Each child sets its own.
    """

    supervisor_id: str
    supervisor_pid: int
    count: int
    slots: int
    queues: Optional[Sequence[str]]
    labels: Sequence[str]
    drain: bool
    parent: int = -1
    order: Union[str, Sequence[int], None] = None


@dataclass(frozen=True)
class DesiredWorkers:
    """What the maintenance process reports to its supervisor.

    Attributes:
        count: how many workers people want.
        leaving: pids of workers that were asked to stop; `count` does not include them.
        stop_reason: STOP_REQUESTED, TAKEN_OVER, RELOCATED or empty.
        serving: the number of workers that are registered and run.
    """

    count: int
    leaving: tuple[int, ...] = ()
    stop_reason: str = ""
    serving: int = 0

    def line(self) -> bytes:
        """One line, below the 4096 bytes that a pipe writes atomically."""
        fields = [self.count, self.leaving, self.stop_reason, self.serving]
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"

    @staticmethod
    def parse(line: bytes) -> Optional[DesiredWorkers]:
        """None for other text that a process may print."""
        try:
            count, leaving, stop_reason, serving = json.loads(line)
            return DesiredWorkers(int(count), tuple(map(int, leaving)), str(stop_reason), int(serving))
        except (ValueError, TypeError):
            return None


def listen(descriptor: int, receive: Callable[[str], None]) -> None:
    """Call `receive`, in a thread, with each message from a pipe, and with GONE when the pipe closes.

    On Windows only a blocking read can wait for a pipe. The read is unbuffered, because a buffered reader's lock that
    is held when the interpreter exits is a fatal error.
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
                receive(line.decode().strip())
        receive(GONE)

    threading.Thread(target=read, name="messages", daemon=True).start()


def run_child(name: str, work: Callable[[], int]) -> NoReturn:
    """Run a child process and exit with the code that `work` returns, or with BROKEN if it fails.

    Skips the interpreter's normal exit: open files belong to the supervisor too, and threads may be blocked.
    """
    code = BROKEN
    try:
        code = work()
    except ConfigError as error:
        log.error("%s: %s", name, error)
    except Relocated as moved:
        log.error("%s: %s", name, moved)
        code = MOVED
    except BaseException as error:
        short = shortage.of(error)
        if short is None:
            log.exception("%s failed", name)
        else:
            log.error("%s ends: %s", name, short)
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
