"""Channels: where messages go. Reads and validates their description, hides their secrets, makes their sender's job.

A whole URL is a secret: the URL of a chat webhook is enough to post there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from webapp.core import field_readers
from webapp.core.field_readers import choice, read_fields, whole_number
from webapp.core.job_spec import FieldError, JobSpec, SpecError
from webapp.core.notices import CHANNEL_KINDS, SYSTEM_QUEUE
from webapp.lib import urls
from webapp.lib.text import shorten
from webapp.lib.urls import HIDDEN

MAX_RECIPIENTS = 50
MAX_ADDRESS = 254  # characters, RFC 5321
MAX_URL = 2000  # characters
HOURLY_CAP, MAX_HOURLY_CAP = 20, 1000  # messages per hour; 0: no limit
SENDER_TIMEOUT = 900.0  # seconds of one run of a sender's job
_CHATS = """
dingtalk discord feishu gchat groupme guilded kook lark line matrix matrixs mmost mmosts nctalk
nctalks onebot onebots revolt rocket rockets ryver slack synology synologys tgram twist viber webex wecombot
whatsapp workflow workflows wxteams zulip
"""
_PUSHES = """
bark barks chanify fcm gotify gotifys ifttt join kumulos lametric lametrics notica noticas ntfy ntfys onesignal pbul
pover prowl psafer psafers pushdeer pushdeers pushed pushme pushplus pushy schan signal signalgrid signals
simplepush spush threema wxpusher
"""
_ON_CALL = """
betterstack firehydrant goalert goalerts ilert incidentio opsgenie pagerduty pagertree signl4 spike splunk squadcast
victorops xmatters
"""
_SMS_AND_MAIL = """
46elks atalk brevo bulksms clickatell clicksend d7sms freemobile infobip mailersend mailgun msg91 msgbird nexmo plivo
postmark resend seven sinch smtp2go sns sendgrid sparkpost twilio vonage voipms
"""
# What Apprise may use: services that deliver messages to people. Not its schemes that write to this machine, use other
# protocols or post to any URL.
APPRISE_SCHEMES = frozenset(f"{_CHATS} {_PUSHES} {_ON_CALL} {_SMS_AND_MAIL}".split())
# As mail programs write them. No quoted names, no text beyond ASCII: a header then needs no quoting.
_ADDRESS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\Z")
_URL_TEXT = re.compile(r"[!-~]+\Z")  # printable ASCII without spaces: nothing that could end a line of a request
_SCHEME = re.compile(r"([A-Za-z0-9][A-Za-z0-9+._-]*)://")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?\Z|[0-9A-Fa-f:.]+\Z")


@dataclass(frozen=True)
class ChannelSpec:
    """A valid channel.

    Attributes:
        kind: one of CHANNEL_KINDS.
        to: the addresses of a mail channel.
        url: of a webhook, or for Apprise. A secret.
        hourly_cap: messages per hour, at most; 0: no limit.
    """

    name: str
    kind: str
    to: tuple[str, ...] = ()
    url: str = ""
    hourly_cap: int = HOURLY_CAP


def parse(values: object, stored: Optional[ChannelSpec] = None) -> ChannelSpec:
    """Read a channel from a mapping. Raises SpecError with all errors. A null or empty value counts as not given.

    `stored` is the channel that is edited: fields that are not given keep their values, and so does a masked URL.
    """
    if not isinstance(values, Mapping):
        raise SpecError([FieldError("", "expected an object with name, kind, and to or url.")])
    given = {key: value for key, value in values.items() if value is not None and value != "" and value != []}
    kind = given.get("kind", stored.kind if stored else None)
    kept: dict[str, Any] = {}
    if stored is not None:
        same = {"to": stored.to, "url": stored.url} if kind == stored.kind else {}
        kept = {"name": stored.name, "kind": stored.kind, "hourly_cap": stored.hourly_cap, **same}
        if "url" in given and given["url"] == masked(stored)["url"] and kind == stored.kind:
            del given["url"]
    read, errors = read_fields(given, _READERS)
    found = {**kept, **read}
    wrong = {error.field for error in errors}
    errors += [FieldError(key, "is missing.") for key in ("name", "kind") if key not in found and key not in wrong]
    if found.get("kind") in CHANNEL_KINDS:
        errors += _of_kind(found["kind"], found, read, wrong)
    if errors:
        raise SpecError(errors)
    return ChannelSpec(**found)


def _of_kind(kind: str, found: Mapping[str, Any], given: Mapping[str, Any], wrong: set[str]) -> list[FieldError]:
    """The errors of the target: each kind has one."""
    needed, other = ("to", "url") if kind == "mail" else ("url", "to")
    errors = []
    if given.get(other):
        errors.append(FieldError(other, f"is not for a channel of the kind {kind}. Give {needed}."))
    if not found.get(needed):
        missing = {"to": "is missing. Give at least one mail address.", "url": "is missing."}[needed]
        return errors if needed in wrong else [*errors, FieldError(needed, missing)]
    if kind != "mail":
        try:
            (check_webhook if kind == "webhook" else check_apprise)(found["url"])
        except ValueError as error:
            errors.append(FieldError("url", str(error)))
    return errors


def to_json(spec: ChannelSpec) -> dict[str, Any]:
    """The description that `parse` reads, with its secrets: for a move or a backup, never for a page."""
    target: dict[str, Any] = {"to": list(spec.to)} if spec.kind == "mail" else {"url": spec.url}
    return {"name": spec.name, "kind": spec.kind, **target, "hourly_cap": spec.hourly_cap}


def masked(spec: ChannelSpec) -> dict[str, Any]:
    """What users and programs see: all fields, but only `masked_url` instead of a URL."""
    return {**to_json(spec), "to": list(spec.to), "url": masked_url(spec.url)}


def masked_url(url: str) -> str:
    """'https://hooks.example.org/…' for a webhook. For Apprise only 'tgram://…': its host may be a token."""
    if not url:
        return ""
    scheme = url.partition("://")[0] if "://" in url else HIDDEN
    if scheme.lower() not in ("http", "https"):
        return f"{scheme}://{HIDDEN}"
    try:
        return urls.masked(url)
    except ValueError:
        return f"{scheme}://{HIDDEN}"


def target_text(spec: ChannelSpec) -> str:
    """The column `target`."""
    return json.dumps({"to": list(spec.to)} if spec.kind == "mail" else {"url": spec.url})


def of_row(name: str, kind: str, target: str, hourly_cap: int) -> ChannelSpec:
    """The channel of a row of `channels`."""
    found = json.loads(target)
    return ChannelSpec(name, kind, tuple(found.get("to", ())), found.get("url", ""), hourly_cap)


# --- the job that sends ----------------------------------------------------------------------------------------------


def sender_job(channel_id: int) -> JobSpec:
    """The job that sends a channel's waiting messages. It goes first, and tries again for longer than a message waits.

    The queue's name is one that `job_spec.parse` refuses: only this makes such jobs.
    """
    return JobSpec(
        sender_command(channel_id), queue=SYSTEM_QUEUE, priority=100, max_retries=1000, timeout=SENDER_TIMEOUT
    )


def sender_command(channel_id: int) -> str:
    """A worker sets both variables, for jobs of SYSTEM_QUEUE only (`worker/runner/environment.py`)."""
    if os.name == "nt":
        return f'"%QUEUECTL_PYTHON%" "%QUEUECTL_MANAGE%" channel deliver {channel_id}'
    return f'exec "$QUEUECTL_PYTHON" "$QUEUECTL_MANAGE" channel deliver {channel_id}'


# --- the fields ------------------------------------------------------------------------------------------------------


def check_webhook(url: str) -> None:
    """Raises ValueError with a message that needs the field's name in front. It never has the URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not a URL. Expected something like https://hooks.example.org/abc.") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://. Use --apprise for Apprise URLs.")
    if not _HOST.match(host):
        raise ValueError("has no valid host. Expected something like https://hooks.example.org/abc.")
    if parts.fragment:
        raise ValueError("has a part after '#', which is never sent to a server. Leave it out.")


def check_apprise(url: str) -> None:
    """Raises ValueError with a message that needs the field's name in front. It never has the URL."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise ValueError("is not an Apprise URL. Expected something like slack://… or ntfy://….")
    if scheme[1].lower() not in APPRISE_SCHEMES:
        name = shorten(scheme[1], 30)
        also = " Write it as Apprise does, such as slack://…." if name.lower() in ("http", "https") else ""
        raise ValueError(f"has the scheme {name}, which is not allowed.{also} See docs/notifications.md for the list.")
    if len(_SCHEME.findall(url)) > 1 or re.search(r",[A-Za-z0-9+._-]+:/", url):
        raise ValueError("has several URLs. Add a channel for each.")


def _to(value: object) -> tuple[str, ...]:
    """Addresses as a list, or as a text with commas, semicolons or spaces between them."""
    words = [word for word in re.split(r"[,;\s]+", value) if word] if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise ValueError("is not allowed; expected mail addresses.")
    for word in words:
        local = word.partition("@")[0]
        bad = local.startswith(".") or local.endswith(".") or ".." in word or len(local) > 64
        if bad or not _ADDRESS.match(word) or len(word) > MAX_ADDRESS:
            rule = "expected a mail address such as ana@example.org"
            raise ValueError(f"{shorten(ascii(word), 60)} is not allowed; {rule}, without a display name.")
    unique = tuple(dict.fromkeys(words))
    if not 1 <= len(unique) <= MAX_RECIPIENTS:
        raise ValueError(f"has {len(unique)} addresses; expected 1 to {MAX_RECIPIENTS}.")
    return unique


def _url(value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if HIDDEN in text:
        raise ValueError("is masked. Enter the whole URL.")
    if not _URL_TEXT.match(text):
        raise ValueError("is not allowed; expected a URL of ASCII letters without spaces.")
    if len(text) > MAX_URL:
        raise ValueError(f"has {len(text):,} characters; at most {MAX_URL:,} are allowed.")
    return text


_READERS: Mapping[str, Callable[[object], Any]] = {
    "name": field_readers.name,
    "kind": choice(*CHANNEL_KINDS),
    "to": _to,
    "url": _url,
    "hourly_cap": whole_number(0, MAX_HOURLY_CAP, " (no limit)"),
}
