"""Limits: how many jobs with a key may run at a time, and how many may start within a period.

A job names keys: `customer-7`, or `warehouse:exclusive`, with which no other job of that key runs. A limit has the
name of a key, or a pattern such as `customer-*`, which limits each of its keys. The key `queue:NAME` limits
all jobs of that queue. `worker/loop/limited.py` claims jobs that have keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Optional

from webapp.core.names import NAME, show
from webapp.lib import clock, durations
from webapp.lib.text import plural

MOST_KEYS = 8  # of one job
MOST_RUNNING = 100_000
MOST_STARTS = 10_000  # in a window; this many rows are kept for a key
LONGEST_WINDOW = clock.DAY
OF_QUEUE = "queue:"
EXCLUSIVE, SHARED = ":exclusive", ":shared"
KEY_RULE = (
    "1 to 128 characters of A-Z a-z 0-9 . _ : -, the first a letter or digit; a final * makes it a pattern, and "
    "queue:NAME means all jobs of a queue"
)
RATE_RULE = "expected a rate such as 10/min, 100/h or 5/30s"
_WINDOWS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
}
_SHOWN_WINDOWS = {1: ("s", "second"), 60: ("min", "minute"), 3600: ("h", "hour"), 86400: ("day", "day")}

READ = "SELECT key, most, rate, per FROM limits"
READ_PATTERNS = f"{READ} WHERE key LIKE '%*'"


class Key(NamedTuple):
    """A key that a job names. `exclusive`: no other job with this key may run at the same time."""

    name: str
    exclusive: bool = False

    def __str__(self) -> str:
        return self.name + EXCLUSIVE if self.exclusive else self.name


class Limit(NamedTuple):
    """At most `most` running jobs (None: any number), at most `rate` starts in `per` microseconds (None: any)."""

    key: str
    most: Optional[int] = None
    rate: Optional[int] = None
    per: Optional[int] = None


class Limits:
    """All limits."""

    def __init__(self, rows: Iterable[Sequence[Any]] = ()) -> None:
        """`rows`: those of READ."""
        found = [Limit(*row) for row in rows]
        self._named = {one.key: one for one in found if not one.key.endswith("*")}
        self._patterns = sorted((one for one in found if one.key.endswith("*")), key=lambda one: -len(one.key))

    def of(self, name: str) -> Optional[Limit]:
        """The limit of a key: its own, else the one of the longest pattern that it matches."""
        found = self._named.get(name)
        if found is not None or not self._patterns:
            return found
        return next((one for one in self._patterns if matches(one.key, name)), None)

    def of_queue(self, queue: str) -> Optional[Limit]:
        # The queue of the jobs that send messages has none; other names do not begin with "_".
        return None if queue.startswith("_") else self.of(OF_QUEUE + queue)

    def unknown(self, words: Iterable[str]) -> list[str]:
        """The keys of a job that have no limit."""
        return [key.name for key in map(read_key, words) if self.of(key.name) is None]

    @property
    def of_queues(self) -> bool:
        """Whether any queue may have a limit."""
        return any(key.startswith(OF_QUEUE) for key in (*self._named, *(one.key for one in self._patterns)))

    def keys_of(self, queue: str, text: str) -> list[tuple[Key, Limit]]:
        """The keys that a job has, with their limits: those of its column `limits`, and the one of its queue.

        A key whose limit was removed has no bounds; it is still shared or exclusive.
        """
        keys = [(key, self.of(key.name) or Limit(key.name)) for key in split(text)]
        inherited = self.of_queue(queue)
        if inherited is not None:
            keys.append((Key(OF_QUEUE + queue), inherited))
        return keys


def matches(pattern: str, name: str) -> bool:
    """Whether a limit with this key, a name or a pattern, holds for the key `name`."""
    if not pattern.endswith("*"):
        return pattern == name
    # Only a pattern that begins with queue: applies to queues.
    return name.startswith(pattern[:-1]) and pattern.startswith(OF_QUEUE) == name.startswith(OF_QUEUE)


# --- keys of a job ---------------------------------------------------------------------------------------------------


def read_key(word: str) -> Key:
    """A key as a job names it. Raises ValueError, with a sentence that needs the value in front."""
    exclusive = word.endswith(EXCLUSIVE)
    name = word[: -len(EXCLUSIVE)] if exclusive else word.removesuffix(SHARED)
    if not NAME.match(name):
        raise ValueError("is not a key; expected a name such as customer-7, or warehouse:exclusive")
    if name.startswith(OF_QUEUE):
        raise ValueError("is not allowed: a job has the limit of its queue without naming it")
    return Key(name, exclusive)


def text_of(words: Iterable[str]) -> str:
    """The column `limits`: the keys, sorted and separated by commas."""
    return ",".join(str(key) for key in sorted({read_key(word) for word in words}))


def split(text: str) -> list[Key]:
    """The keys in a column `limits`."""
    keys = text.split(",") if text else ()
    return [Key(word[: -len(EXCLUSIVE)], True) if word.endswith(EXCLUSIVE) else Key(word) for word in keys]


def no_limit(name: str) -> str:
    """The error for a job that names this key."""
    return f"there is no limit for the key {name!r}. `manage.py limits set {name} --max N` adds one."


def read(value: object) -> tuple[str, ...]:
    """One key of a limit, several separated by commas or spaces, or a list."""
    words = [word for word in re.split(r"[,\s]+", value) if word] if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)):
        raise ValueError(f"{show(value)} is not allowed; expected keys of limits, such as customer-7.")
    keys: dict[str, Key] = {}
    for word in words:
        try:
            key = read_key(word) if isinstance(word, str) else None
        except ValueError as error:
            raise ValueError(f"{show(word)} {error}.") from None
        if key is None:
            raise ValueError(f"{show(word)} is not a key; expected a text such as customer-7.")
        if keys.setdefault(key.name, key) != key:
            raise ValueError(f"has the key {key.name} both shared and exclusive. Give it once.")
    if len(keys) > MOST_KEYS:
        raise ValueError(f"has {len(keys)} keys; at most {MOST_KEYS} are allowed.")
    return tuple(str(keys[name]) for name in sorted(keys))


# --- values of a limit -----------------------------------------------------------------------------------------------


def check_key(key: str) -> str:
    """The key of a limit, or a pattern. Raises ValueError, with a sentence that needs the field's name in front."""
    name = key.removesuffix("*")
    valid = not name or name == OF_QUEUE or NAME.match(name)
    if key in {"", OF_QUEUE} or not valid or key.endswith((EXCLUSIVE, SHARED)):
        raise ValueError(f"{key[:128]!r} is not allowed; expected {KEY_RULE}.")
    return key


def read_rate(text: str) -> tuple[int, int]:
    """A rate such as '10/min': the number of starts, and the window in microseconds. Raises ValueError likewise."""
    number, _, window = (part.strip() for part in text.partition("/"))
    seconds: float = _WINDOWS.get(window.lower(), 0)
    if not seconds and window:
        with suppress(ValueError):
            seconds = durations.parse(window)
    if not (number.isascii() and number.isdigit() and seconds):
        raise ValueError(f"{text[:60]!r} is not allowed; {RATE_RULE}.")
    if not (1 <= seconds <= LONGEST_WINDOW / clock.SECOND and seconds == int(seconds)):
        raise ValueError(f"{text[:60]!r} is not allowed; expected a window of whole seconds, at most a day.")
    if len(number) > 6 or not 1 <= int(number) <= MOST_STARTS:
        raise ValueError(f"{text[:60]!r} is not allowed; expected 1 to {MOST_STARTS:,} starts in a window.")
    return int(number), clock.seconds(seconds)


def rate_text(rate: Optional[int], per: Optional[int]) -> Optional[str]:
    """'10/min', as `read_rate` reads it; None without a rate."""
    if rate is None or per is None:
        return None
    seconds = per // clock.SECOND
    window = _SHOWN_WINDOWS[seconds][0] if seconds in _SHOWN_WINDOWS else durations.short(seconds)
    return f"{rate}/{window}"


def describe(most: Optional[int], rate: Optional[int], per: Optional[int]) -> str:
    """'at most 2 at a time, 10 starts per minute'"""
    parts = [] if most is None else [f"at most {most:,} at a time"]
    if rate is not None and per is not None:
        seconds = per // clock.SECOND
        window = _SHOWN_WINDOWS[seconds][1] if seconds in _SHOWN_WINDOWS else durations.duration(seconds)
        parts.append(f"{plural(rate, 'start')} per {window}")
    return ", ".join(parts) or "any number at a time"
