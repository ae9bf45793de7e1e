"""How this process was started: frozen at its start, from flags, environment, `.env` and defaults, in that order.

What people change while the queue runs lives in `jobs/settings.py` and the database, not here.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union
from urllib.parse import urlsplit

from webapp.lib import dotenv, postgres_dsn

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
CHECKOUT = Path(__file__).resolve().parent.parent


class ConfigError(Exception):
    """The process was started with something it cannot use; the message says what, and what to do."""


@dataclass(frozen=True)
class Config:
    """One process's start-up configuration.

    Attributes:
        home: the folder that holds the database, the lock and the secret key (mode 0700).
        database_url: a SQLAlchemy URL; None means `queue.db` in the home.
        public_url: how people reach the console from outside (`https://queue.example.org`), or None.
        trusted_proxies: addresses and networks whose `X-Forwarded-For` is believed.
        durable_settles: whether workers commit as durably as enqueue does: then nothing runs again after a power cut
            but what was running, and a job takes longer.
    """

    home: Path
    database_url: Optional[str]
    public_url: Optional[str]
    trusted_proxies: tuple[Network, ...] = ()
    durable_settles: bool = False

    @property
    def is_sqlite(self) -> bool:
        return self.database_url is None or self.database_url.startswith("sqlite")

    @property
    def sqlite_path(self) -> Path:
        """The database file. Only meaningful where `is_sqlite`."""
        if self.database_url is None:
            return self.home / "queue.db"
        return Path(self.database_url[len("sqlite:///") :]).absolute()

    @property
    def lock_path(self) -> Path:
        """The file whose flock every writer takes first; it lies beside the database that it guards."""
        return self.sqlite_path.with_name("queue.lock") if self.is_sqlite else self.home / "queue.lock"

    @property
    def key_path(self) -> Path:
        return self.home / "secret.key"


def load(environ: Optional[Mapping[str, str]] = None) -> Config:
    """Read the configuration. Raises ConfigError with one line that names the variable and what it should be."""
    values = {**_dotenv(), **(os.environ if environ is None else environ)}
    home_text = values.get("QUEUECTL_HOME") or os.path.join(_user_home(values), ".queuectl")
    return Config(
        home=_home(home_text),
        database_url=_database_url(values.get("QUEUECTL_DATABASE_URL") or None),
        public_url=_public_url(values.get("QUEUECTL_PUBLIC_URL") or None),
        trusted_proxies=_networks(values.get("QUEUECTL_TRUSTED_PROXIES") or ""),
        durable_settles=_yes("QUEUECTL_DURABLE_SETTLES", values.get("QUEUECTL_DURABLE_SETTLES") or "0"),
    )


def ensure_home(config: Config) -> None:
    """Make the home folder, readable by its owner alone. Raises ConfigError where that cannot be done."""
    try:
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and config.home.stat().st_uid == os.getuid():
            mode = stat.S_IMODE(config.home.stat().st_mode)
            if mode & 0o077:
                config.home.chmod(0o700)
        if not os.access(config.home, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ConfigError(
            f"cannot use the home folder {config.home}: {error.strerror}. "
            "Make it writable, or name another one in QUEUECTL_HOME."
        ) from None


def _home(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"QUEUECTL_HOME is {text!r}, and there is no such user. Name a folder.") from None


def _user_home(values: Mapping[str, str]) -> str:
    home = values.get("HOME") or os.path.expanduser("~")
    if not os.path.isabs(home):
        raise ConfigError("this user has no home folder. Name a folder for the queue in QUEUECTL_HOME.")
    return home


def _dotenv() -> dict[str, str]:
    path = CHECKOUT / ".env"
    try:
        return dotenv.load(str(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. Let this user read it, or remove it.") from None


def _database_url(url: Optional[str]) -> Optional[str]:
    return None if url is None else database_url(url, "QUEUECTL_DATABASE_URL")


def database_url(url: str, name: str) -> str:
    """An address as SQLAlchemy takes it. Raises ConfigError, which says under what name it was given."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in {"postgres", "postgresql", "postgresql+psycopg"}:
        try:
            rest = postgres_dsn.spread(rest)
        except ValueError as error:
            raise ConfigError(
                f"{name} names several hosts ({scheme}://…) and cannot be used: {error}. "
                "Expected postgresql://user@host1:5432,host2:5432/database."
            ) from None
        if _has_readable_port(rest):
            return "postgresql+psycopg://" + rest
    if scheme == "sqlite" and rest.startswith("/") and os.path.isabs(rest[1:]):
        return url
    # What stands before a missing `://` is the whole text, with its password.
    raise ConfigError(
        f"{name} names no database that can be used{f' ({scheme}://…)' if separator else ''}. "
        "Expected sqlite:////absolute/path/queue.db or postgresql://user@host/database."
    )


def address(config: Config) -> str:
    """Where the database is, for people to read: without any password, as it may be typed in again."""
    if config.is_sqlite:
        return f"sqlite:///{config.sqlite_path}"
    from sqlalchemy.engine import URL, make_url  # only here: most processes tell nobody

    url = make_url(config.database_url or "")
    query = {key: value for key, value in url.query.items() if "password" not in key}
    if "," not in str(query.get("host", "")) or "port" not in query:
        return URL.create("postgresql", url.username, None, url.host, url.port, url.database, query).render_as_string()
    hosts = postgres_dsn.together(str(query.pop("host")), str(query.pop("port")))
    shown = URL.create("postgresql", url.username, None, "\0", None, url.database, query).render_as_string()
    return shown.replace("\0", hosts)  # nothing else has one that is not quoted


def _has_readable_port(address: str) -> bool:
    """Whether what follows `//` and a password can be taken apart: brackets that close, a port that is a number."""
    try:
        _ = urlsplit("//" + address.rpartition("@")[2]).port
    except ValueError:
        return False
    return True


def _public_url(url: Optional[str]) -> Optional[str]:
    if url is None:
        return None
    readable = _has_readable_port(url.partition("://")[2])
    parts = urlsplit(url if readable else "")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
        raise ConfigError(f"QUEUECTL_PUBLIC_URL is {url!r}. Expected something like https://queue.example.org.")
    return f"{parts.scheme}://{parts.netloc}"


def _yes(name: str, text: str) -> bool:
    if text not in {"0", "1"}:
        raise ConfigError(f"{name} is {text!r}. Expected 1 (yes) or 0 (no).")
    return text == "1"


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ConfigError(
            f"QUEUECTL_TRUSTED_PROXIES is {text!r}: {error}. Expected addresses or networks, such as "
            "127.0.0.1 or 10.0.0.0/8, with commas between."
        ) from None
