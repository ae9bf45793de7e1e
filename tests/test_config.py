"""The configuration of a process: how it finds its queue, and clear errors for invalid values."""

from __future__ import annotations

from pathlib import Path

import pytest

from webapp import config as configuration
from webapp.config import Config, ConfigError, ensure_home
from webapp.lib import postgres_dsn
from worker.runner import environment


def test_the_home_is_in_the_users_home_folder_by_default(tmp_path: Path) -> None:
    assert configuration.load({"HOME": str(tmp_path)}).home == tmp_path / ".queuectl"
    assert configuration.load({"QUEUECTL_HOME": str(tmp_path / "q")}).home == tmp_path / "q"


@pytest.mark.parametrize(
    "url", ["postgres://ana@db/q?sslmode=require", "postgresql://ana@db/q?sslmode=require"]
)  # fmt: skip
def test_common_postgresql_url_schemes_are_accepted(tmp_path: Path, url: str) -> None:
    loaded = configuration.load({"HOME": str(tmp_path), "QUEUECTL_DATABASE_URL": url})
    assert loaded.database_url == "postgresql+psycopg://ana@db/q?sslmode=require"
    assert not loaded.is_sqlite


def test_the_url_of_the_heartbeat_is_taken_as_it_is(tmp_path: Path) -> None:
    url = "http://10.0.0.5:8080/ping/5b1d?key=a%20b"
    assert configuration.load({"HOME": str(tmp_path), "QUEUECTL_HEARTBEAT_URL": url}).heartbeat_url == url
    assert configuration.load({"HOME": str(tmp_path), "QUEUECTL_HEARTBEAT_URL": ""}).heartbeat_url is None


SEVERAL = "host=h1,h2&port=5432,5433&target_session_attrs=read-write"


@pytest.mark.parametrize(
    ("url", "understood"),
    [
        ("postgresql://ana:s3cret@h1:5432,h2:5433/q", f"postgresql+psycopg://ana:s3cret@/q?{SEVERAL}"),
        ("postgresql://ana@/q?host=h1:5432&host=h2:5433", f"postgresql+psycopg://ana@/q?{SEVERAL}"),
        ("postgresql://ana@/q?host=h1:5432,h2:5433", f"postgresql+psycopg://ana@/q?{SEVERAL}"),
        ("postgresql://ana@/q?host=h1,h2&port=5432,5433", f"postgresql+psycopg://ana@/q?{SEVERAL}"),
        ("postgres://h1:5432,h2:5433/q", f"postgresql+psycopg:///q?{SEVERAL}"),
        ("postgresql://h1,h2/q?target_session_attrs=any", "postgresql+psycopg:///q?host=h1,h2&port=,&target_session_attrs=any"),
        ("postgresql://ana@h1,h2/q?port=7", "postgresql+psycopg://ana@/q?host=h1,h2&port=7,7&target_session_attrs=read-write"),
        ("postgresql://a@[::1]:5,h2/q", "postgresql+psycopg://a@/q?host=::1,h2&port=5,&target_session_attrs=read-write"),
        ("postgresql://ana@/q?host=/run/postgresql", "postgresql+psycopg://ana@/q?host=/run/postgresql"),
    ],
)  # fmt: skip
def test_several_hosts_are_accepted_in_every_form(url: str, understood: str) -> None:
    assert configuration.database_url(url, "QUEUECTL_DATABASE_URL") == understood


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ana:s3cret@h1:5432,h2:5433/q?sslmode=require",
        "postgresql://h1,[::1]:5433/q",
        "postgresql://ana:s%2F3cret@/q?host=h1&host=/run/postgresql",
    ],
)  # fmt: skip
def test_a_url_with_several_hosts_is_shown_without_its_password_and_can_be_typed_again(url: str) -> None:
    first = Config(Path("/"), configuration.database_url(url, "URL"), None)
    shown = configuration.address(first)
    assert "3cret" not in shown
    again = configuration.database_url(shown, "URL")
    assert again == str(first.database_url).replace(":s3cret", "").replace(":s%2F3cret", "")
    assert configuration.address(Config(Path("/"), again, None)) == shown


def test_several_hosts_are_shown_in_the_short_form() -> None:
    url = configuration.database_url("postgresql://ana:s3cret@/q?host=h1:5432&host=h2:5433", "URL")
    shown = configuration.address(Config(Path("/"), url, None))
    assert shown == "postgresql://ana@h1:5432,h2:5433/q?target_session_attrs=read-write"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ana:s3cret@h1:port,h2/q",
        "postgresql://ana:s3cret@h1:99999,h2/q",
        "postgresql://ana:s3cret@h1,,h2/q",
        "postgresql://ana:s3cret@::1,h2/q",
        "postgresql://ana:s3cret@x@h1,h2/q",
        "postgresql://ana:s3cret@h1,h2/q?host=h3",
        "postgresql://ana:s3cret@/q?host=h1,h2,h3&port=1,2",
        "postgresql://ana:s3cret@/q?host=h1:1,h2:2&port=1,2",
    ],
)
def test_ambiguous_hosts_are_refused_with_the_expected_form(url: str) -> None:
    with pytest.raises(ConfigError, match=r"QUEUECTL_DATABASE_URL .* has several hosts") as caught:
        configuration.database_url(url, "QUEUECTL_DATABASE_URL")
    assert "user@host1:5432,host2:5432" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_another_sqlite_file_has_its_lock_file_beside_it(tmp_path: Path) -> None:
    loaded = configuration.load({"HOME": str(tmp_path), "QUEUECTL_DATABASE_URL": "sqlite:////srv/jobs.db"})
    assert loaded.sqlite_path == Path("/srv/jobs.db")
    assert loaded.lock_path == Path("/srv/queue.lock")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUEUECTL_DATABASE_URL", "mysql://x"),
        ("QUEUECTL_DATABASE_URL", "queue.db"),
        ("QUEUECTL_DATABASE_URL", "sqlite://"),
        ("QUEUECTL_DATABASE_URL", "sqlite:///relative.db"),
        ("QUEUECTL_DATABASE_URL", "postgresql://ana@db:port/q"),
        ("QUEUECTL_HOME", "~no-such-user/queue"),
        ("QUEUECTL_PUBLIC_URL", "https://["),
        ("QUEUECTL_PUBLIC_URL", "https://queue.example.org:99999"),
        ("QUEUECTL_PUBLIC_URL", "queue.example.org"),
        ("QUEUECTL_PUBLIC_URL", "ftp://queue.example.org"),
        ("QUEUECTL_PUBLIC_URL", "https://example.org/a//b"),
        ("QUEUECTL_PUBLIC_URL", "https://example.org/../b"),
        ("QUEUECTL_PUBLIC_URL", "https://example.org/a%2fb"),
        ("QUEUECTL_PUBLIC_URL", "https://example.org/?a=b"),
        ("QUEUECTL_PUBLIC_URL", "https://example.org/#b"),
        ("QUEUECTL_PUBLIC_URL", "https://ana@example.org"),
        ("QUEUECTL_PUBLIC_URL", "https://a..b"),
        ("QUEUECTL_PUBLIC_URL", "https://"),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_setting(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        configuration.load({"HOME": str(tmp_path), name: value})


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://queue.example.org/", "https://queue.example.org", ""),
        ("https://Example.ORG:443/queue/", "https://example.org", "/queue"),
        ("http://example.org:8080/a/b-c_~.d", "http://example.org:8080", "/a/b-c_~.d"),
        ("http://example.org.:80", "http://example.org", ""),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example", ""),
        ("https://[2001:DB8:0::1]:8443/q", "https://[2001:db8::1]:8443", "/q"),
    ],
)
def test_the_public_url_is_normalized_as_in_browsers(tmp_path: Path, url: str, origin: str, path: str) -> None:
    loaded = configuration.load({"HOME": str(tmp_path), "QUEUECTL_PUBLIC_URL": url})
    assert (loaded.public_url, loaded.public_origin, loaded.public_path) == (origin + path, origin, path)


def test_an_error_about_a_url_without_a_scheme_hides_the_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.load({"HOME": str(tmp_path), "QUEUECTL_DATABASE_URL": "ana:s3cret@db/q"})
    assert "s3cret" not in str(caught.value)


def test_a_home_that_cannot_be_created_is_reported_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot use the home folder .*file/q: .* QUEUECTL_HOME"):
        ensure_home(Config(home=tmp_path / "file" / "q", database_url=None, public_url=None))


def test_a_home_that_others_can_read_is_made_private(tmp_path: Path) -> None:
    home = tmp_path / "open"
    home.mkdir(mode=0o755)
    ensure_home(Config(home=home, database_url=None, public_url=None))
    assert home.stat().st_mode & 0o777 == 0o700


# --- addresses in files, and inside jobs ---


def test_a_file_can_hold_the_database_url(tmp_path: Path) -> None:
    file = tmp_path / "an address"
    file.write_text("postgresql://ana:s3cret@db/q\n")
    given = {"HOME": str(tmp_path), "QUEUECTL_DATABASE_URL": f"file://{tmp_path}/an%20address"}
    assert configuration.load(given).database_url == "postgresql+psycopg://ana:s3cret@db/q"
    file.write_text("ana:s3cret@db/q")
    with pytest.raises(ConfigError, match="QUEUECTL_DATABASE_URL is not a valid database address") as refused:
        configuration.load(given)
    assert "s3cret" not in str(refused.value)
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"cannot read the address in .*an address: it is not UTF-8 text"):
        configuration.load(given)


def test_a_missing_file_with_the_database_url_is_reported(tmp_path: Path) -> None:
    for path, hint in ((tmp_path / "none", ""), (Path("/proc/0/fd/4"), "The worker of this job may have ended.")):
        with pytest.raises(ConfigError, match=f"cannot read the address in {path}: No such file.*{hint}"):
            configuration.load({"HOME": str(tmp_path), "QUEUECTL_DATABASE_URL": f"file://{path}"})


@pytest.mark.parametrize(
    "missing", [["QUEUECTL_HOME"], ["QUEUECTL_DATABASE_URL"], ["QUEUECTL_HOME", "QUEUECTL_DATABASE_URL"]]
)
def test_inside_a_job_the_queue_is_not_guessed(tmp_path: Path, missing: list[str]) -> None:
    given = {
        "QUEUECTL_JOB_ID": "job-7",
        "QUEUECTL_HOME": str(tmp_path),
        "QUEUECTL_DATABASE_URL": "",
        "HOME": "/nonexistent",
    }
    assert configuration.load(given).home == tmp_path
    with pytest.raises(ConfigError, match="without QUEUECTL_HOME"):
        configuration.load({**given, "QUEUECTL_HOME": ""})
    for name in missing:
        del given[name]
    with pytest.raises(ConfigError, match=f"job job-7, but without {' and '.join(missing)}, so its queue is unknown"):
        configuration.load(given)


def test_inside_a_job_dotenv_does_not_select_another_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(f"QUEUECTL_DATABASE_URL=sqlite:///{tmp_path}/other.db\nQUEUECTL_HOME=/other\n")
    monkeypatch.setattr(configuration, "CHECKOUT", tmp_path)
    given = environment.of_jobs(Config(tmp_path / "home", None, None))
    assert configuration.load({**given, "QUEUECTL_JOB_ID": "job-7"}).sqlite_path == tmp_path / "home" / "queue.db"


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://db/q", False),
        ("postgresql://ana@db:5432/q?sslmode=require&passfile=/run/pass", False),
        ("postgresql://ana@/q?host=h1,h2&port=5432,5433", False),
        ("postgresql://ana:s3cret@db/q", True),
        ("postgresql://ana:s3c@ret@db/q", True),
        ("postgresql://ana@db:s3cret@db/q", True),
        ("postgresql://ana@db/q?password=s3cret", True),
        ("postgresql://ana@db/q?sslmode=require&ssl%70assword=s3cret", True),
    ],
)
def test_a_url_with_a_secret_is_recognized(url: str, secret: bool) -> None:
    assert postgres_dsn.has_secret(url) is secret


def test_what_sends_messages_is_read_and_its_password_is_not_shown(tmp_path: Path) -> None:
    home, secret = {"HOME": str(tmp_path)}, tmp_path / "smtp"
    assert configuration.load(home).smtp_url is None
    secret.write_text("smtp://ana:s3cret@mail.example.org\n")
    for url in ("smtp://ana:s3cret@mail.example.org", f"file://{secret}"):
        given = {"QUEUECTL_SMTP_URL": url, "QUEUECTL_MAIL_FROM": "Queue <q@example.org>"}
        loaded = configuration.load({**home, **given, "QUEUECTL_ALLOW_PRIVATE_TARGETS": "1"})
        assert loaded.smtp_url == "smtp://ana:s3cret@mail.example.org"
        assert (loaded.mail_from, loaded.allow_private_targets) == ("Queue <q@example.org>", True)
        assert "s3cret" not in repr(loaded)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUEUECTL_SMTP_URL", "mail.example.org:s3cret"),
        ("QUEUECTL_SMTP_URL", "http://ana:s3cret@mail.example.org"),
        ("QUEUECTL_MAIL_FROM", "queue"),
        ("QUEUECTL_MAIL_FROM", "Queue <q@example.org"),
        ("QUEUECTL_MAIL_FROM", "q@example.org\nBcc: eve@evil.example"),
        ("QUEUECTL_ALLOW_PRIVATE_TARGETS", "yes"),
    ],
)
def test_what_cannot_send_messages_is_named_without_a_secret(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} ") as refused:
        configuration.load({"HOME": str(tmp_path), name: value})
    assert "s3cret" not in str(refused.value)
