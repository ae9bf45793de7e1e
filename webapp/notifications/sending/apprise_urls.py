"""Sends a message through Apprise: chats, pushes, on-call services. Its library is the extra `notify`.

Apprise connects by itself, so no private address is refused here: only administrators may add such a channel, and only
the schemes of `channels.APPRISE_SCHEMES` are used.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from webapp.notifications.channels import check_apprise
from webapp.notifications.sending.outcome import PermanentFailure, TemporaryFailure, kept, secrets_of

MAX_TEXT = 3000  # characters: some services refuse or split longer ones
_CODE = re.compile(r"error=(\d{3})")
_LATER = (408, 425, 429)


def send(url: str, subject: str, text: str) -> str:
    """Send a message; return the answer. Raises PermanentFailure and TemporaryFailure."""
    try:
        check_apprise(url)  # here too: the database may come from another version
    except ValueError as error:
        raise PermanentFailure(f"the URL {error}") from None
    try:
        import apprise  # late: only such channels need it
    except ImportError:
        raise TemporaryFailure(
            "Apprise is not installed. Set QUEUECTL_EXTRAS=notify in .env, and restart the workers"
        ) from None
    secrets = secrets_of(url, with_host=True)
    asset = apprise.AppriseAsset(async_mode=False, secure_logging=True, app_id="queuectl", app_desc="queuectl")
    log: Any = apprise.LogCapture  # its library has no types for it
    with log(level=logging.INFO, fmt="%(message)s") as captured:
        try:
            # One URL: `Apprise.add` would split a text with several.
            service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=False)
        except Exception as error:
            raise PermanentFailure(f"Apprise does not accept this URL: {kept(str(error), secrets)}") from None
        if not service:
            raise PermanentFailure("Apprise does not accept this URL. Check its parts")
        sent = service.notify(
            body=_without_mentions(text[:MAX_TEXT]),
            title=_without_mentions(subject),
            body_format=apprise.NotifyFormat.TEXT,
        )
        said = captured.getvalue()
    answer = kept(said, secrets) or str(service.service_name)
    if sent:
        return answer
    code = _CODE.search(said)
    if code and 400 <= int(code[1]) < 500 and int(code[1]) not in _LATER:
        raise PermanentFailure(answer)
    raise TemporaryFailure(answer)


def _without_mentions(text: str) -> str:
    """The same text without mentions, so that the words of a job do not notify everyone in a chat."""
    return re.sub(r"@(?=everyone|here|channel|all)|<(?=[@!])", lambda found: f"{found[0]}\u200b", text)
