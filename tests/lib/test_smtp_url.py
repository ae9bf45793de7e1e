"""Addresses of mail servers: what they mean, and that an error never shows the password."""

from __future__ import annotations

import pytest

from webapp.lib import smtp_url
from webapp.lib.smtp_url import SmtpServer


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://m.example", SmtpServer("m.example", 587, "starttls")),
        ("smtp://ana:p%40s%3As%2F@m.example:25", SmtpServer("m.example", 25, "starttls", "ana", "p@s:s/")),
        ("smtp://ana%40x.example:x@m.example", SmtpServer("m.example", 587, "starttls", "ana@x.example", "x")),
        ("smtps://m.example/", SmtpServer("m.example", 465, "tls")),
        ("smtp://m.example?starttls=no", SmtpServer("m.example", 587, "none")),
        ("smtp://localhost:25", SmtpServer("localhost", 25, "none")),
        ("smtp://127.0.0.2:25", SmtpServer("127.0.0.2", 25, "none")),
        ("smtp://[::1]:25", SmtpServer("::1", 25, "none")),
        ("smtp://localhost:25?starttls=yes", SmtpServer("localhost", 25, "starttls")),
    ],
)  # fmt: skip
def test_tls_is_required_unless_the_server_is_this_machine_or_the_url_says_no(url: str, server: SmtpServer) -> None:
    assert smtp_url.parse(url) == server
    assert "p@s" not in repr(server)


@pytest.mark.parametrize(
    "url",
    [
        "m.example",
        "http://ana:s3cret@m.example",
        "smtp://ana:s3cret@m.example:port",
        "smtp://ana:s3cret@[mail",
        "smtp://ana:s3cret@",
        "smtp://ana:s3cret/x@m.example",
        "smtp://ana:s3cret@m.example/path",
        "smtp://ana:s3cret@m.example?tls=1",
        "smtp://ana:s3cret@m.example?starttls=maybe",
        "smtp://ana:s3cret@m.example?starttls",
    ],
)
def test_what_is_no_mail_server_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError) as failure:
        smtp_url.parse(url)
    assert "s3cret" not in str(failure.value)
    assert failure.value.__suppress_context__ or failure.value.__context__ is None
