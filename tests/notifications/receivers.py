"""Real receivers of messages: an HTTP server and an SMTP server on this machine, and rows for the sender to send."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from webapp.db.engines import reading, writing
from webapp.db.models import Channel, Delivery
from webapp.lib import clock
from webapp.notifications import channels

CERTIFICATE = Path(__file__).with_name("certificate.pem")  # for localhost, until 2126
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Request:
    method: str
    path: str
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """An HTTP server that keeps what it got. `answers`: (status, headers, body) of the next requests; then 200."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    drips: bool = False  # sends a byte now and then, and never ends

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/T0ken-Secret?key=s3cret-value"


@contextmanager
def http_receiver(*, tls: bool = False, port: int = 0) -> Iterator[Receiver]:
    receiver, over = Receiver(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            receiver.requests.append(Request(self.command, self.path, self.headers, body))
            if receiver.drips:
                while not over.wait(0.05):
                    self.wfile.write(b"H")
                return
            status, headers, text = receiver.answers.pop(0) if receiver.answers else (200, {}, b"thanks")
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mailbox:
    """An SMTP server that keeps what it got. `refuses`: address → answer; `says`: the answers to the next mails."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    refuses: dict[str, str] = field(default_factory=dict)
    says: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        if address in self.refuses:
            return self.refuses[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        answer = self.says.pop(0) if self.says else "250 2.0.0 queued as 4XyZ"
        if answer.startswith("2"):
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
            self.recipients.append(list(envelope.rcpt_tos))
        return answer


class _OnFreePort(Controller):
    """aiosmtpd connects to the port that it was given, to see that it listens. Port 0 is any free one."""

    def _trigger_server(self) -> None:
        server: Any = self.server
        self.port = server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@contextmanager
def smtp_receiver(*, security: str = "none", password: Optional[str] = None) -> Iterator[Mailbox]:
    """`security`: none, starttls or tls. With `password`, the user `ana` must log in with it."""
    mailbox = Mailbox()
    context = None
    if security != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        mailbox.logins.append(data.login.decode())
        known = (data.login, data.password) == (b"ana", (password or "").encode())
        return AuthResult(success=known, handled=False)

    options: dict[str, Any] = {"auth_require_tls": security == "starttls"}
    if password is not None:
        options |= {"authenticator": authenticate, "auth_required": True}
    if security == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    controller = _OnFreePort(
        mailbox, hostname="127.0.0.1", port=0, ssl_context=context if security == "tls" else None, **options
    )
    controller.start()
    mailbox.port = controller.port
    try:
        yield mailbox
    finally:
        controller.stop(no_assert=True)


# --- rows ------------------------------------------------------------------------------------------------------------


def add_channel(name: str = "ops", *, sender: Optional[str] = "sender-1", **fields: Any) -> int:
    """A channel whose messages the job `sender` sends; returns its id."""
    secrets = {key: fields.pop(key, None) for key in ("secret", "old_secret", "old_secret_until")}
    spec, now = channels.parse({"name": name, **fields}), clock.now()
    row = Channel(
        name=name,
        kind=spec.kind,
        target=channels.target_text(spec),
        hourly_cap=spec.hourly_cap,
        sender_job=sender,
        created_at=now,
        created_by="person:ana",
        changed_at=now,
        changed_by="person:ana",
        **secrets,
    )
    with writing() as session:
        session.add(row)
    return row.id


def add_delivery(channel_id: int, kind: str = "test", state: str = "waiting", **values: Any) -> int:
    now = clock.now()
    detail = values.pop("detail", {"actor": "person:ana"})
    made: dict[str, Any] = {"created_at": now, "not_before": now, "tries": 0}
    made["ended_at"] = None if state == "waiting" else now
    row = Delivery(channel_id=channel_id, kind=kind, state=state, detail=json.dumps(detail), **{**made, **values})
    with writing() as session:
        session.add(row)
    return row.id


def delivery(delivery_id: int) -> Delivery:
    with reading() as session:
        return session.get_one(Delivery, delivery_id)


def wait_until_refused(port: int) -> None:
    """Until nothing listens there any more."""
    import socket

    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.01)
