"""What commands that run on share: where the console listens, what is said about it, how the log is written."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Callable, Optional

import click

if TYPE_CHECKING:
    from webapp.config import Config

HOST, PORT = "127.0.0.1", 8000


def address_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--host, --port and --insecure."""
    for option in (
        click.option("--insecure", is_flag=True, help="Allow plain HTTP beyond this machine."),
        click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any free one."),
        click.option("--host", default=HOST, show_default=True, help="The address to listen on."),
    ):
        command = option(command)
    return command


def log_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--log-format, the same on every command that runs on."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        envvar="QUEUECTL_LOG_FORMAT",
        help="How the log on stderr is written.",
    )(command)


def listen(config: Config, host: str, port: int, insecure: bool) -> socket.socket:
    """Bind first: whoever cannot have the port shall start nothing. Raises ConfigError."""
    from webapp.server import listener as serving

    serving.check_exposure(host, config, insecure)
    return serving.bind(host, port)


def set_up_link(address: str) -> Optional[str]:
    """A fresh link that makes the first administrator; None where there is one. Needs the application's context."""
    from webapp.accounts import users

    token = users.new_setup_link()
    return f"{address}/setup/{token}" if token is not None else None


def tell_set_up(link: Optional[str]) -> None:
    """Print the link where the person who started this sees it. It is never logged."""
    if link is not None:
        click.echo(
            "\nMake the first administrator with this link (it works once, for an hour, until the next start):\n"
        )
        click.echo(f"  {link}\n")
