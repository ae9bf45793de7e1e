"""The result of an attempt to send a message, the stored part of a receiver's answer, and the time limit."""

from __future__ import annotations

import base64
import html
import re
import threading
from collections.abc import Iterable
from typing import Callable, TypeVar
from urllib.parse import unquote, urlsplit

from webapp.lib.text import escape_controls, shorten

DEADLINE = 30.0  # seconds for one message, from the look-up of the name to the end of the answer
OPERATION_TIMEOUT = 15.0  # seconds for one step, such as to connect
# A mail server may look at a mail for a while before it accepts it. Giving up then would send the mail again.
MAIL_DEADLINE, MAIL_TIMEOUT = 180.0, 120.0
KEPT_ANSWER = 500  # characters
SHORTEST_SECRET = 6  # characters: shorter parts of a URL are words such as 'api'
_SEPARATORS = re.compile(r"[/?&=@:#]")
T = TypeVar("T")


class TemporaryFailure(Exception):
    """The receiver may take the message later. The text is its answer, or why there is none."""


class PermanentFailure(Exception):
    """The receiver will not take this message. The text is its answer, or why nothing was sent."""


def within(call: Callable[[], T], seconds: float = DEADLINE) -> T:
    """The result of `call`, or TemporaryFailure after this many seconds.

    A receiver that sends a byte every few seconds passes every timeout of a socket, and the look-up of a name has none.
    So a thread makes the call, and nothing waits for it after the deadline.
    """
    ended: list[Callable[[], T]] = []

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            failure = error

            def fail() -> T:
                raise failure

            ended.append(fail)
        else:
            ended.append(lambda: result)

    thread = threading.Thread(target=run, name="send", daemon=True)
    thread.start()
    thread.join(seconds)
    if not ended:
        raise TemporaryFailure(f"no complete answer within {seconds:g} s")
    return ended[0]()


def reason_of(error: Exception) -> str:
    """Why a connection failed, in the words of the system or of TLS."""
    said = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
    return str(said or type(error).__name__)


def kept(answer: str, secrets: Iterable[str] = ()) -> str:
    """What is stored of an answer: one line, at most KEPT_ANSWER characters, and none of the secrets.

    Many servers repeat the path of a request in their error.
    """
    text = answer[: 8 * KEPT_ANSWER]
    for secret in sorted({form for one in secrets for form in _forms(one)}, key=len, reverse=True):
        text = re.sub(re.escape(secret), "…", text, flags=re.IGNORECASE)
    return shorten(escape_controls(" ".join(text.split())), KEPT_ANSWER)


def secrets_of(url: str, *, with_host: bool = False) -> list[str]:
    """The parts of a URL that must not be shown. `with_host`: the host may be a token, as in many URLs of Apprise."""
    parts = urlsplit(url)
    rest = f"{parts.path}?{parts.query}#{parts.fragment}"
    login = parts.netloc.rpartition("@")[0]
    words = _SEPARATORS.split(f"{rest}/{parts.netloc if with_host else login}")
    whole = [url, rest.rstrip("?#"), parts.path, parts.query, login]
    basic = base64.b64encode(unquote(login).encode()).decode() if login else ""  # as the header Authorization has it
    return [one for one in (*whole, *words, basic) if len(one) >= SHORTEST_SECRET]


def _forms(secret: str) -> set[str]:
    return {secret, unquote(secret), html.escape(secret), html.escape(unquote(secret))}
