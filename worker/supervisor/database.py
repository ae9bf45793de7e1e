"""Prepares the database before a supervisor starts its children."""

from __future__ import annotations

import contextlib
import os
from typing import Callable, Optional

from webapp.config import Config, ConfigError, Unavailable
from webapp.core.storage import db_errors
from webapp.core.storage.database import open_database
from worker import processes, shortage

UNAVAILABLE = 2  # exit code of the child that prepares the database


def prepare(config: Config, also: Optional[Callable[[], str]]) -> str:
    """Check and if necessary migrate the database, call `also` and return its answer. Raises ConfigError.

    Where there is fork, a child does this: the supervisor must never have had a connection.
    """
    if not processes.FORKS:
        return _prepare(config, also)
    try:
        read_end, write_end = os.pipe()
        pid = os.fork()
    except OSError as error:
        raise ConfigError(f"cannot start a process: {shortage.of(error) or error}") from None
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                text, code = _prepare(config, also), 0
            except ConfigError as error:
                text, code = str(error), UNAVAILABLE if isinstance(error, Unavailable) else 1
            os.write(write_end, text.encode()[:4000])
        os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        text = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if status != 0:
        unavailable = os.WIFEXITED(status) and os.WEXITSTATUS(status) == UNAVAILABLE
        raise (Unavailable if unavailable else ConfigError)(text or "the database could not be prepared")
    return text


def _prepare(config: Config, also: Optional[Callable[[], str]]) -> str:
    try:
        database = open_database(config)
        if also is None and database.is_current():
            db_errors.check_before_start(database)
            return ""
        return _prepare_with_application(config, also)
    except ConfigError:
        raise
    except Exception as error:
        raise Unavailable(
            f"cannot use the database: {db_errors.explain(error, config) or error}".splitlines()[0]
        ) from None


def _prepare_with_application(config: Config, also: Optional[Callable[[], str]]) -> str:
    from webapp.db import engines
    from webapp.db.application import create_core

    with create_core(config).app_context():
        db_errors.check_before_start(engines.database())
        answer = also() if also is not None else ""
        engines.disconnect()
    return answer
