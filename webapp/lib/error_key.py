"""The fingerprint by which failures are grouped: their cause. Every failed attempt and every dead letter has one."""

from __future__ import annotations

import hashlib
import re

from webapp.lib.text import mask

# How an attempt ended, and after ': ' the last line of its output, as in `worker/attempt.py`.
_ENDED = re.compile(
    r"(?P<what>exit code -?\d+|killed by signal \d+|timed out|exceeded job_[a-z]+_limit)"
    r"(?P<more>[^:]*)(?:: (?P<line>.*))?",
    re.DOTALL,
)
_POISON = re.compile(r"worker .*\. Poison job: ", re.DOTALL)  # its text names workers
_MASKED = re.compile(r"\b(?:ID|PATH|N)\b")
_WORD = re.compile(r"[^\W\d_]{3}")  # a line without one, such as '}', says no cause
_COMMAND_PART = 200  # characters of a masked command that count

# Keys of versions before schema 0013, which grouped by command too, as an SQL condition that the index of the groups
# answers. They are 16 hexadecimal digits; a new one begins with a letter after these.
IS_OLD = "error_key < 'g' AND length(error_key) = 16"


def error_key(error: str, command: str) -> str:
    """The fingerprint of similar failures: how they ended and the last output line, without numbers, paths and ids.

    `error` is the attempt's error as a sentence. The command counts only if the error says no cause, such as 'exit code
    1' without output.
    """
    ended = _ENDED.fullmatch(error)
    what = ended["what"] if ended is not None else ""
    line = "" if _POISON.match(error) else mask((ended["line"] or "") if ended is not None else error)
    pattern = [what, line]
    if not _WORD.search(_MASKED.sub("", line)):
        pattern.append(mask(command)[:_COMMAND_PART])
    return "g" + _hash(pattern)


def old_error_keys(error: str, command: str) -> list[str]:
    """The keys that earlier versions may have given this failure, for what people said about its group."""
    ended = _ENDED.fullmatch(error)
    if _POISON.match(error):
        whats, line = ["poison"], ""
    elif ended is None:
        whats, line = ["cwd", "spawn"], error
    else:
        whats, line = [_old_what(ended["what"], ended["more"])], ended["line"] or ""
    return [_hash([what, mask(line), mask(command)[:_COMMAND_PART]]) for what in whats]


def _old_what(what: str, more: str) -> str:
    if what == "timed out":
        return "timeout"
    number = re.search(r"(?:exit code|signal) (-?\d+)", what + more)
    kind = {"job_memory_limit": "memory", "job_process_limit": "processes", "by": "signal"}.get(what.split()[1], "exit")
    return f"{kind} {number[1] if number is not None else ''}"


def _hash(pattern: list[str]) -> str:
    return hashlib.sha256("\n".join(pattern).encode(errors="replace")).hexdigest()[:16]
