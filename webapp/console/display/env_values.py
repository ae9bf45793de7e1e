"""Environment variables of a job on a page: values that look like secrets are masked until the user asks for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from webapp.lib.text import unix_lines

MASK = "\N{BULLET}" * 8
_NAME = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CREDENTIAL|AUTH(?!OR)|COOKIE|DSN|PRIVATE|SIGNATURE", re.IGNORECASE)
_VALUE = re.compile(
    r"://[^/\s@]*:[^/\s@]+@"  # a URL with a password
    r"|\b(?:gh[opsu]_|github_pat_|glpat-|sk[-_]|xox[abprs]-|AKIA|eyJ[\w-]{8,}\.)"  # well-known kinds of tokens
    r"|-----BEGIN "
)


def looks_secret(name: str, value: str) -> bool:
    return bool(value) and bool(_NAME.search(name) or _VALUE.search(value))


def masked(env: Mapping[str, str]) -> dict[str, str]:
    """The variables with MASK for values that look like secrets."""
    return {name: MASK if looks_secret(name, value) else value for name, value in env.items()}


def as_lines(env: Mapping[str, str]) -> str:
    """The variables for a form: NAME=value. A value of several lines is masked too: the form cannot hold it."""
    shown = {name: MASK if "\n" in value or "\r" in value else value for name, value in masked(env).items()}
    return "\n".join(f"{name}={value}" for name, value in shown.items())


def with_stored(typed: str, env: Mapping[str, str]) -> dict[str, str]:
    """The stored values of the variables whose lines of the form still have the mask."""
    lines = (line.partition("=") for line in unix_lines(typed).split("\n"))
    return {name.strip(): env[name.strip()] for name, _, value in lines if value == MASK and name.strip() in env}
