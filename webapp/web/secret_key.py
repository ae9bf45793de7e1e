"""The secret key for sessions: a file in the home folder, created at the first start, readable by the owner only."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from webapp.config import ConfigError
from webapp.lib.system.private_files import create_private, denial

LENGTH = 32  # bytes


def secret_key(path: Path) -> bytes:
    """Read or create the key. Processes that start together get the same key. Raises ConfigError."""
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot use the key {path}: {denial([path.parent, path]) or error.strerror}.") from None
    if len(key) < LENGTH:
        raise ConfigError(
            f"{path} holds {len(key)} bytes, not a key of {LENGTH}. Delete it; a new one ends all sessions."
        )
    if os.name == "posix" and path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return key


def _make(path: Path) -> None:
    # Write a draft, then link it: other processes never see half a file.
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = create_private(draft)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(LENGTH))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first; its key is used
            os.link(draft, path) if hasattr(os, "link") else os.rename(draft, path)
        if os.name == "posix":  # make the new file name durable
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    finally:
        draft.unlink(missing_ok=True)
