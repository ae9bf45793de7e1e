"""The start-up configuration of this process, from flags, environment, `.env` and defaults, in that order.

Settings that people change while the queue runs are in `core/settings.py` and the database.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Union
from urllib.parse import unquote, urlsplit

from webapp.lib import dotenv, ip_addresses, postgres_dsn
from webapp.lib.system import private_files

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
CHECKOUT = Path(__file__).resolve().parent.parent
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?\Z")
_PUBLIC_PATH = re.compile(r"(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._~-]+)*\Z")  # nothing that a proxy could decode or rewrite
_VISIBLE = re.compile(r"[!-~]+\Z")  # what a request line can have
_ADDRESS = r"[!-;=?-~]+@[A-Za-z0-9][A-Za-z0-9.-]*"
_SENDER = re.compile(rf"(?:[^<>\x00-\x1f\x7f]*<{_ADDRESS}>|{_ADDRESS})\Z")
HOME, ADDRESS, PUBLIC_URL = "QUEUECTL_HOME", "QUEUECTL_DATABASE_URL", "QUEUECTL_PUBLIC_URL"
SMTP_URL, MAIL_FROM = "QUEUECTL_SMTP_URL", "QUEUECTL_MAIL_FROM"
ALLOW_PRIVATE_TARGETS = "QUEUECTL_ALLOW_PRIVATE_TARGETS"
ADDRESS_FILE = "file://"  # before the path of a file that has the address


class ConfigError(Exception):
    """A start-up value that cannot be used. The message says which, and what to do."""


class Unavailable(ConfigError):
    """The queue's folder or its database cannot be opened, or takes no changes."""


@dataclass(frozen=True)
class Config:
    """The start-up configuration.

    Attributes:
        home: the folder of the database, the lock and the secret key (mode 0700).
        database_url: a SQLAlchemy URL; None means `queue.db` in `home`.
        public_url: the URL of the console for people (`https://example.org/queue`, no slash at the end), or None.
        trusted_proxies: addresses and networks whose `X-Forwarded-For` is trusted.
        durable_settles: whether workers commit as durably as enqueue. Then only jobs that were running run again after
            a power cut, and each job takes longer.
        smtp_url: the mail server for notifications, see `lib/smtp_url.py`. May have a password.
        mail_from: the sender of these mails, such as `queue@example.org` or `Queue <queue@example.org>`.
        allow_private_targets: whether webhooks may lead to private addresses.
        heartbeat_url: is pinged each minute while jobs are being served. It is a secret.
    """

    home: Path
    database_url: Optional[str]
    public_url: Optional[str]
    trusted_proxies: tuple[Network, ...] = ()
    durable_settles: bool = False
    smtp_url: Optional[str] = field(default=None, repr=False)
    mail_from: Optional[str] = None
    allow_private_targets: bool = False
    heartbeat_url: Optional[str] = None

    @property
    def public_origin(self) -> Optional[str]:
        """`public_url` without its path, in the form that browsers send as Origin."""
        return self.public_url and "/".join(self.public_url.split("/")[:3])

    @property
    def public_path(self) -> str:
        """The path of `public_url`, such as `/queue`. '' if the console has the whole host."""
        return (self.public_url or "")[len(self.public_origin or "") :]

    @property
    def is_sqlite(self) -> bool:
        return self.database_url is None or self.database_url.startswith("sqlite")

    @property
    def sqlite_path(self) -> Path:
        """The database file, if `is_sqlite`."""
        if self.database_url is None:
            return self.home / "queue.db"
        return Path(self.database_url[len("sqlite:///") :]).absolute()

    @property
    def lock_path(self) -> Path:
        """The file of the write lock, next to the database."""
        return self.sqlite_path.with_name("queue.lock") if self.is_sqlite else self.home / "queue.lock"

    @property
    def key_path(self) -> Path:
        return self.home / "secret.key"


def load(environ: Optional[Mapping[str, str]] = None) -> Config:
    """Read the configuration. Raises ConfigError; its message names the variable and what is expected."""
    given = os.environ if environ is None else environ
    _refuse_to_guess(given)
    values = {**_dotenv(), **given}
    home_text = values.get(HOME) or os.path.join(_user_home(values), ".queuectl")
    url = _secret(ADDRESS, values)
    smtp_url = _secret(SMTP_URL, values)
    return Config(
        home=_home(home_text),
        database_url=database_url(url, ADDRESS) if url else None,
        public_url=_public_url(values.get(PUBLIC_URL) or ""),
        trusted_proxies=_networks(values.get("QUEUECTL_TRUSTED_PROXIES") or ""),
        durable_settles=_yes("QUEUECTL_DURABLE_SETTLES", values.get("QUEUECTL_DURABLE_SETTLES") or "0"),
        smtp_url=_smtp_url(smtp_url) if smtp_url else None,
        mail_from=_mail_from(values.get(MAIL_FROM) or ""),
        allow_private_targets=_yes(ALLOW_PRIVATE_TARGETS, values.get(ALLOW_PRIVATE_TARGETS) or "0"),
        heartbeat_url=_heartbeat_url(values.get("QUEUECTL_HEARTBEAT_URL") or ""),
    )


def ensure_home(config: Config) -> None:
    """Create the home folder, readable by its owner only. Raises ConfigError if that fails."""
    try:
        private_files.make_folder(config.home)
        if os.name == "posix" and config.home.stat().st_uid == os.getuid():
            mode = stat.S_IMODE(config.home.stat().st_mode)
            if mode & 0o077:
                config.home.chmod(0o700)
        if not os.access(config.home, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        reason = private_files.denial([config.home])
        raise Unavailable(
            f"cannot use the home folder (QUEUECTL_HOME): {reason}."
            if reason
            else f"cannot use the home folder {config.home}: {error.strerror}. "
            "Make it writable, or set another folder in QUEUECTL_HOME."
        ) from None


def denial(config: Config) -> Optional[str]:
    """Why this process may not use the files of the queue, and what to do, without full stop; None if it may."""
    return private_files.denial([config.home, *files(config)])


def files(config: Config) -> list[Path]:
    """The files of the queue. Some may not exist yet."""
    if not config.is_sqlite:
        return [config.key_path]
    database = config.sqlite_path
    beside = (f"{database.name}-wal", f"{database.name}-shm", "queue.lock", "queue.use", "queue.bell")
    return [database, *(database.with_name(name) for name in beside), config.key_path]


def is_default(config: Config) -> bool:
    """Whether this is the queue of a user who configured nothing."""
    try:
        home = _home(os.path.join(_user_home(os.environ), ".queuectl"))
    except ConfigError:
        return False
    return config.database_url is None and config.home == home


def _refuse_to_guess(given: Mapping[str, str]) -> None:
    """Inside a job the defaults may lead to another queue than the job's. Raises ConfigError."""
    missing = [name for name in (HOME, ADDRESS) if name not in given or (name == HOME and not given[name])]
    if "QUEUECTL_JOB_ID" not in given or not missing:
        return
    why = ""
    if ADDRESS in missing and not hasattr(os, "memfd_create"):
        why = " On this system jobs get no address that has a password: move the password into a password file."
    raise ConfigError(
        f"this command runs in job {given['QUEUECTL_JOB_ID']}, but without {' and '.join(missing)}, so its queue is "
        f"unknown. Keep the QUEUECTL_ variables of the job, or set {' and '.join(missing)}.{why}"
    )


def _secret(name: str, values: Mapping[str, str]) -> str:
    """A value that may be in a file: `file:///path`. '' if there is none."""
    text = values.get(name) or ""
    if not text.startswith(f"{ADDRESS_FILE}/"):
        return text
    path = unquote(text[len(ADDRESS_FILE) :])
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        ended = " The worker of this job may have ended." if path.startswith("/proc/") else ""
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{name}: cannot read the address in {path}: {reason}.{ended}") from None


def _home(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"QUEUECTL_HOME is {text!r}, but this user does not exist. Set a folder.") from None


def _user_home(values: Mapping[str, str]) -> str:
    home = values.get("HOME") or os.path.expanduser("~")
    if not os.path.isabs(home):
        raise ConfigError("this user has no home folder. Set a folder for the queue in QUEUECTL_HOME.")
    return home


def _dotenv() -> dict[str, str]:
    path = CHECKOUT / ".env"
    try:
        return dotenv.load(str(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. Make it readable, or remove it.") from None


def database_url(url: str, name: str) -> str:
    """An address in the form for SQLAlchemy. Raises ConfigError; `name` is the variable or option in its message."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in {"postgres", "postgresql", "postgresql+psycopg"}:
        try:
            rest = postgres_dsn.spread(rest)
        except ValueError as error:
            raise ConfigError(
                f"{name} ({scheme}://…) has several hosts and cannot be used: {error}. "
                "Expected postgresql://user@host1:5432,host2:5432/database."
            ) from None
        if _has_readable_port(rest):
            return "postgresql+psycopg://" + rest
    if scheme == "sqlite" and rest.startswith("/") and os.path.isabs(rest[1:]):
        return url
    # Without `://` the scheme is the whole text with its password, so do not show it.
    raise ConfigError(
        f"{name} is not a valid database address{f' ({scheme}://…)' if separator else ''}. "
        "Expected sqlite:////absolute/path/queue.db or postgresql://user@host/database."
    )


def address(config: Config) -> str:
    """The address of the database for people, without password, in a form that can be entered again."""
    if config.is_sqlite:
        return f"sqlite:///{config.sqlite_path}"
    from sqlalchemy.engine import URL, make_url  # only here: most processes do not need it

    url = make_url(config.database_url or "")
    query = {key: value for key, value in url.query.items() if "password" not in key}
    if "," not in str(query.get("host", "")) or "port" not in query:
        return URL.create("postgresql", url.username, None, url.host, url.port, url.database, query).render_as_string()
    hosts = postgres_dsn.together(str(query.pop("host")), str(query.pop("port")))
    shown = URL.create("postgresql", url.username, None, "\0", None, url.database, query).render_as_string()
    return shown.replace("\0", hosts)  # everything else is quoted


def _has_readable_port(address: str) -> bool:
    """Whether the part after `//` and a password can be parsed: closed brackets, a numeric port."""
    try:
        _ = urlsplit("//" + address.rpartition("@")[2]).port
    except ValueError:
        return False
    return True


def _public_url(url: str) -> Optional[str]:
    """The URL as browsers write it, so that it can be compared with their headers: no default port, no slash at the
    end, a name in ASCII."""
    if not url:
        return None
    readable = _has_readable_port(url.partition("://")[2])
    parts = urlsplit(url if readable else "")
    host = _browser_host(parts.hostname or "")
    extra = parts.username is not None or parts.query or parts.fragment
    path = parts.path.rstrip("/")
    if parts.scheme not in _DEFAULT_PORTS or not host or extra or not _PUBLIC_PATH.match(path):
        raise ConfigError(
            f"QUEUECTL_PUBLIC_URL is {url!r}. Expected something like https://queue.example.org or "
            "https://example.org/queue. A path may have letters, digits and . _ ~ -"
        )
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{path}"


def _heartbeat_url(url: str) -> Optional[str]:
    """The message of the error does not show the URL: who has it can forge the heartbeat."""
    if not url:
        return None
    parts = urlsplit(url if _has_readable_port(url.partition("://")[2]) and _VISIBLE.match(url) else "")
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.username is not None:
        raise ConfigError(
            "QUEUECTL_HEARTBEAT_URL is not a valid URL. Expected something like https://hc-ping.com/ID, "
            "without user name and password, and without spaces."
        )
    return url


def _browser_host(name: str) -> str:
    """The host as browsers send it. '' if it cannot be a host."""
    address = ip_addresses.parse(name)
    if address is not None:
        return f"[{address}]" if address.version == 6 else str(address)
    try:
        name = name if name.isascii() else name.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return ""
    return name.rstrip(".") if _HOST_NAME.match(name) else ""


def _smtp_url(url: str) -> str:
    from webapp.lib import smtp_url  # only where mail is sent

    try:
        smtp_url.parse(url)
    except ValueError as error:  # without the URL, which may have a password
        raise ConfigError(
            f"{SMTP_URL} {error}. Expected smtp://user:password@host:587 or smtps://user:password@host:465."
        ) from None
    return url


def _mail_from(text: str) -> Optional[str]:
    if text and not _SENDER.match(text):
        raise ConfigError(f"{MAIL_FROM} is {text!r}. Expected queue@example.org or 'Queue <queue@example.org>'.")
    return text or None


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
            "127.0.0.1 or 10.0.0.0/8, separated by commas."
        ) from None
