"""Mail to a real SMTP server: TLS and log-in, headers that nothing can be injected into, one thread for an alert."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.notifications.receivers import Mailbox, smtp_receiver
from webapp.config import Config
from webapp.notifications.sending import mail
from webapp.notifications.sending.outcome import PermanentFailure, TemporaryFailure

TO = ("ana@x.example", "bob@x.example")
PLAIN = Config(Path("/"), None, None, mail_from="Queue <queue@example.org>")


def at(mailbox: Mailbox, url: str = "smtp://127.0.0.1:{}") -> Config:
    return replace(PLAIN, smtp_url=url.format(mailbox.port))


def send(config: Config, to: tuple[str, ...] = TO, **fields: Any) -> str:
    texts = {"subject": "it failed", "text": "why", "html": "<p>why</p>", "created_at": 1_700_000_000_000_000}
    return mail.send(config, "ops", to, "msg_1", **{**texts, **fields})


def test_one_mail_goes_to_all_addresses_and_the_servers_answer_is_kept(mailbox: Mailbox) -> None:
    assert send(at(mailbox), text="line 1\n.\nline 3 — ü\n") == "250 2.0.0 queued as 4XyZ"
    [got], [recipients] = mailbox.mails, mailbox.recipients
    assert recipients == list(TO)
    assert got["From"] == "Queue <queue@example.org>"
    assert got["To"] == "ana@x.example, bob@x.example"
    assert got["Subject"] == "it failed"
    assert got["Message-ID"] == "<msg_1@example.org>"
    assert got["Auto-Submitted"] == "auto-generated"
    assert got["List-Id"] == "<ops.queuectl.example.org>"
    assert got["Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    plain, html = got.get_body(("plain",)), got.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content().split() == ["line", "1", ".", "line", "3", "—", "ü"]
    assert html.get_content().strip() == "<p>why</p>"


def test_later_mails_of_an_alert_are_in_the_thread_of_the_first(mailbox: Mailbox) -> None:
    send(at(mailbox), first_id="msg_0")
    [got] = mailbox.mails
    assert got["Subject"] == "Re: it failed"
    assert got["In-Reply-To"] == got["References"] == "<msg_0@example.org>"


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\u2028", "\x85"])
def test_a_subject_cannot_add_a_header(end: str, mailbox: Mailbox) -> None:
    send(at(mailbox), subject=f"job{end}Bcc: eve@evil.example{end}{end}body")
    [got], [recipients] = mailbox.mails, mailbox.recipients
    assert got["Bcc"] is None
    assert recipients == list(TO)
    assert "\\" in got["Subject"]
    assert "Bcc: eve@evil.example" in got["Subject"]


def test_a_long_subject_is_cut_and_other_scripts_are_kept(mailbox: Mailbox) -> None:
    send(at(mailbox), subject="выгрузка " * 100)
    [got] = mailbox.mails
    assert got["Subject"].startswith("выгрузка выгрузка")
    assert len(got["Subject"]) <= mail.MAX_SUBJECT


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("security", "url"), [("starttls", "smtp://ana:p%40ss@localhost:{}?starttls=yes"), ("tls", "smtps://ana:p%40ss@localhost:{}")]
)  # fmt: skip
def test_the_password_goes_over_tls(security: str, url: str) -> None:
    with smtp_receiver(security=security, password="p@ss") as mailbox:
        send(at(mailbox, url))
        assert mailbox.logins == ["ana"]
        assert len(mailbox.mails) == 1


def test_a_server_without_starttls_gets_no_mail(mailbox: Mailbox) -> None:
    with pytest.raises(TemporaryFailure, match="STARTTLS"):
        send(at(mailbox, "smtp://127.0.0.1:{}?starttls=yes"))
    assert mailbox.mails == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_trusts_gets_no_mail(security: str) -> None:
    url = "smtps://localhost:{}" if security == "tls" else "smtp://localhost:{}?starttls=yes"
    with smtp_receiver(security=security) as mailbox:
        with pytest.raises(TemporaryFailure, match=r"self.signed certificate"):
            send(at(mailbox, url))
        assert mailbox.mails == []


@pytest.mark.usefixtures("trusted")
def test_a_refused_login_is_tried_again_and_shows_no_password() -> None:
    with smtp_receiver(security="tls", password="right") as mailbox:
        with pytest.raises(TemporaryFailure) as failure:
            send(at(mailbox, "smtps://ana:wr0ng-pass@localhost:{}"))
        assert str(failure.value).startswith("535 ")
        assert "wr0ng-pass" not in str(failure.value)


def test_if_some_addresses_are_refused_the_others_get_the_mail(mailbox: Mailbox) -> None:
    mailbox.refuses["bob@x.example"] = "550 no such user"
    assert send(at(mailbox)) == "250 2.0.0 queued as 4XyZ; refused: bob@x.example (550 no such user)"
    assert mailbox.recipients == [["ana@x.example"]]


@pytest.mark.parametrize(
    ("answers", "failure"),
    [
        (("550 no such user", "550 no such user"), PermanentFailure),
        (("550 no such user", "450 greylisted"), TemporaryFailure),
    ],
)
def test_if_all_addresses_are_refused_one_that_may_be_taken_later_decides(
    answers: tuple[str, str], failure: type[Exception], mailbox: Mailbox
) -> None:
    mailbox.refuses.update(zip(TO, answers))
    with pytest.raises(failure, match=r"refused: ana@x\.example \(550 no such user\), bob@x\.example"):
        send(at(mailbox))


@pytest.mark.parametrize(
    ("said", "failure"), [("451 try again", TemporaryFailure), ("554 spam", PermanentFailure)]
)  # fmt: skip
def test_an_answer_4xx_is_temporary_and_5xx_permanent(said: str, failure: type[Exception], mailbox: Mailbox) -> None:
    mailbox.says.append(said)
    with pytest.raises(failure, match=f"^{said}$"):
        send(at(mailbox))


def test_without_a_server_or_a_sender_the_message_says_what_to_set(mailbox: Mailbox) -> None:
    with pytest.raises(TemporaryFailure, match="QUEUECTL_SMTP_URL"):
        send(PLAIN)
    with pytest.raises(TemporaryFailure, match="QUEUECTL_MAIL_FROM"):
        send(replace(at(mailbox), mail_from=None))


def test_an_address_as_user_of_the_server_is_the_sender(mailbox: Mailbox) -> None:
    config = replace(at(mailbox, "smtp://queue%40example.net@127.0.0.1:{}"), mail_from=None)
    assert mail._sender(config).addr_spec == "queue@example.net"


def test_a_server_that_is_away_is_tried_again() -> None:
    with smtp_receiver() as gone:
        pass
    with pytest.raises(TemporaryFailure, match=r"no connection with the mail server 127\.0\.0\.1"):
        send(at(gone))
