"""The tables with their checks and indexes.

Times are BIGINT microseconds UTC (`lib/clock.py`). Each index costs every job time, so there are few.

A table's class is made when it is first asked for. That takes milliseconds each, and a command needs few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webapp.db.models.accounts import ROLES as ROLES
    from webapp.db.models.accounts import SCOPES as SCOPES
    from webapp.db.models.accounts import IdempotencyKey as IdempotencyKey
    from webapp.db.models.accounts import SetupLink as SetupLink
    from webapp.db.models.accounts import Throttle as Throttle
    from webapp.db.models.accounts import Token as Token
    from webapp.db.models.accounts import User as User
    from webapp.db.models.accounts import UserSession as UserSession
    from webapp.db.models.accounts import View as View
    from webapp.db.models.audit import Audit as Audit
    from webapp.db.models.fleet import BulkAction as BulkAction
    from webapp.db.models.fleet import Control as Control
    from webapp.db.models.fleet import GroupAction as GroupAction
    from webapp.db.models.fleet import RetentionMark as RetentionMark
    from webapp.db.models.fleet import Setting as Setting
    from webapp.db.models.fleet import Supervisor as Supervisor
    from webapp.db.models.fleet import Worker as Worker
    from webapp.db.models.flow import Batch as Batch
    from webapp.db.models.flow import BatchCallback as BatchCallback
    from webapp.db.models.flow import Dependency as Dependency
    from webapp.db.models.flow import Limit as Limit
    from webapp.db.models.flow import LimitStart as LimitStart
    from webapp.db.models.flow import Report as Report
    from webapp.db.models.insight import CommandHour as CommandHour
    from webapp.db.models.insight import Group as Group
    from webapp.db.models.insight import Minute as Minute
    from webapp.db.models.jobs import ATTEMPT_STATES as ATTEMPT_STATES
    from webapp.db.models.jobs import Attempt as Attempt
    from webapp.db.models.jobs import Event as Event
    from webapp.db.models.jobs import Job as Job
    from webapp.db.models.jobs import LabelSetRow as LabelSetRow
    from webapp.db.models.jobs import OutputChunk as OutputChunk
    from webapp.db.models.jobs import OutputTail as OutputTail
    from webapp.db.models.jobs import Queue as Queue
    from webapp.db.models.notifications import Alert as Alert
    from webapp.db.models.notifications import Channel as Channel
    from webapp.db.models.notifications import Delivery as Delivery
    from webapp.db.models.notifications import JobWatch as JobWatch
    from webapp.db.models.notifications import Notice as Notice
    from webapp.db.models.notifications import Rule as Rule
    from webapp.db.models.schedules import Fire as Fire
    from webapp.db.models.schedules import Schedule as Schedule

_NAMES = {
    "accounts": (
        "ROLES",
        "SCOPES",
        "IdempotencyKey",
        "SetupLink",
        "Throttle",
        "Token",
        "User",
        "UserSession",
        "View",
    ),
    "audit": ("Audit",),
    "fleet": ("BulkAction", "Control", "GroupAction", "RetentionMark", "Setting", "Supervisor", "Worker"),
    "flow": ("Batch", "BatchCallback", "Dependency", "Limit", "LimitStart", "Report"),
    "insight": ("CommandHour", "Group", "Minute"),
    "jobs": ("ATTEMPT_STATES", "Attempt", "Event", "Job", "LabelSetRow", "OutputChunk", "OutputTail", "Queue"),
    "notifications": ("Alert", "Channel", "Delivery", "JobWatch", "Notice", "Rule"),
    "schedules": ("Fire", "Schedule"),
}
_FILES = {name: file for file, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


def load_all() -> None:
    """Make the classes of all tables, for work on the whole schema."""
    for file in _NAMES:
        import_module(f"{__name__}.{file}")
