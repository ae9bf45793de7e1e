"""How a failed attempt reads to a person, and what makes two failures alike."""

from __future__ import annotations

import hashlib
import re
import signal

from worker.limits import Limits

LINE_LIMIT = 300  # characters of the command's own last words that an error quotes
TAIL_LIMIT = 2000  # bytes of a dead letter's output that can be searched

# Colours, titles and links: left out whole, or their letters would stay behind when the control characters go.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)")

_MASKS = (
    (
        re.compile(
            r"0x[0-9a-f]+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE
        ),
        "ID",
    ),
    (re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^\s:'\"/\\]+)+[/\\]?"), "PATH"),
    (re.compile(r"\d+"), "N"),
    (re.compile(r"\s+"), " "),
)


def describe_exit(code: int) -> str:
    """'exit code 127 (command not found)'."""
    known = {126: "not executable", 127: "command not found"}
    if code in known:
        return f"exit code {code} ({known[code]})"
    if 128 < code <= 128 + 64:
        return f"exit code {code} ({signal_name(code - 128)} ended what it ran)"
    return f"exit code {code}"


def describe_signal(number: int) -> str:
    return f"killed by signal {number} ({signal_name(number)})"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_line(output: bytes) -> str:
    """The last line that says anything, made safe to store and short."""
    for line in reversed(output[-4096:].splitlines()):
        plain = _ESCAPE.sub("", line.decode(errors="replace"))
        text = "".join(char for char in plain if char.isprintable()).strip()
        if text:
            return text[:LINE_LIMIT]
    return ""


def tail(output: bytes) -> str:
    """The last TAIL_LIMIT bytes as plain text, to be searched: whole lines where there are any, nothing unprintable."""
    kept = output[-TAIL_LIMIT:]
    if len(output) > TAIL_LIMIT and b"\n" in kept[:-1]:
        kept = kept[kept.index(b"\n") + 1 :]
    plain = _ESCAPE.sub("", kept.decode(errors="replace"))
    return "".join(char for char in plain.expandtabs(1) if char == "\n" or char.isprintable())


def error_key(what: str, words: str, command: str) -> str:
    """A key that like failures share: kind of end, last words and command, with numbers, paths and ids masked.

    `what` is 'exit 3', 'signal 9', 'timeout' …; `words` the last line of output.
    """
    shape = "\n".join((what, mask(words), mask(command)[:200]))
    return hashlib.sha256(shape.encode(errors="replace")).hexdigest()[:16]


def mask(text: str) -> str:
    for pattern, name in _MASKS:
        text = pattern.sub(name, text)
    return text.strip()


def describe_limit(which: str, limits: Limits) -> str:
    """`which` is 'memory' or 'processes'."""
    if which == "memory":
        return f"needed more memory than job_memory_limit lets it have ({limits.memory / 1024**2:g} MiB)"
    return f"wanted more processes than job_process_limit lets it have ({limits.processes})"
