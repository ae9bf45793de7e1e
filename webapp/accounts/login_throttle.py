"""Slows down log-in and tokens after failures: per account, per browser, and per client address.

A failure is counted before the password is checked, so parallel attempts gain nothing, and taken back if the password
was right. There is no permanent lockout: the wait never exceeds MAX_WAIT_SECONDS. A browser in which the user has
logged in before is counted separately, so an attacker does not slow down the user. A new password clears the account.
See OWASP's 'Slow Down Online Guessing Attacks with Device Cookies'.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Optional

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from webapp.db.engines import writing
from webapp.db.models import Throttle
from webapp.lib import clock, ip_addresses

FREE = {"account": 5, "browser": 10, "address": 30, "token": 60}  # failures in a row without a wait
MAX_WAIT_SECONDS = 15 * 60
FORGET = clock.seconds(3600)  # older failures do not count

# DO NOTHING: another request may create the row at the same time.
_INSERT_ROW = text(
    "INSERT INTO throttles (key, failures, last_at, until) VALUES (:key, 0, 0, 0) ON CONFLICT (key) DO NOTHING"
)


def account(name: str) -> str:
    return f"account:{name.lower()[:64]}"


def browser(user_id: int, device: str) -> str:
    return f"browser:{user_id}:{device}"


def address(host: Optional[str], kind: str = "address") -> str:
    """For IPv6 the whole /64, which usually belongs to one home or server."""
    parsed = ip_addresses.parse(host or "")
    if parsed is None:
        return f"{kind}:{(host or 'unknown')[:64]}"
    if parsed.version == 6:
        return f"{kind}:{ipaddress.ip_network((int(parsed) >> 64 << 64, 64))}"
    return f"{kind}:{parsed}"


def admit(keys: Sequence[str]) -> float:
    """Count a failure for each key, unless one of them has to wait; return the wait in seconds, 0 for none."""
    now = clock.now()
    with writing() as session:
        rows = {key: _row(session, key) for key in sorted(keys)}
        wait = max((row.until - now for row in rows.values()), default=0)
        if wait > 0:
            return wait / clock.SECOND
        for key, row in rows.items():
            row.failures = row.failures + 1 if row.last_at > now - FORGET else 1
            row.last_at = now
            row.until = now + clock.seconds(_wait(row.failures - FREE[key.partition(":")[0]]))
    return 0.0


def wait_of(session: Session, key: str) -> float:
    """Seconds that a key has to wait. Counts nothing."""
    until = session.scalar(select(Throttle.until).where(Throttle.key == key)) or 0
    return max(0, until - clock.now()) / clock.SECOND


def forgive(keys: Sequence[str]) -> None:
    """After a right password: take one failure back from addresses, and reset account and browser."""
    with writing() as session:
        for key in sorted(keys):
            row = _row(session, key)
            row.failures = max(0, row.failures - 1) if key.startswith(("address:", "token:")) else 0
            row.until = 0


def clear(session: Session, name: str) -> None:
    """Reset an account in the caller's transaction."""
    session.execute(delete(Throttle).where(Throttle.key == account(name)))


def prune(session: Session) -> None:
    session.execute(delete(Throttle).where(Throttle.last_at < clock.now() - FORGET))


def _wait(beyond: int) -> float:
    """1, 2, 4 … seconds after each failure beyond FREE."""
    return 0.0 if beyond < 0 else float(min(MAX_WAIT_SECONDS, 2 ** min(beyond, 20)))


def _row(session: Session, key: str) -> Throttle:
    """The row of a key, locked; created if it is missing."""
    session.execute(_INSERT_ROW, {"key": key})
    return session.get_one(Throttle, key, with_for_update=True)
