"""Receivers of messages, and an environment in which they may be reached."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.notifications.receivers import CERTIFICATE, Mailbox, Receiver, http_receiver, smtp_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with smtp_receiver() as found:
        yield found


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate of the receivers is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
