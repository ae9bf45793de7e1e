"""Reads a crontab into schedules, and reports each line that cannot be imported."""

from __future__ import annotations

import os
import re
import zoneinfo
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from webapp.core.job_spec import SpecError
from webapp.schedules.spec import ScheduleSpec, parse
from webapp.schedules.timing import zone_of

_VARIABLE = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*\Z")
_UNESCAPED_PERCENT = re.compile(r"(?<!\\)%")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PARTS = re.compile(r"[;&|()]+")
_NOT_TELLING = ("cd", "test", "if", "then", "exec", "nice", "ionice", "env", "command", "sudo", "export", "umask")
LOCALTIME, TIMEZONE = Path("/etc/localtime"), Path("/etc/timezone")


@dataclass
class Entry:
    """A line of a crontab with a command. `spec` is None if it cannot be imported; `notes` say what differs."""

    line: int
    text: str
    spec: Optional[ScheduleSpec] = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Crontab:
    """What a crontab says. `notes` are about its variables, with their line. `zone`, `zone_from`: see `system_zone`."""

    zone: str
    zone_from: str
    entries: list[Entry] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)


def read(text: str, *, user_column: bool, prefix: str = "", enabled: bool = False) -> Crontab:
    """Read a crontab.

    Args:
        user_column: whether each line names a user before its command, as in /etc/crontab.
        prefix: for the names of the schedules.
        enabled: whether the schedules fire. Else they are paused.

    The schedules do what cron does: they allow overlaps, do not catch up, and do not retry.
    """
    found, variables = Crontab(*system_zone()), dict[str, str]()
    names: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        variable = _VARIABLE.match(line)
        if variable is not None:
            found.notes += [(number, note) for note in _take_variable(variables, variable[1], _unquoted(variable[2]))]
            continue
        entry = Entry(number, stripped)
        _read_entry(entry, variables, found.zone, user_column=user_column, prefix=prefix, names=names, enabled=enabled)
        found.entries.append(entry)
    return found


def system_zone() -> tuple[str, str]:
    """The name of this machine's time zone, and what it is from. As for cron, the variable TZ comes first."""
    named = os.environ.get("TZ")
    if named is not None:
        return zone_called(named), f"TZ={named}"
    zone = _zone_in(LOCALTIME)
    if zone is not None:
        return zone, str(LOCALTIME)
    zone = _named_in(TIMEZONE)
    return (zone, str(TIMEZONE)) if zone else ("UTC", f"no {LOCALTIME}")


def zone_called(text: str) -> str:
    """The name of the zone that a value of TZ means to the C library: a name or a file, after ':'; empty: UTC.

    A value that it cannot find stays as it is.
    """
    text = text.removeprefix(":")
    if not text or _is_zone(text):
        return text or "UTC"
    paths = [Path(text)] if text.startswith("/") else [Path(folder, text) for folder in zoneinfo.TZPATH]
    return next((zone for path in paths if (zone := _zone_in(path)) is not None), text)


def _zone_in(path: Path) -> Optional[str]:
    """The name of the zone in a file: of the file that it links to, or of one with the same content."""
    _, _, name = os.path.realpath(path).partition("zoneinfo/")
    name = name.removeprefix("posix/").removeprefix("right/")
    if name and _is_zone(name):
        return name
    try:
        content = path.read_bytes()
    except OSError:
        return None
    names = [_named_in(TIMEZONE), *sorted(zoneinfo.available_timezones())]
    places = ((name, Path(folder, name)) for name in names if name for folder in zoneinfo.TZPATH)
    return next((name for name, place in places if place.is_file() and place.read_bytes() == content), None)


def _named_in(path: Path) -> Optional[str]:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip()
    return None


def _is_zone(name: str) -> bool:
    try:
        return bool(zone_of(name))
    except SpecError:
        return False


def _take_variable(variables: dict[str, str], name: str, value: str) -> Iterator[str]:
    if name == "MAILTO":
        yield "MAILTO is not imported: output is not mailed. See it in the console, or add a notification rule."
    elif name == "SHELL":
        variables[name] = value
        if value not in {"/bin/sh", "sh"}:
            yield f"SHELL={value} is not imported: jobs run under /bin/sh. Begin a command with '{value} -c'."
    elif name == "CRON_TZ":
        variables[name] = value
        yield f"CRON_TZ={value} becomes the time zone of the schedules below it."
    else:
        variables[name] = value
        yield f"{name} is set in the environment of the jobs below it."


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _read_entry(
    entry: Entry,
    variables: Mapping[str, str],
    zone: str,
    *,
    user_column: bool,
    prefix: str,
    names: set[str],
    enabled: bool,
) -> None:
    fields = 1 if entry.text.startswith("@") else 5
    parts = entry.text.split(None, fields + user_column)
    if len(parts) <= fields + user_column:
        entry.notes.append("not imported: the line is too short for a time and a command.")
        return
    cron, rest = " ".join(parts[:fields]), parts[fields:]
    command = rest[-1]
    if cron == "@reboot":
        entry.notes.append(
            "not imported: @reboot has no time. Start the command at boot in another way, for example with systemd."
        )
        return
    if _UNESCAPED_PERCENT.search(command):
        entry.notes.append("not imported: cron reads % as a line break and sends the rest to the command's input. "
                           "Write the input into the command, and escape other % signs as \\%.")  # fmt: skip
        return
    if user_column:
        entry.notes.append(f"cron runs it as {rest[0]}; a worker runs it as the worker's own user.")
    env = {name: value for name, value in variables.items() if name not in {"SHELL", "CRON_TZ", "HOME"}}
    job: dict[str, Any] = {"command": command.replace("\\%", "%"), "max_retries": 0}
    if env:
        job["env"] = env
    folder = variables.get("HOME")
    if folder:
        job["cwd"] = folder
    described = {
        "name": _unused(names, prefix, job["command"]),
        "cron": cron,
        "tz": zone_called(variables["CRON_TZ"]) if "CRON_TZ" in variables else zone,
        "overlap": "allow",
        "catch_up": "none",
        "enabled": enabled,
        "note": f"From a crontab, line {entry.line}.",
        "job": job,
    }
    try:
        entry.spec = parse(described)
    except SpecError as error:
        entry.notes.append(f"not imported: {error}")


def _unused(names: set[str], prefix: str, command: str) -> str:
    """A name from the first program that a command runs, without tests and changes of the folder before it."""
    base = "job"
    for part in _PARTS.split(command):
        words = [word for word in part.split() if not _VARIABLE.match(word)]
        program = words[0].rpartition("/")[2] if words else ""
        match = _WORD.match(program)
        if match is not None and program not in _NOT_TELLING:
            base = match[0].strip(".-_")
            break
    base = f"{prefix}{base}"[:100]
    name, number = base, 1
    while name in names:
        number += 1
        name = f"{base}-{number}"
    names.add(name)
    return name
