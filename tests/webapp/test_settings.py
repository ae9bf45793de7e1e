"""Settings: typed, bounded, one place to change them, and who did."""

from __future__ import annotations

import json

import pytest

from webapp import operations, settings
from webapp.db import reading
from webapp.queries import events_of
from webapp.settings import DEFINITIONS, Definition, SettingError


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=lambda definition: definition.key)
def test_a_default_lies_within_its_bounds_and_has_a_field_and_a_help_text(definition: Definition) -> None:
    assert definition.parse(definition.default) == definition.default
    assert getattr(settings.Settings(), definition.key) == definition.default
    assert definition.help.endswith((".", "…"))


@pytest.mark.parametrize(
    "text", ["", "x", "nan", "inf", "-1", "1001", "2.5", "1e1", True, None, "0x10", "1_0", "\uff13", "9" * 5000]
)
def test_a_value_out_of_bounds_or_of_another_type_is_refused_with_what_is_allowed(text: object) -> None:
    with pytest.raises(SettingError, match=r"max_retries: .* is not allowed; expected a whole number from 0 to 1000\."):
        DEFINITIONS["max_retries"].parse(text)


def test_an_unknown_name_is_told_its_nearest_neighbour() -> None:
    with pytest.raises(SettingError, match="Did you mean backoff_base"):
        settings.define("backof_base")


@pytest.mark.usefixtures("app")
def test_a_change_is_stored_with_its_author_and_its_history() -> None:
    operations.set_setting("backoff_base", "3", "person:ana")
    operations.set_setting("backoff_base", "2.5", "person:bob")
    with reading() as session:
        assert settings.load(session).backoff_base == 2.5
        [value] = [one for one in settings.describe(session) if one.changed_by]
        history = [
            (event.actor, json.loads(event.detail or "{}")) for event in events_of(session, "setting:backoff_base")
        ]
    assert (value.definition.key, value.value, value.changed_by) == ("backoff_base", 2.5, "person:bob")
    assert history == [("person:bob", {"from": 3, "to": 2.5}), ("person:ana", {"from": 2, "to": 3})]


@pytest.mark.usefixtures("app")
def test_a_refused_value_changes_nothing() -> None:
    with pytest.raises(SettingError):
        operations.set_setting("backoff_base", "0.5", "person:ana")
    with reading() as session:
        assert settings.load(session).backoff_base == 2


@pytest.mark.usefixtures("app")
def test_reset_goes_back_to_the_default() -> None:
    operations.set_setting("keep_dead", "90", "person:ana")
    assert operations.unset_setting("keep_dead", "person:ana").value == 0
    with reading() as session:
        assert settings.load(session).keep_dead == 0
        assert events_of(session, "setting:keep_dead")[0].verb == "config"
