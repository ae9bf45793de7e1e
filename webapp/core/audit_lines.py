"""Writes lines of the audit trail as plain SQL, and knows the origin of a request. `db/audit.py` reads the trail.

The origin is set once for each request, so operations do not pass it on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Optional

from webapp.lib import clock

COMMAND_SHOWN = 80  # characters of a command that are kept in the trail

LINE = """
INSERT INTO audit (at, actor, verb, subject, outcome, face, address, detail)
VALUES (:at, :actor, :verb, :subject, :outcome, :face, :address, :detail)
"""


@dataclass(frozen=True)
class Origin:
    """Where a request comes from: its face (command, console, api; worker for retention) and network address."""

    face: str
    address: Optional[str] = None


_COMMAND = Origin("command")
_origin: ContextVar[Origin] = ContextVar("queuectl_origin", default=_COMMAND)


def set_origin(origin: Origin) -> None:
    """Set the origin for the rest of this context, which is a request or a command."""
    _origin.set(origin)


def is_audited(actor: str) -> bool:
    """Whether the trail records this actor: people and programs, but not workers and rules."""
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
    """The values for LINE, one mapping for each subject. `details`, if given, has one `{"before": …, "after": …}` each.

    `origin` replaces the origin of the context.
    """
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
    """A command for the trail: the start of a long one, and its SHA-256 to identify it.

    The hash has no key, because all hosts would need the same one. A short secret at the end of a command can be
    guessed from it. Secrets belong in `env`: its values are not in the trail.
    """
    if len(command) <= COMMAND_SHOWN:
        return {"command": command}
    import hashlib  # only here: it loads OpenSSL

    digest = hashlib.sha256(command.encode(errors="surrogatepass")).hexdigest()
    return {"command": command[:COMMAND_SHOWN] + "…", "command_sha256": digest[:16]}
