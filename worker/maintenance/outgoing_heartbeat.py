"""Pings QUEUECTL_HEARTBEAT_URL while workers take jobs, because a machine cannot report that it is down.

An external service raises the alarm when the pings stop. Each ping is a thread of its own, so that a slow answer delays
nothing. The last result is in a file of the home folder, for `doctor`; it does not contain the URL's secret part.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from webapp.config import Config
from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from webapp.lib.system import private_files
from webapp.lib.text import one_line
from webapp.lib.urls import masked
from webapp.lib.version import __version__

log = logging.getLogger("queuectl.heartbeat")

PING_EVERY = 60.0  # seconds
TIMEOUT = 10.0  # seconds for a connection, and for each part of the answer
FILE = "heartbeat.json"

# Draining workers take no jobs. Dead workers are marked before this query.
_SERVES = "SELECT 1 FROM workers WHERE state = 'running' AND wish = 'run' LIMIT 1"


@dataclass(frozen=True)
class LastPing:
    """The last ping. `at`: microseconds; `url`: masked; `error`: None if it worked."""

    at: int
    url: str
    error: Optional[str]


class OutgoingHeartbeat:
    """Does nothing without a URL."""

    def __init__(self, config: Config) -> None:
        self._url = config.heartbeat_url
        self._shown = masked(self._url) if self._url else ""
        self._path = path_of(config)
        self._due = 0.0
        self._thread: Optional[threading.Thread] = None
        self._fails = False  # and this is logged

    def ping_if_due(self, connection: Connection) -> None:
        """Start a ping if a minute has passed and workers take jobs. Raises the connection's errors."""
        now = time.monotonic()
        if self._url is None or now < self._due or connection.scalar(_SERVES) is None:
            return
        # From the time when this one was due: ticks are late by a moment, which must not add up.
        self._due = (self._due if now - self._due < PING_EVERY else now) + PING_EVERY
        if self._thread is not None and self._thread.is_alive():
            self._note(f"no answer within {PING_EVERY:.0f} s")
            return
        self._thread = threading.Thread(target=self._ping, args=(self._url,), name="heartbeat", daemon=True)
        self._thread.start()

    def _ping(self, url: str) -> None:
        try:
            self._note(_error_of(url))
        except Exception:  # the next ping is another try
            log.exception("heartbeat: internal error")

    def _note(self, error: Optional[str]) -> None:
        """Log a change, and keep the result."""
        if error is not None and not self._fails:
            log.warning("heartbeat: the ping of %s failed: %s. It is retried every minute", self._shown, error)
        elif error is None and self._fails:
            log.info("heartbeat: the ping of %s works again", self._shown)
        self._fails = error is not None
        with suppress(OSError):  # such as a full disk
            _store(self._path, LastPing(time.time_ns() // 1000, self._shown, error))


def path_of(config: Config) -> Path:
    return config.home / FILE


def last_ping(config: Config) -> Optional[LastPing]:
    """The last ping of any supervisor with this home folder; None if there was none. Raises OSError."""
    try:
        found = json.loads(path_of(config).read_text(encoding="utf-8"))
        return LastPing(int(found["at"]), str(found["url"]), found["error"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # not ours
        return None


def age(ping: LastPing) -> float:
    """Seconds since a ping. The machine's clock counts, as in the file."""
    return max(0.0, (time.time_ns() // 1000 - ping.at) / clock.SECOND)


def _store(path: Path, ping: LastPing) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        beside.unlink()
    with open(private_files.create_private(beside), "w", encoding="utf-8") as file:
        json.dump(vars(ping), file)
    os.replace(beside, path)


def _error_of(url: str) -> Optional[str]:
    """Request the URL. Why it failed, without the URL; None: it was answered with success."""
    import http.client  # only here: these take memory and time that workers do not need
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": f"queuectl/{__version__}"})  # noqa: S310 -- http(s)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP status {error.code}"
    except urllib.error.URLError as error:
        reason = error.reason
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error
    text = getattr(reason, "strerror", None) or str(reason)
    # A text with a path may have the secret: some errors quote the URL, or that of a redirect.
    return one_line(text, 200) if text and "/" not in text else type(reason).__name__
