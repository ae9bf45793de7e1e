"""The description of a channel: what is valid, what an edit keeps, and that no secret is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webapp.core.job_spec import SpecError
from webapp.notifications import channels
from webapp.notifications.channels import ChannelSpec, parse

HOOK = {"name": "hook", "kind": "webhook", "url": "https://ana:pw@hooks.example.org:8443/T0/s3cret?key=s3cret"}


def test_addresses_may_be_a_text_or_a_list() -> None:
    wanted = ChannelSpec("ops", "mail", ("ana@x.example", "bob@x.example"))
    for to in ("ana@x.example, bob@x.example", ["ana@x.example", "bob@x.example"], "ana@x.example;bob@x.example "):
        assert parse({"name": "ops", "kind": "mail", "to": to, "url": None}) == wanted


@pytest.mark.parametrize(
    "values",
    [
        HOOK,
        {"name": "ops", "kind": "mail", "to": ["a@x.example"]},
        {"name": "chat", "kind": "apprise", "url": "slack://a/b/c", "hourly_cap": 0},
    ],
)
def test_a_channel_survives_its_row_and_its_json(values: dict[str, Any]) -> None:
    spec = parse(values)
    assert parse(channels.to_json(spec)) == spec
    assert channels.of_row(spec.name, spec.kind, channels.target_text(spec), spec.hourly_cap) == spec


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (HOOK["url"], "https://hooks.example.org:8443/…"),
        ("http://[::1]:80/x", "http://[::1]:80/…"),
        ("tgram://123456:t0ken/chat", "tgram://…"),
        ("slack://T0ken/b/c", "slack://…"),
        ("", ""),
    ],
)
def test_of_a_url_only_scheme_and_host_are_shown_and_of_apprise_only_the_scheme(url: str, shown: str) -> None:
    assert channels.masked_url(url) == shown


def test_an_edit_keeps_what_is_not_given_and_a_masked_url() -> None:
    stored = parse(HOOK)
    assert parse({"hourly_cap": 5}, stored) == ChannelSpec("hook", "webhook", url=HOOK["url"], hourly_cap=5)
    assert parse(channels.masked(stored), stored) == stored


@pytest.mark.parametrize(
    ("values", "field", "said"),
    [
        ({"kind": "mail", "to": "ana"}, "to", "expected a mail address"),
        ({"kind": "mail", "to": "ana@x.example\nBcc:eve@x.example"}, "to", "expected a mail address"),
        ({"kind": "mail", "to": ["ana@x.example\r\nBcc: eve@x.example"]}, "to", "expected a mail address"),
        ({"kind": "mail", "to": "Ana <ana@x.example>"}, "to", "without a display name"),
        ({"kind": "mail", "to": [f"a{n}@x.example" for n in range(51)]}, "to", "1 to 50"),
        ({"kind": "mail"}, "to", "is missing"),
        ({"kind": "mail", "to": "a@x.example", "url": "https://x.example"}, "url", "is not for a channel"),
        ({"kind": "webhook"}, "url", "is missing"),
        ({"kind": "webhook", "url": "ftp://x.example/s3cret"}, "url", "must begin with"),
        ({"kind": "webhook", "url": "https:///s3cret"}, "url", "no valid host"),
        ({"kind": "webhook", "url": "https://x.example:99999/s3cret"}, "url", "is not a URL"),
        ({"kind": "webhook", "url": "https://x.example/s3cret y"}, "url", "without spaces"),
        ({"kind": "webhook", "url": "https://x.example/s3cret\r\nX: y"}, "url", "without spaces"),
        ({"kind": "webhook", "url": "https://x.example/…"}, "url", "is masked"),
        ({"kind": "webhook", "url": "https://x.example/#s3cret"}, "url", "after '#'"),
        ({"kind": "apprise", "url": "json://x.example/s3cret"}, "url", "scheme json, which is not allowed"),
        ({"kind": "apprise", "url": "slack://a,json://s3cret"}, "url", "several URLs"),
        ({"kind": "sms"}, "kind", "expected mail, webhook, apprise"),
        ({"kind": "mail", "to": "a@x.example", "hourly_cap": -1}, "hourly_cap", "from 0"),
        ({"kind": "mail", "to": "a@x.example", "color": "red"}, "color", "not a known key"),
    ],
)
def test_an_error_names_the_field_and_shows_no_secret(values: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(SpecError) as failure:
        parse({"name": "ops", **values})
    assert [error.field for error in failure.value.errors] == [field]
    assert said in str(failure.value)
    assert "s3cret" not in str(failure.value)


def test_the_sender_is_a_job_that_no_one_else_can_submit() -> None:
    job = channels.sender_job(7)
    assert (job.queue, job.max_retries) == ("_system", 1000)
    assert "channel deliver 7" in job.command
    assert "s3cret" not in json.dumps(job.command)
