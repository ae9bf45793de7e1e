"""The lines of the audit trail as plain SQL, and where an act comes from. Reading the trail is in `db/audit.py`.

The origin of a request is set once for all of it, so that operations need not pass it on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Optional

from webapp.lib import clock

COMMAND_SHOWN = 80  # characters of a command that stay in the trail

LINE = """
INSERT INTO audit (at, actor, verb, subject, outcome, face, address, detail)
VALUES (:at, :actor, :verb, :subject, :outcome, :face, :address, :detail)
"""


@dataclass(frozen=True)
class Origin:
    """Where an act comes from: its face (command, console, api; worker for retention) and network address."""

    face: str
    address: Optional[str] = None


_COMMAND = Origin("command")
_origin: ContextVar[Origin] = ContextVar("queuectl_origin", default=_COMMAND)


def set_origin(origin: Origin) -> None:
    """Everything that follows in this context (a request or a command) comes from there."""
    _origin.set(origin)


def is_audited(actor: str) -> bool:
    """Whether the audit trail records what this actor does: people and programs, not workers and rules."""
    return actor.startswith(("person:", "token:", "anonymous"))


def lines(
    verb: str,
    subjects: Sequence[str],
    actor: str,
    *,
    outcome: str = "done",
    details: Optional[Sequence[Optional[Mapping[str, Any]]]] = None,
    origin: Optional[Origin] = None,
) -> list[dict[str, Any]]:
    """The values for LINE, one mapping for each subject. `details` has as many: `{"before": …, "after": …}`."""
    origin, at = origin or _origin.get(), clock.now()
    return [
        {
            "at": at,
            "actor": actor,
            "verb": verb,
            "subject": subject,
            "outcome": outcome,
            "face": origin.face,
            "address": origin.address,
            "detail": json.dumps(detail) if detail else None,
        }
        for subject, detail in zip(subjects, details or [None] * len(subjects))
    ]


def command_in_brief(command: str) -> dict[str, str]:
    """A command as the trail has it: a long one is cut, and its SHA-256 tells which one it was.

    The hash has no key: every host would need the same one. A short secret at the end of a command can be guessed from
    it, so secrets belong into `env`, whose values are not in the trail.
    """
    if len(command) <= COMMAND_SHOWN:
        return {"command": command}
    digest = hashlib.sha256(command.encode(errors="surrogatepass")).hexdigest()
    return {"command": command[:COMMAND_SHOWN] + "…", "command_sha256": digest[:16]}
