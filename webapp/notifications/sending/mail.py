"""Sends a message by mail, to all addresses of a channel in one mail."""

from __future__ import annotations

import email.errors
import email.policy
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Any, Optional

from webapp.config import MAIL_FROM, SMTP_URL, Config
from webapp.lib import clock, smtp_url
from webapp.lib.smtp_url import SmtpServer
from webapp.lib.text import escape_controls, shorten
from webapp.notifications.sending.outcome import MAIL_TIMEOUT, PermanentFailure, TemporaryFailure, kept, reason_of

MAX_SUBJECT = 200  # characters
# 7bit: a server need not accept other characters. The policy refuses header values with a line end.
_POLICY = email.policy.SMTP.clone(cte_type="7bit")
_LATER = range(400, 500)


def send(
    config: Config,
    channel: str,
    to: Sequence[str],
    message_id: str,
    *,
    subject: str,
    text: str,
    html: str,
    created_at: int,
    first_id: Optional[str] = None,
) -> str:
    """Send one mail; return the server's answer, with the addresses that it refused, if not all.

    `first_id`: the id of the first message of the same thread, if this is not it. Raises PermanentFailure and
    TemporaryFailure: a refused log-in, too, because it is not about this message.
    """
    server, sender = _server(config), _sender(config)
    mail = compose(sender, channel, to, message_id, subject, text, html, created_at, first_id)
    secrets = [server.password] if len(server.password) > 3 else []
    try:
        client = _connect(server)
    except smtplib.SMTPResponseException as error:
        raise TemporaryFailure(kept(_said(error.smtp_code, error.smtp_error), secrets)) from None
    except (OSError, smtplib.SMTPException) as error:
        said = f"no connection with the mail server {server.host}: {reason_of(error)}"
        raise TemporaryFailure(kept(said, secrets)) from None
    try:
        return kept(_deliver(client, mail, sender, to))
    finally:
        client.close()


def compose(
    sender: Address,
    channel: str,
    to: Sequence[str],
    message_id: str,
    subject: str,
    text: str,
    html: str,
    created_at: int,
    first_id: Optional[str],
) -> EmailMessage:
    """The mail. All mails of one alert are one thread in a mail program: the same subject, and references."""
    mail = EmailMessage(policy=_POLICY)
    mail["From"] = sender
    mail["To"] = [Address(addr_spec=address) for address in to]
    mail["Subject"] = shorten(escape_controls(f"Re: {subject}" if first_id else subject), MAX_SUBJECT)
    mail["Date"] = format_datetime(clock.to_datetime(created_at))
    mail["Message-ID"] = f"<{message_id}@{sender.domain}>"
    if first_id:
        mail["In-Reply-To"] = mail["References"] = f"<{first_id}@{sender.domain}>"
    mail["List-Id"] = f"<{channel.replace(':', '-').replace('_', '-')}.queuectl.{sender.domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "All"
    mail.set_content(text)
    mail.add_alternative(html, subtype="html")
    return mail


def _server(config: Config) -> SmtpServer:
    if not config.smtp_url:
        raise TemporaryFailure(f"no mail server is configured: set {SMTP_URL} in .env, and restart the workers")
    return smtp_url.parse(config.smtp_url)


def _sender(config: Config) -> Address:
    """QUEUECTL_MAIL_FROM, else the user of the mail server if that is an address."""
    user = smtp_url.parse(config.smtp_url or "").user or ""
    name, address = parseaddr(config.mail_from or (user if "@" in user else ""))
    try:
        return Address(display_name=name, addr_spec=address)
    except (ValueError, IndexError, email.errors.MessageError):
        hint = f"set {MAIL_FROM} in .env to an address such as queue@example.org, and restart the workers"
        raise TemporaryFailure(f"no sender is configured: {hint}") from None


class _Answers:
    """Keeps the server's answer to the last mail, which smtplib does not return."""

    answer = ""

    def data(self, msg: Any) -> Any:
        code, said = super().data(msg)  # type: ignore[misc]
        self.answer = _said(code, said)
        return code, said


class _Smtp(_Answers, smtplib.SMTP):
    pass


class _SmtpOverTls(_Answers, smtplib.SMTP_SSL):
    pass


def _connect(server: SmtpServer) -> Any:
    context = ssl.create_default_context()
    client: Any
    if server.security == "tls":
        client = _SmtpOverTls(server.host, server.port, timeout=MAIL_TIMEOUT, context=context)
    else:
        client = _Smtp(server.host, server.port, timeout=MAIL_TIMEOUT)
    try:
        if server.security == "starttls":
            client.starttls(context=context)
        if server.user is not None:
            client.login(server.user, server.password)
    except BaseException:
        client.close()
        raise
    return client


def _deliver(client: Any, mail: EmailMessage, sender: Address, to: Sequence[str]) -> str:
    try:
        refused = client.send_message(mail, sender.addr_spec, list(to))
    except smtplib.SMTPRecipientsRefused as error:
        later = any(code in _LATER for code, _ in error.recipients.values())
        raise (TemporaryFailure if later else PermanentFailure)(kept(_refused(error.recipients))) from None
    except smtplib.SMTPResponseException as error:
        failure = PermanentFailure if 500 <= error.smtp_code < 600 else TemporaryFailure
        raise failure(kept(_said(error.smtp_code, error.smtp_error))) from None
    except (OSError, smtplib.SMTPException) as error:
        raise TemporaryFailure(kept(f"no answer of the mail server: {reason_of(error)}")) from None
    with suppress(OSError, smtplib.SMTPException):  # it has taken the mail
        client.sock.settimeout(1.0)
        client.quit()
    said: str = client.answer
    return f"{said}; {_refused(refused)}" if refused else said


def _refused(recipients: Mapping[str, tuple[int, bytes]]) -> str:
    some = ", ".join(f"{address} ({_said(code, said)})" for address, (code, said) in recipients.items())
    return f"refused: {some}"


def _said(code: int, text: object) -> str:
    words = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return f"{code} {words}".strip()
