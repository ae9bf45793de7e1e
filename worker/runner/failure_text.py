"""How a failed attempt reads to a person, and what makes two failures alike."""

from __future__ import annotations

import hashlib
import signal

from webapp.lib.text import mask, plain_tail, plain_text
from worker.runner.limits import Limits

LINE_LIMIT = 300  # characters of the command's own last words that an error quotes
TAIL_LIMIT = 2000  # bytes of a dead letter's output that can be searched


def describe_exit(code: int) -> str:
    """'exit code 127 (command not found)'."""
    known = {126: "not executable", 127: "command not found"}
    if code in known:
        return f"exit code {code} ({known[code]})"
    if 128 < code <= 128 + 64:
        return f"exit code {code} (killed by {signal_name(code - 128)})"
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
        text = plain_text(line).strip()
        if text:
            return text[:LINE_LIMIT]
    return ""


def tail(output: bytes) -> str:
    """The last TAIL_LIMIT bytes as plain text, to be searched: whole lines where there are any, nothing unprintable."""
    return plain_tail(output, TAIL_LIMIT)


def error_key(what: str, words: str, command: str) -> str:
    """A key that like failures share: kind of end, last words and command, with numbers, paths and ids masked.

    `what` is 'exit 3', 'signal 9', 'timeout' …; `words` the last line of output.
    """
    shape = "\n".join((what, mask(words), mask(command)[:200]))
    return hashlib.sha256(shape.encode(errors="replace")).hexdigest()[:16]


def describe_limit(which: str, limits: Limits) -> str:
    """`which` is 'memory' or 'processes'."""
    if which == "memory":
        return f"exceeded job_memory_limit ({limits.memory / 1024**2:g} MiB)"
    return f"exceeded job_process_limit ({limits.processes} processes)"
