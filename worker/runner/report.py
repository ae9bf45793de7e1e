"""The report file of one attempt: JSON lines that its command appends to `$QUEUECTL_REPORT`, if it wants to.

The file is the command's, so nothing in it is trusted: no link is followed, nothing is waited for, each read is
bounded, and a line that is not as expected is left out. What was written last counts.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from contextlib import suppress
from typing import Any, Callable, NamedTuple, Optional

from webapp.core.flow.retry_rules import MAX_WAIT

READ_LIMIT = 256 * 1024  # bytes of what was written since the last read; of more, only the end is read
LINE_LIMIT = 64 * 1024  # bytes
RESULT_LIMIT = 16 * 1024  # characters, as JSON
RESULT_DEPTH = 20  # levels: a page indents each
NOTE_LIMIT = 500  # characters
_HEAD = 64  # bytes: if they change, the file was written anew
_FLAGS: int = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY")
)


class Report(NamedTuple):
    """The last value of each kind. `fault`: what was wrong with lines that were left out."""

    progress: Optional[float] = None  # 0 to 1
    note: Optional[str] = None
    result: Optional[str] = None  # a JSON object
    retry_after: Optional[float] = None  # seconds
    fault: Optional[str] = None


NOTHING = Report()


class ReportFile:
    """The file of one running attempt. Two threads may read it."""

    # Defaults of the class, because most commands report nothing.
    _report = NOTHING
    _head = b""
    _file: tuple[int, int] = (0, 0)
    _position = 0
    _rest = b""  # a line without its end
    _faults, _first_fault = 0, ""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()

    def read(self) -> Optional[Report]:
        """What the command has reported so far; None: nothing."""
        with self._lock:
            self._read()
            return self._report if self._report != NOTHING else None

    def finish(self) -> Optional[Report]:
        """The same when the command has ended. Deletes the file."""
        with self._lock:
            self._read()
            if self._rest:
                self._take(self._rest)
            self._tell_faults()
            if self._report != NOTHING:
                delete(self.path)
            return self._report if self._report != NOTHING else None

    def _read(self) -> None:
        if not os.access(self.path, os.F_OK):  # most commands report nothing, and an error takes ten times as long
            return
        try:
            descriptor = os.open(self.path, _FLAGS)
        except FileNotFoundError:
            return
        except OSError as error:
            self._refuse(f"the file cannot be opened: {error.strerror}")
            return
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                self._refuse("it is not a file")
            elif hasattr(os, "getuid") and found.st_uid != os.getuid():
                self._refuse("the file belongs to another user")
            else:
                self._read_new(descriptor, found)
        except OSError as error:
            self._refuse(f"the file cannot be read: {error.strerror}")
        finally:
            os.close(descriptor)

    def _refuse(self, why: str) -> None:
        self._report = self._report._replace(fault=f"{why}.")

    def _read_new(self, descriptor: int, found: os.stat_result) -> None:
        size, file = found.st_size, (found.st_dev, found.st_ino)
        if size == self._position and file == self._file and self._head == _bytes_at(descriptor, 0, len(self._head)):
            return
        is_same = file == self._file and size >= self._position
        if not is_same or self._head != _bytes_at(descriptor, 0, len(self._head)):
            self._position, self._rest, self._file = 0, b"", file
        start = max(self._position, size - READ_LIMIT)
        data = _bytes_at(descriptor, start, size - start)
        if start > self._position:  # the first line is not whole
            self._rest, data = b"", data.partition(b"\n")[2]
        self._position, self._head = size, _bytes_at(descriptor, 0, min(size, _HEAD))
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= LINE_LIMIT else b"\0"  # too long: it will be no JSON
        for line in lines:
            if line.strip():
                self._take(line)
        self._tell_faults()

    def _take(self, line: bytes) -> None:
        try:
            if len(line) > LINE_LIMIT:
                raise ValueError(f"a line is longer than {LINE_LIMIT // 1024} KiB")
            self._report = self._report._replace(**_values(line))
        except (ValueError, RecursionError) as error:
            self._faults += 1
            is_ours = isinstance(error, _Wrong) or "longer" in str(error)
            self._first_fault = self._first_fault or (str(error) if is_ours else "it is not a JSON object")

    def _tell_faults(self) -> None:
        if self._faults:
            lines = "1 line was" if self._faults == 1 else f"{self._faults:,} lines were"
            self._report = self._report._replace(fault=f"{lines} ignored. The first: {self._first_fault}.")


def _bytes_at(descriptor: int, position: int, size: int) -> bytes:
    os.lseek(descriptor, position, os.SEEK_SET)
    parts: list[bytes] = []
    while size > 0 and (part := os.read(descriptor, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def delete(path: str) -> None:
    """Delete what is there. An error is ignored."""
    try:
        os.unlink(path)
    except OSError:
        import shutil  # a command may make a folder of it

        with suppress(OSError):
            shutil.rmtree(path)


# --- a line ----------------------------------------------------------------------------------------------------------


class _Wrong(ValueError):
    """The message says what is wrong with a value."""


def _values(line: bytes) -> dict[str, Any]:
    found = json.loads(line.decode(), parse_constant=_refuse_constant)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    known = [kind for kind in _READERS if kind in found]
    if not known:
        raise _Wrong(f"it has none of {', '.join(_READERS)}")
    return {kind: _READERS[kind](found[kind]) for kind in known}


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _progress(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise _Wrong("progress must be a number from 0 to 1")
    return float(value)


def _note(value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong("note must be a text")
    plain = "".join(one if one.isprintable() else " " for one in value[: 4 * NOTE_LIMIT])
    return " ".join(plain.split())[:NOTE_LIMIT]


def _result(value: object) -> str:
    if not isinstance(value, dict):
        raise _Wrong("result must be an object")
    text = json.dumps(value, allow_nan=False)
    if len(text) > RESULT_LIMIT:
        raise _Wrong(f"result is longer than {RESULT_LIMIT // 1024} KiB")
    if _is_deep([value]):
        raise _Wrong(f"result has more than {RESULT_DEPTH} levels")
    return text


def _is_deep(level: list[Any]) -> bool:
    """Whether there are more than RESULT_DEPTH objects or lists inside each other."""
    for _ in range(RESULT_DEPTH + 1):
        if not level:
            return False
        parts = (list(one.values()) if isinstance(one, dict) else one for one in level)
        level = [one for part in parts for one in part if isinstance(one, (dict, list))]
    return True


def _retry_after(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise _Wrong("retry_after must be a number of seconds")
    return float(min(value, MAX_WAIT))


_READERS: dict[str, Callable[[object], Any]] = {
    "progress": _progress,
    "note": _note,
    "result": _result,
    "retry_after": _retry_after,
}
