"""Where processes that run on say what happens: one line each on stderr, for a person, the journal or a program.

What a command tells its caller is not logging; it is printed by `commands/`. A line about a job or a worker names it
in its `extra` as well, so that the JSON has `job`, `attempt`, `worker` … as fields.
"""

from __future__ import annotations

import logging
import re

from webapp.lib.text import escape_controls

_TEXT = "%(asctime)s %(levelname)s %(message)s"
_FIELDS = ("levelname", "name", "process", "message")
_SECRET_PATH = re.compile(r"(/setup/)[^\s/?#'\"\]]+")


class WithoutSecrets(logging.Filter):
    """Takes the one-time token out of every line: whoever reads a log must not become the administrator by it."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "/setup/" in text:
            record.msg, record.args = _SECRET_PATH.sub(r"\1…", text), ()
        return True


class OneLine(logging.Formatter):
    """Writes a message as one line: a folder or an error that a job brought shall forge no line and move no cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        return escape_controls(super().formatMessage(record))


def set_up(form: str = "text", level: int = logging.INFO) -> None:
    """Send the log to stderr, as `text` or as `json` (an object a line, its time in ISO 8601, UTC)."""
    handler = logging.StreamHandler()
    handler.addFilter(WithoutSecrets())
    handler.setFormatter(_json() if form == "json" else OneLine(_TEXT))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(list(_FIELDS), timestamp=True, rename_fields={"levelname": "level", "name": "logger"})
