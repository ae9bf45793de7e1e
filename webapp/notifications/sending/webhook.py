"""Sends a message to a webhook: one POST with JSON, signed as Standard Webhooks describes.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import socket
import ssl
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

from webapp.lib.version import __version__
from webapp.notifications.channels import check_webhook
from webapp.notifications.sending import guarded_connect
from webapp.notifications.sending.outcome import PermanentFailure, TemporaryFailure, kept, secrets_of

SECRET_PREFIX = "whsec_"  # noqa: S105
READ = 16 * 1024  # bytes of an answer that are read
MAX_BODY = 256 * 1024  # bytes
_LATER = (408, 421, 425, 429)  # of the answers 4xx, those that ask to try again


def send(url: str, secrets: Sequence[str], message_id: str, sent_at: int, body: bytes, *, allow_private: bool) -> str:
    """POST a message; return the answer. `sent_at`: seconds since 1970.

    Raises PermanentFailure and TemporaryFailure. Redirects are not followed: they may lead anywhere.
    """
    try:
        check_webhook(url)
        headers = _headers(secrets, message_id, sent_at, body)
    except ValueError as error:
        raise PermanentFailure(f"the URL or the secret {error}") from None
    if len(body) > MAX_BODY:
        raise PermanentFailure(f"the message has {len(body):,} bytes; at most {MAX_BODY:,} are sent")
    parts = urlsplit(url)
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    connection = _Connection(url, allow_private=allow_private)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("POST", target, body, headers)
        response = connection.getresponse()
        said = _first_bytes(response).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        reason = kept(str(error) or type(error).__name__, secrets_of(url))
        raise TemporaryFailure(f"no complete answer: {reason}") from None
    finally:
        connection.close()
    return _judge(response, said, url)


def _first_bytes(response: http.client.HTTPResponse) -> bytes:
    """The start of the answer. The status counts, however slowly the rest comes, or if it breaks off."""
    try:
        return response.read1(READ)
    except (OSError, http.client.HTTPException):
        return b""


def _judge(response: http.client.HTTPResponse, said: str, url: str) -> str:
    status, secrets = response.status, secrets_of(url)
    answer = kept(f"{status} {response.reason}: {said}" if said.strip() else f"{status} {response.reason}", secrets)
    if 200 <= status < 300:
        return answer
    if 300 <= status < 400:
        raise PermanentFailure(f"{status}: redirects to {_host_of(response)}. Enter the URL that it redirects to")
    if status in _LATER or status >= 500:
        raise TemporaryFailure(answer)
    raise PermanentFailure(answer)


def _host_of(response: http.client.HTTPResponse) -> str:
    """Where a redirect points: the host only, as the rest may have secrets."""
    try:
        host = urlsplit(response.headers.get("Location") or "").hostname
    except ValueError:
        host = None
    return kept(host) if host else "another path of the same host"


def signature(secret: str, message_id: str, sent_at: int, body: bytes) -> str:
    """'v1,…' for the header webhook-signature. Raises ValueError for a secret that is not whsec_ and base64."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("is not whsec_ with base64") from None
    signed = hmac.new(key, f"{message_id}.{sent_at}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


def _headers(secrets: Sequence[str], message_id: str, sent_at: int, body: bytes) -> dict[str, str]:
    own: Mapping[str, str] = {
        "Content-Type": "application/json",
        "User-Agent": f"queuectl/{__version__}",
        "Connection": "close",
        "webhook-id": message_id,
        "webhook-timestamp": str(sent_at),
    }
    signatures = [signature(secret, message_id, sent_at, body) for secret in secrets]
    return {**own, **({"webhook-signature": " ".join(signatures)} if signatures else {})}


class _Connection(http.client.HTTPConnection):
    """One that reaches its host through `guarded_connect`, over TLS for https."""

    def __init__(self, url: str, *, allow_private: bool) -> None:
        parts = urlsplit(url)
        self._is_tls = parts.scheme == "https"
        self._allow_private = allow_private
        super().__init__(parts.hostname or "", parts.port or (443 if self._is_tls else 80))
        self.default_port = 443 if self._is_tls else 80  # for the header Host

    def connect(self) -> None:
        context = ssl.create_default_context() if self._is_tls else None
        self.sock: socket.socket = guarded_connect.connect(
            self.host, self.port, allow_private=self._allow_private, context=context
        )
