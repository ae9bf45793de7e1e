"""One database in one role: its connections, its write lock and its wake-up signal. Without SQLAlchemy.

`core/transaction.py` executes statements on it. The engines of SQLAlchemy take their connections from here too, see
`db/engines.py`.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import Any, Optional

from webapp.config import Config, Unavailable, ensure_home
from webapp.core.storage import postgresql, schema, sqlite, wakeup_signal
from webapp.core.storage.locks import WriteLock, share_use
from webapp.core.storage.wakeup_signal import WakeupSignal
from webapp.lib import clock

FRESH = clock.SECOND  # an idle connection to PostgreSQL is tested if it was not used for so long
MOST_IDLE = 5  # idle connections that a process keeps, as a pool of SQLAlchemy does

_Idle = deque[tuple[Any, int]]  # connections, and when each was last used
_of_parents: list[_Idle] = []  # never closed here: that would end the parent's sessions


class Database:
    """See the module.

    Attributes:
        driver_error: base class of the driver's errors.
        key_taken: the driver's error for a key that already exists.
        durable: whether each commit must survive a crash. On SQLite the connection decides that.
        in_use: the descriptor that marks the queue as used by this process; -1 if there is none.
    """

    def __init__(self, config: Config, role: str = "write", *, lock: Optional[WriteLock] = None) -> None:
        """Open no connection. `role`: write, read or worker. `lock`: the write lock, if this process has one."""
        driver: Any = sqlite.library
        if not config.is_sqlite:
            import psycopg as driver
        self.config = config
        self.role = role
        self.is_sqlite = config.is_sqlite
        self.driver_error: type[Exception] = driver.Error
        self.key_taken: type[Exception] = driver.IntegrityError
        self.durable = role == "write" or config.durable_settles
        self.lock = lock or WriteLock(config.lock_path if config.is_sqlite else None)
        self.wakeup = WakeupSignal(wakeup_signal.path_of(config) if config.is_sqlite else None)
        self.in_use = -1
        self._idle: _Idle = deque()
        self._process = os.getpid()  # whose idle connections these are

    def is_locked_out(self, error: BaseException) -> bool:
        """Whether this error of the driver means that another program held a lock for too long."""
        return sqlite.is_locked_out(error) if self.is_sqlite else postgresql.is_locked_out(error)

    def connect(self) -> Any:
        """A new connection of the driver."""
        connect = sqlite.connect if self.is_sqlite else postgresql.connect
        return connect(self.config, self.role)

    def is_current(self) -> bool:
        """Whether the database exists and has the schema of this version. Raises ConfigError without a server."""
        try:
            connection = self.take()
        except (self.driver_error, OSError) as error:
            if self.is_sqlite or "does not exist" in str(error):
                return False
            reason = str(error).strip().splitlines()[0]  # another try might take as long
            raise Unavailable(f"cannot open the database: {reason}") from None
        try:
            row = connection.execute(schema.REVISION).fetchone()
        except self.driver_error:
            connection.close()
            return False
        self.give_back(connection)
        return row is not None and row[0] == schema.HEAD

    def take(self) -> Any:
        """An idle connection, or a new one."""
        idle = self._own_idle()
        while True:
            try:
                connection, used_at = idle.pop()
            except IndexError:  # there is none
                return self.connect()
            if self.is_sqlite or clock.counter() - used_at < FRESH or _answers(connection):
                return connection

    def give_back(self, connection: Any) -> None:
        """Keep a connection for the next `take()`."""
        idle = self._own_idle()
        if len(idle) < MOST_IDLE:
            idle.append((connection, clock.counter()))
        else:
            with suppress(self.driver_error):
                connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        idle = self._own_idle()
        while idle:
            with suppress(IndexError, self.driver_error):
                idle.pop()[0].close()

    def _own_idle(self) -> _Idle:
        """This process's idle connections. A fork has none: it may neither use nor close its parent's."""
        if self._process != os.getpid():
            _of_parents.append(self._idle)
            self._idle, self._process = deque(), os.getpid()
        return self._idle


def open_database(config: Config, role: str = "write") -> Database:
    """Prepare the home folder, and mark the queue as used by this process and its forks. Opens no connection.

    Raises ConfigError.
    """
    ensure_home(config)
    clock.follow(None)
    database = Database(config, role)
    if config.is_sqlite:
        database.in_use = share_use(config)
    return database


def _answers(connection: Any) -> bool:
    """Test a connection to PostgreSQL, and read the server's clock."""
    try:
        postgresql.follow_clock(connection)
    except Exception:
        with suppress(Exception):
            connection.close()
        return False
    return True
