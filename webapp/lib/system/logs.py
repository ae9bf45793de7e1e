"""Logging of long-running processes to stderr, for people, the journal or programs.

The output of commands is not logging; `commands/` prints it. A line about a job or a worker also has `extra`, so the
JSON has fields such as `job`, `attempt` and `worker`.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from webapp.lib.text import escape_controls

_TEXT = "%(asctime)s %(levelname)s %(message)s"
_FIELDS = ("levelname", "name", "process", "message")
_SECRET_PATH = re.compile(r"(/setup/)[^\s/?#'\"\]]+")


class WithoutSecrets(logging.Filter):
    """Removes the one-time token from set-up links, so a reader of the log cannot become administrator."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "/setup/" in text:
            record.msg, record.args = _SECRET_PATH.sub(r"\1…", text), ()
        return True


class OneLine(logging.Formatter):
    """Writes each message on one line and escapes control characters, which may come from a job."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        return escape_controls(super().formatMessage(record))


_form = "text"


def options() -> dict[str, Any]:
    """The arguments of `set_up` with which another process logs as this one does."""
    return {"form": _form, "level": logging.getLogger().getEffectiveLevel()}


def set_up(form: str = "text", level: int = logging.INFO) -> None:
    """Send the log to stderr as `text` or as `json` (one object per line, times in ISO 8601, UTC)."""
    global _form
    _form = form
    handler = logging.StreamHandler()
    handler.addFilter(WithoutSecrets())
    handler.setFormatter(_json() if form == "json" else OneLine(_TEXT))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(list(_FIELDS), timestamp=True, rename_fields={"levelname": "level", "name": "logger"})
