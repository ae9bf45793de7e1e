"""The API's description of itself, for the console's page /api-docs. The API registers it at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, cast

from flask import current_app

if TYPE_CHECKING:
    from flask import Flask

_KEY = "queuectl_api_description"


@dataclass(frozen=True)
class ApiDescription:
    """`document` makes the OpenAPI document; `problems` maps each kind of problem to its status, title and meaning."""

    document: Callable[[], dict[str, Any]]
    problems: Mapping[str, Any]


def register(app: Flask, description: ApiDescription) -> None:
    app.extensions[_KEY] = description


def api_description() -> ApiDescription:
    return cast(ApiDescription, current_app.extensions[_KEY])
