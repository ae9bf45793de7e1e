"""Sign-in slows down after failures, per account and per address, and never locks a user out for good."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import time_machine
from flask import Flask

from webapp.accounts import login_throttle, users

pytestmark = pytest.mark.usefixtures("own_clock", "app")


def fail(*keys: str, times: int = 1) -> float:
    """Fail this many times; return the wait of the last attempt, 0 if it was admitted."""
    for _ in range(times):
        wait = login_throttle.admit(keys)
    return wait


def test_after_the_free_failures_waits_double_up_to_fifteen_minutes() -> None:
    key, waits = login_throttle.account("ana"), []
    with time_machine.travel(1_000_000_000, tick=False) as clock:
        assert fail(key, times=5) == 0
        for _ in range(15):
            wait = login_throttle.admit([key])
            waits.append(wait)
            clock.shift(wait + 0.001)
            assert login_throttle.admit([key]) == 0
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == login_throttle.MAX_WAIT_SECONDS


def test_attempts_during_a_wait_are_refused_and_do_not_extend_it() -> None:
    key = login_throttle.account("ana")
    with time_machine.travel(1_000_000_000, tick=False) as clock:
        fail(key, times=8)
        before = login_throttle.admit([key])
        clock.shift(1)
        assert login_throttle.admit([key]) == before - 1


def test_the_right_password_clears_the_account_but_not_the_address() -> None:
    account, address = login_throttle.account("ana"), login_throttle.address("192.0.2.1")
    fail(account, address, times=5)
    login_throttle.forgive([account, address])
    assert fail(account, times=5) == 0
    fail(address, times=26)
    assert fail(address) > 0


def test_failures_are_forgotten_after_an_hour() -> None:
    key = login_throttle.account("ana")
    with time_machine.travel(1_000_000_000, tick=False) as clock:
        fail(key, times=6)
        clock.shift(3601)
        assert fail(key, times=5) == 0


def test_a_new_password_clears_the_account() -> None:
    users.add("ana", "correct horse battery", "viewer", "person:test")
    fail(login_throttle.account("ana"), times=6)
    users.set_password("ana", "correct horse stapler", "person:test")
    assert fail(login_throttle.account("Ana")) == 0


def test_concurrent_attempts_are_all_counted(app: Flask) -> None:
    def one(_: int) -> float:
        with app.app_context():
            return login_throttle.admit([login_throttle.account("ana")])

    with ThreadPoolExecutor(8) as pool:
        admitted = [wait for wait in pool.map(one, range(40)) if wait == 0]
    assert len(admitted) <= 7  # five, the one whose failure began the wait, and one after a second of it


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2", True),
        (None, "unknown", True),
    ],
)
def test_an_ipv6_address_counts_with_its_network(one: str, other: str, same: bool) -> None:
    assert (login_throttle.address(one) == login_throttle.address(other)) is same
