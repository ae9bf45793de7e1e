"""Webhooks: the signature, what counts as success, and what is kept of an answer."""

from __future__ import annotations

import re
import socket
import threading
import time

import pytest

from tests.notifications.receivers import SECRET, Receiver, http_receiver
from tests.notifications.test_guarded_connect import answers
from webapp.notifications.sending import outcome, webhook
from webapp.notifications.sending.outcome import PermanentFailure, TemporaryFailure, kept, secrets_of


def post(receiver: Receiver, *secrets: str, body: bytes = b"{}", url: str = "") -> str:
    return webhook.send(url or receiver.url, secrets, "msg_1", 1614265330, body, allow_private=True)


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of Standard Webhooks' own libraries."""
    made = webhook.signature(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_is_one_signed_post(receiver: Receiver) -> None:
    assert post(receiver, SECRET, body=b'{"a":1}') == "200 OK: thanks"
    [request] = receiver.requests
    assert (request.method, request.body) == ("POST", b'{"a":1}')
    assert request.path == "/hooks/T0ken-Secret?key=s3cret-value"
    assert request.headers["webhook-id"] == "msg_1"
    assert request.headers["webhook-timestamp"] == "1614265330"
    assert request.headers["webhook-signature"] == webhook.signature(SECRET, "msg_1", 1614265330, b'{"a":1}')
    assert request.headers["Content-Type"] == "application/json"


def test_both_secrets_sign_while_one_replaces_the_other(receiver: Receiver) -> None:
    post(receiver, SECRET, "whsec_" + "QUJD" * 8)
    signatures = receiver.requests[0].headers["webhook-signature"].split(" ")
    assert [one[:3] for one in signatures] == ["v1,", "v1,"]
    assert signatures[0] != signatures[1]


def test_a_login_in_the_url_becomes_a_header(receiver: Receiver) -> None:
    post(receiver, url=f"http://ana:p%40ss@127.0.0.1:{receiver.port}")
    [request] = receiver.requests
    assert request.headers["Authorization"] == "Basic YW5hOnBAc3M="
    assert request.path == "/"


LATER, NEVER = TemporaryFailure, PermanentFailure


@pytest.mark.parametrize(
    ("status", "failure"), [(500, LATER), (503, LATER), (429, LATER), (400, NEVER), (404, NEVER), (410, NEVER)]
)
def test_an_error_is_temporary_if_the_receiver_may_take_it_later(
    status: int, failure: type[Exception], receiver: Receiver
) -> None:
    receiver.answers.append((status, {}, b"no\x1b[31m such\nhook"))
    with pytest.raises(failure, match=rf"^{status} .*: no\\x1b\[31m such hook$"):
        post(receiver)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_only_its_host_is_told(status: int, receiver: Receiver) -> None:
    target = "http://169.254.169.254/latest/meta-data?token=abcdef"
    receiver.answers.append((status, {"Location": target}, b""))
    with pytest.raises(PermanentFailure) as failure:
        post(receiver)
    assert str(failure.value) == f"{status}: redirects to 169.254.169.254. Enter the URL that it redirects to"
    assert len(receiver.requests) == 1


def test_an_answer_that_repeats_the_url_keeps_no_secret(receiver: Receiver) -> None:
    said = b"Cannot POST /hooks/T0ken-Secret?key=s3cret-value &amp; T0ken-Secret " + b"x" * 9000
    receiver.answers.append((404, {}, said))
    with pytest.raises(PermanentFailure) as failure:
        post(receiver)
    assert "T0ken" not in str(failure.value)
    assert "s3cret" not in str(failure.value)
    assert len(str(failure.value)) <= outcome.KEPT_ANSWER


def test_a_receiver_that_drips_bytes_is_left_at_the_deadline(receiver: Receiver) -> None:
    receiver.drips = True
    started = threading.Event()

    def call() -> str:
        started.set()
        return post(receiver)

    with pytest.raises(TemporaryFailure, match=r"no complete answer within 0\.3 s"):
        outcome.within(call, 0.3)
    assert started.is_set()


def test_a_receiver_that_closes_without_an_answer_is_tried_again(receiver: Receiver) -> None:
    receiver.answers.append((999_999, {}, b""))  # no status line of HTTP
    with pytest.raises(TemporaryFailure, match="no complete answer"):
        post(receiver)


@pytest.mark.usefixtures("trusted")
def test_tls_checks_the_certificate_for_the_name() -> None:
    with http_receiver(tls=True) as receiver:
        assert post(receiver, url=f"https://localhost:{receiver.port}/") == "200 OK: thanks"
        [request] = receiver.requests
        assert request.headers["Host"] == f"localhost:{receiver.port}"


def test_a_certificate_that_nobody_trusts_is_refused() -> None:
    with http_receiver(tls=True) as receiver:
        with pytest.raises(TemporaryFailure, match=r"no TLS connection with localhost: self.signed certificate"):
            post(receiver, url=f"https://localhost:{receiver.port}/")
        assert receiver.requests == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers("127.0.0.1"))
    with http_receiver(tls=True) as receiver:
        with pytest.raises(TemporaryFailure, match=r"certificate is not valid for 'hooks\.example\.org'"):
            post(receiver, url=f"https://hooks.example.org:{receiver.port}/")
        assert receiver.requests == []


def test_a_body_that_is_too_large_is_not_sent(receiver: Receiver) -> None:
    with pytest.raises(PermanentFailure, match="the message has"):
        post(receiver, body=b"x" * (webhook.MAX_BODY + 1))
    assert receiver.requests == []


def test_what_a_call_raises_comes_through_and_its_result_too() -> None:
    assert outcome.within(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        outcome.within(lambda: 1 // 0)
    with pytest.raises(TemporaryFailure):
        outcome.within(lambda: time.sleep(5), 0.01)


def test_an_answer_that_repeats_the_login_does_not_show_it() -> None:
    secrets = secrets_of("https://bot:passw0rd@hooks.example/SERVICES/secrettoken")
    answer = kept("400: Authorization: Basic Ym90OnBhc3N3MHJk, /services/SecretToken", secrets)
    assert not re.search("Ym90|secrettoken|passw0rd", answer, re.IGNORECASE)
