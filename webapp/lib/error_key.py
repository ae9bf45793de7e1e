"""The fingerprint by which failures are grouped. Every failed attempt and every dead letter has one."""

from __future__ import annotations

import hashlib

from webapp.lib.text import mask


def error_key(what: str, line: str, command: str) -> str:
    """The fingerprint of similar failures: kind of end, last output line and command, without numbers, paths and ids.

    `what` is 'exit 3', 'signal 9', 'timeout' … A command that did not start has no output: then `what` is the reason,
    and `line` the error.
    """
    pattern = "\n".join((what, mask(line), mask(command)[:200]))
    return hashlib.sha256(pattern.encode(errors="replace")).hexdigest()[:16]
