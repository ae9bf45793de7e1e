"""Where processes that run on say what happens: one line each on stderr, for a person or the journal.

What a command tells its caller is not logging; it is printed by `commands/`.
"""

from __future__ import annotations

import logging
import re

from webapp.plain import escaped

FORMAT = "%(asctime)s %(levelname)s %(message)s"
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
        return escaped(super().formatMessage(record))


def set_up(level: int = logging.INFO) -> None:
    """Send the log to stderr."""
    handler = logging.StreamHandler()
    handler.addFilter(WithoutSecrets())
    handler.setFormatter(OneLine(FORMAT))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
