"""Prepares the database before a supervisor starts its children."""

from __future__ import annotations

import contextlib
import os
from typing import Callable

from webapp.config import Config, ConfigError
from webapp.db import db_errors, engines
from webapp.db.application import create_core
from worker import processes


def prepare(config: Config, also: Callable[[], str]) -> str:
    """Migrate the database, call `also` with a connection and return its answer. Raises ConfigError.

    Where there is fork, a child does this: the supervisor must never have had a connection.
    """
    if not processes.FORKS:
        return _prepare(config, also)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                text, code = _prepare(config, also), 0
            except ConfigError as error:
                text = str(error)
            os.write(write_end, text.encode()[:4000])
        os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        text = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise ConfigError(text or "the database could not be prepared")
    return text


def _prepare(config: Config, also: Callable[[], str]) -> str:
    try:
        app = create_core(config)
        with app.app_context():
            db_errors.check_before_start(config)
            answer = also()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"cannot use the database: {db_errors.explain(error) or error}".splitlines()[0]) from None
    with app.app_context():
        for engine in engines.db.engines.values():
            engine.dispose()
    return answer
