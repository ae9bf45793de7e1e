"""Apprise: one of its services against a real receiver, and what is refused before it is asked."""

from __future__ import annotations

import sys

import pytest

from tests.notifications.receivers import Receiver
from webapp.notifications.sending import apprise_urls
from webapp.notifications.sending.outcome import PermanentFailure, TemporaryFailure


def url(receiver: Receiver) -> str:
    return f"ntfy://ana:s3cret-pass@127.0.0.1:{receiver.port}/t0pic-secret"


def test_a_message_reaches_a_service_and_calls_nobody_in_the_chat(receiver: Receiver) -> None:
    answer = apprise_urls.send(url(receiver), "it failed", "why: @everyone")
    [request] = receiver.requests
    assert b"@everyone" not in request.body
    assert b"it failed" in request.body
    assert b"why" in request.body
    assert "t0pic-secret" not in answer
    assert "s3cret-pass" not in answer


@pytest.mark.parametrize(("status", "failure"), [(500, TemporaryFailure), (403, PermanentFailure)])
def test_a_refusal_says_why_without_the_url(status: int, failure: type[Exception], receiver: Receiver) -> None:
    receiver.answers += [(status, {}, b"no")] * 3
    with pytest.raises(failure, match=str(status)) as refused:
        apprise_urls.send(url(receiver), "it failed", "why")
    assert "t0pic-secret" not in str(refused.value)
    assert "s3cret-pass" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong", ["json://127.0.0.1/", "syslog://", "mailto://a:b@x.example", "https://x.example/", "ntfy://a,json://b"]
)
def test_only_allowed_schemes_are_used(wrong: str) -> None:
    with pytest.raises(PermanentFailure, match="the URL has"):
        apprise_urls.send(wrong, "it failed", "why")


def test_a_url_that_apprise_does_not_take_is_not_shown() -> None:
    with pytest.raises(PermanentFailure, match="Apprise does not accept this URL") as refused:
        apprise_urls.send("slack://not-a-t0ken", "it failed", "why")
    assert "t0ken" not in str(refused.value)


def test_without_the_library_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(TemporaryFailure, match=r"Set QUEUECTL_EXTRAS=notify in \.env"):
        apprise_urls.send("ntfy://127.0.0.1/topic", "it failed", "why")
