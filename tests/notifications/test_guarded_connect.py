"""A connection never leads to a private address, whatever a name server or a redirect says."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.notifications.receivers import Receiver
from webapp.notifications.sending import guarded_connect, webhook
from webapp.notifications.sending.outcome import PermanentFailure, TemporaryFailure

NOT_PUBLIC = (
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "224.0.0.1"),
    *("240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::"),
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2606:4700::5efe:7f00:1", "fe80::1%1", "fc00::1", "fd12::1", "fec0::1"),
    *("ff02::1", "2001:db8::1", "100::1", "not an address"),
)
PUBLIC = ("8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_no_private_address_counts_as_public(address: str) -> None:
    assert not guarded_connect.is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_reached(address: str) -> None:
    assert guarded_connect.is_public(address)


def answers(*addresses: str) -> Any:
    def look_up(_host: str, port: int, *_: Any, **__: Any) -> Any:
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in addresses
        ]

    return look_up


def unknown(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(-2, "no such name")


def post(url: str, *, allow_private: bool = False) -> str:
    return webhook.send(url, [], "msg_1", 1, b"{}", allow_private=allow_private)


@pytest.mark.parametrize(
    "addresses",
    [
        ("169.254.169.254",),
        ("127.0.0.1",),
        ("::ffff:127.0.0.1",),
        ("0.0.0.0",),
        ("::1",),
        ("10.0.0.7",),
        ("93.184.216.34", "127.0.0.1"),
    ],
)
def test_a_name_that_leads_to_a_private_address_is_refused_before_a_connection(
    addresses: tuple[str, ...], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers(*addresses))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it connected"))
    with pytest.raises(PermanentFailure, match=r"resolves to the private address .*QUEUECTL_ALLOW_PRIVATE_TARGETS=1"):
        post(f"http://rebind.example:{receiver.port}/")


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "localhost", "0"])
def test_no_spelling_of_this_machine_is_reached(host: str, receiver: Receiver) -> None:
    with pytest.raises((PermanentFailure, TemporaryFailure), match=r"private address|cannot be looked up"):
        post(f"http://{host}:{receiver.port}/")
    assert receiver.requests == []


def test_the_connection_goes_to_the_address_that_was_checked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look-up could get another answer."""
    looked_up: list[str] = []

    def look_up(host: str, *rest: Any, **options: Any) -> Any:
        looked_up.append(host)
        assert len(looked_up) == 1
        return answers("127.0.0.1")(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    post(f"http://hooks.example.org:{receiver.port}/x", allow_private=True)
    [request] = receiver.requests
    assert request.headers["Host"] == f"hooks.example.org:{receiver.port}"


def test_the_next_address_is_tried_if_one_does_not_answer(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers("127.0.0.2", "127.0.0.1"))
    post(f"http://hooks.example.org:{receiver.port}/", allow_private=True)
    assert len(receiver.requests) == 1


def test_an_unknown_name_and_a_closed_port_are_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", unknown)
        with pytest.raises(TemporaryFailure, match=r"the name nothing.example cannot be looked up: no such name"):
            post("http://nothing.example/")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(TemporaryFailure, match=r"no connection with 127.0.0.1 port .*refused"):
            post(f"http://127.0.0.1:{closed.getsockname()[1]}/", allow_private=True)
