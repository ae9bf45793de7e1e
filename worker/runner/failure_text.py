"""The texts of failed attempts. `webapp/lib/error_key.py` makes the fingerprint that groups similar ones."""

from __future__ import annotations

import signal

from webapp.lib.text import plain_tail, plain_text
from worker.runner.limits import Limits

LINE_LIMIT = 300  # characters of the last output line in an error
TAIL_LIMIT = 2000  # bytes of a dead letter's output that search covers


def describe_exit(code: int) -> str:
    """'exit code 127 (command not found)'."""
    meaning = {126: "not executable", 127: "command not found"}.get(code)
    if 128 < code <= 128 + 64:
        meaning = f"killed by {signal_name(code - 128)}"
    return f"exit code {code} ({meaning})" if meaning else f"exit code {code}"


def describe_signal(number: int) -> str:
    return f"killed by signal {number} ({signal_name(number)})"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_line(output: bytes) -> str:
    """The last line that is not empty, without control characters, shortened."""
    for line in reversed(output[-4096:].splitlines()):
        text = plain_text(line).strip()
        if text:
            return text[:LINE_LIMIT]
    return ""


def tail(output: bytes) -> str:
    """The last TAIL_LIMIT bytes as plain text for search: whole lines if possible."""
    return plain_tail(output, TAIL_LIMIT)


def describe_limit(which: str, limits: Limits) -> str:
    """`which` is 'memory' or 'processes'."""
    if which == "memory":
        return f"exceeded job_memory_limit ({limits.memory / 1024**2:g} MiB)"
    return f"exceeded job_process_limit ({limits.processes} processes)"
