"""Reads and validates the description of a job (JSON, form fields, command-line options).

Without a schema library: each message must name the field, the value, the rule and the nearest known key, and a file
of 100,000 jobs must be read in a second.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Callable, NamedTuple, Optional

from webapp.core import labels
from webapp.core.flow import after, limits, retry_rules, unique_keys
from webapp.core.flow.after import MAX_AFTER as MAX_AFTER
from webapp.core.flow.after import WANTS as WANTS
from webapp.core.flow.after import After as After
from webapp.core.flow.unique_keys import Holder, Unique
from webapp.core.names import NAME as NAME
from webapp.core.names import NAME_RULE as NAME_RULE
from webapp.core.names import SHOWN, show
from webapp.lib import clock, durations
from webapp.lib.text import BYTE_ORDER_MARK, escape_controls, shorten, unix_lines

DEFAULT_QUEUE = "default"
COMMAND_LIMIT = 64 * 1024  # bytes of UTF-8
ENV_LIMIT = 64 * 1024  # bytes of UTF-8, all names and values together
PATH_LIMIT = 4096  # bytes of UTF-8
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")  # a shell cannot use other names
ENV_NAME_RULE = "letters, digits and _, the first not a digit"
MAX_TIMEOUT = 30 * 86400  # seconds
MAX_DELAY = 10 * 365 * 86400  # seconds
MAX_NOTIFIED = 10  # channels
LONG_PAST = clock.DAY  # a `run_at` before this is likely a mistake; a little earlier than now is usual


class FieldError(NamedTuple):
    """An error: the field, a sentence with value and rule, and the place of the job in a list (from 0)."""

    field: str
    message: str
    place: Optional[int] = None


class SpecError(ValueError):
    """An invalid job. `errors` has all errors found, in the order of the fields."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = errors
        super().__init__(
            "\n".join(f"{error.field}: {error.message}" if error.field else error.message for error in errors)
        )


class IdTaken(SpecError):
    """Other jobs have the ids. `errors` names each."""


class KeyTaken(SpecError):
    """Other jobs hold the unique keys. `holders` has the job that each error is about."""

    def __init__(self, errors: list[FieldError], holders: list[Holder]) -> None:
        self.holders = holders
        super().__init__(errors)


class JobSpec(NamedTuple):
    """A valid job to enqueue. `run_at` in microseconds, `delay` and `timeout` in seconds. None: default or setting.

    `notify` has the names of channels that hear of its end, `limits` the keys of limits, sorted, and `after` the jobs
    that it waits for. `retry` is the text that `core/flow/retry_rules.py` stores.
    """

    command: str
    id: Optional[str] = None
    queue: str = DEFAULT_QUEUE
    requires: tuple[str, ...] = ()
    priority: int = 0
    run_at: Optional[int] = None
    delay: Optional[float] = None
    max_retries: Optional[int] = None
    timeout: Optional[float] = None
    cwd: Optional[str] = None
    env: Mapping[str, str] = MappingProxyType({})
    notify: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    unique: Optional[Unique] = None
    retry: Optional[str] = None
    after: tuple[After, ...] = ()


def parse_json(text: str) -> JobSpec:
    """Read one job from a JSON object. Raises SpecError."""
    return parse(load_json(text))


def decode(data: bytes) -> str:
    """The text of a file, of standard input or of a request: UTF-8, or UTF-16 with a byte order mark.

    PowerShell redirects output as UTF-16. Raises UnicodeDecodeError.
    """
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def load_json(text: str) -> Any:
    """Read JSON strictly: no duplicate keys, no NaN. Raises SpecError; an error of syntax has no field."""
    try:
        return _DECODER.decode(text.removeprefix(BYTE_ORDER_MARK))
    except SpecError:
        raise
    except (ValueError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise SpecError([FieldError("", "this JSON is nested too deeply for a job.")]) from None
        if "integer string conversion" in str(error):
            raise SpecError([FieldError("", "a number in this JSON has more digits than any field allows.")]) from None
        # Some of json's own messages end with 'at'.
        reason = error.msg.removesuffix(" at") if isinstance(error, json.JSONDecodeError) else str(error)
        where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise SpecError([FieldError("", f"invalid JSON: {reason}{where}. Expected an object such as "
                                        '{"command": "echo hello"}.')]) from None  # fmt: skip


def parse(data: object) -> JobSpec:
    """Read one job from a mapping. Raises SpecError with all errors. A null value counts as not given."""
    if not isinstance(data, Mapping):
        raise SpecError([FieldError("", f'expected an object such as {{"command": "echo hello"}}, not {show(data)}.')])
    errors: list[FieldError] = []
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in _READERS:
            errors.append(FieldError(_label(str(key)), _unknown(str(key))))
        elif value is not None:
            try:
                values[key] = _READERS[key](value)
            except ValueError as error:
                errors.append(FieldError(key, str(error)))
    if "command" not in values and not any(error.field == "command" for error in errors):
        errors.insert(0, FieldError("command", "is missing. Expected the shell command to run."))
    if "delay" in values and "run_at" in values:
        errors.append(FieldError("run_at", "cannot be combined with delay. Give one of the two."))
    if errors:
        raise SpecError(errors)
    return JobSpec(**values)


def read_env(lines: Iterable[str]) -> dict[str, str]:
    """Read variables from texts such as NAME=VALUE. Raises ValueError; `parse` checks the names."""
    env: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"{show(line)} has no '='; expected NAME=VALUE.{_hint_at(name)}")
        if name in env:
            raise ValueError(f"{show(name)} is set twice. Set each variable once.")
        env[name] = value
    return env


def warnings(specs: Sequence[JobSpec]) -> list[str]:
    """What is allowed but is likely a mistake, in sentences: a `run_at` more than a day in the past."""
    now = clock.now()
    late = [spec.run_at for spec in specs if spec.run_at is not None and spec.run_at < now - LONG_PAST]
    if not late:
        return []
    age, when = f"{(now - min(late)) // clock.DAY:,} days in the past", f"{str(clock.to_iso(min(late)))[:19]}Z"
    if len(specs) == 1:
        return [f"run_at {when} is {age}. The job does not wait."]
    return [f"run_at of {len(late):,} of {len(specs):,} jobs is up to {age} ({when}). These jobs do not wait."]


def _label(key: str) -> str:
    """A key for the start of a message: short, and without terminal escapes."""
    return shorten(escape_controls(key), SHOWN)


def _unknown(key: str) -> str:
    import difflib  # only for this message: a start should not load it

    near = difflib.get_close_matches(key, _READERS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(_READERS)}."
    return f"is not a known key. {hint}"


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        duplicate = next(key for key in data if sum(key == other for other, _ in pairs) > 1)
        raise SpecError([FieldError(_label(duplicate), "is given twice. Give each key once.")])
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


# Shared: json.loads would create one for each line of a file.
_DECODER = json.JSONDecoder(object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant)


def _hint_at(name: str) -> str:
    """What to do about a name that was copied from a script or a file of variables; ' ' in front."""
    word = name.partition(" ")[0]
    if word in ("export", "set"):
        return f" Leave out '{word}'."
    return " Leave out comments." if name.startswith("#") else ""


def _text(value: object, limit: int, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not allowed; expected {what} as a string.")
    if "\0" in value:
        raise ValueError(f"{show(value)} contains a NUL character, which a command line cannot carry.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{show(value)} is not UTF-8 text, or contains half of a surrogate pair.") from None
    if size > limit:
        raise ValueError(f"is {size:,} bytes long; at most {limit:,} are allowed.")
    return value


def _name(value: object) -> str:
    text = _text(value, 4 * COMMAND_LIMIT, "a name")
    if not NAME.match(text):
        raise ValueError(f"{show(text)} is not allowed; expected {NAME_RULE}.")
    return text


def _labels(value: object) -> tuple[str, ...]:
    """One label, several separated by commas or spaces, or a list."""
    words = value
    if isinstance(value, str):
        words = [word for word in re.split(r"[,\s]+", value) if word] or None
    if not isinstance(words, list):
        raise ValueError(f"{show(value)} is not allowed; expected labels such as gpu, or host:web-1.")
    for word in words:
        if not isinstance(word, str) or not NAME.match(word):
            raise ValueError(f"{show(word)} is not a valid label; expected {NAME_RULE}.")
        if word.lower() == labels.HOST:
            raise ValueError(f"{show(word)} has no host name; expected a label such as host:web-1.")
    tidy = sorted({labels.tidy(word) for word in words})
    if len(tidy) > labels.MOST:
        raise ValueError(f"has {len(tidy)} labels; at most {labels.MOST} are allowed.")
    hosts = [label for label in tidy if label.startswith(labels.HOST)]
    if len(hosts) > 1:
        raise ValueError(f"has {' and '.join(hosts)}, but a worker runs on one host. Give only one.")
    return tuple(words)


def _channels(value: object) -> tuple[str, ...]:
    """One name of a channel, several separated by commas or spaces, or a list."""
    names = [word for word in re.split(r"[,\s]+", value) if word] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        raise ValueError(f"{show(value)} is not allowed; expected names of channels.")
    for name in names:
        if not isinstance(name, str) or not NAME.match(name):
            raise ValueError(f"{show(name)} is not a channel; expected {NAME_RULE}.")
    if len(names) > MAX_NOTIFIED:
        raise ValueError(f"has {len(names)} channels; at most {MAX_NOTIFIED} are allowed.")
    return tuple(dict.fromkeys(names))


def _command(value: object) -> str:
    text = _text(unix_lines(value) if isinstance(value, str) else value, COMMAND_LIMIT, "a shell command")
    if not text.strip():
        raise ValueError("is empty. Expected the shell command to run.")
    return text


def _integer(value: object, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ValueError(f"{show(value)} is not allowed; expected a whole number from {lowest} to {highest}.")
    return value


def _duration(value: object, highest: int, *, above_zero: bool) -> float:
    seconds = durations.parse(value) if isinstance(value, str) else value
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0 <= seconds <= highest or (above_zero and seconds == 0):  # type: ignore[operator]
        least = "more than 0" if above_zero else "from 0"
        raise ValueError(
            f"{show(value)} is not allowed; expected seconds, {least} and at most {highest}, or a text such as 10m."
        )
    return float(seconds)  # type: ignore[arg-type]


def _moment(value: object) -> int:
    example = clock.to_iso(clock.now() // clock.DAY * clock.DAY + clock.DAY)
    try:
        return clock.parse_iso(_text(value, 100, "a time"))
    except (ValueError, OverflowError) as error:
        reason = f" ({error})" if "zone" in str(error) else ""
        raise ValueError(
            f"{show(value)} is not allowed{reason}; expected ISO 8601 with a zone, such as {str(example)[:19]}Z."
        ) from None


def read_folder(value: object) -> str:
    """The path of a folder. Raises ValueError with a message that needs the field's name in front."""
    text = _text(value, PATH_LIMIT, "a folder")
    if not os.path.isabs(text):
        raise ValueError(f"{show(text)} is not allowed; expected an absolute path, such as /srv/app.")
    if "\n" in text or "\r" in text:
        raise ValueError(f"{show(text)} contains a line end. Remove it.")
    return text


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{show(value)} is not allowed; expected an object of strings.")
    total = 0
    for key, text in value.items():
        _text(key, ENV_LIMIT, "names")
        if not ENV_NAME.match(key):
            raise ValueError(f"{show(key)} is not a variable name; expected {ENV_NAME_RULE}.{_hint_at(key)}")
        if key.upper().startswith("QUEUECTL_"):
            raise ValueError(f"{show(key)} is not allowed: queuectl sets QUEUECTL_… variables itself.")
        try:
            total += len(key.encode()) + len(_text(text, ENV_LIMIT, "a value").encode())
        except ValueError as error:
            raise ValueError(f"{_label(key)}: {error}") from None
    if total > ENV_LIMIT:
        raise ValueError(f"is {total:,} bytes in total; at most {ENV_LIMIT:,} are allowed.")
    return dict(value)


_READERS: dict[str, Callable[[object], Any]] = {
    "id": _name,
    "command": _command,
    "queue": _name,
    "requires": _labels,
    "priority": partial(_integer, lowest=-100, highest=100),
    "delay": partial(_duration, highest=MAX_DELAY, above_zero=False),
    "run_at": _moment,
    "max_retries": partial(_integer, lowest=0, highest=1000),
    "timeout": partial(_duration, highest=MAX_TIMEOUT, above_zero=True),
    "cwd": read_folder,
    "env": _env,
    "notify": _channels,
    "limits": limits.read,
    "unique": unique_keys.parse,
    "retry": retry_rules.read,
    "after": after.read,
}
