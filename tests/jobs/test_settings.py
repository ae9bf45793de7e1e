"""Settings: types, bounds, changes and history."""

from __future__ import annotations

import dataclasses
import json
from typing import Callable

import pytest

from webapp.core import settings as setting_values
from webapp.core.settings import DEFINITIONS, Definition, SettingError
from webapp.db.engines import reading
from webapp.jobs import lifecycle, settings
from webapp.jobs.queries import events_of


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=lambda definition: definition.key)
def test_a_default_lies_within_its_bounds_and_has_a_field_and_a_help_text(definition: Definition) -> None:
    assert definition.parse(definition.default) == definition.default
    assert getattr(setting_values.Settings(), definition.key) == definition.default
    assert definition.help.endswith((".", "…"))


@pytest.mark.parametrize(
    "text", ["", "x", "nan", "inf", "-1", "1001", "2.5", "1e1", True, None, "0x10", "1_0", "\uff13", "9" * 5000]
)
def test_a_value_out_of_bounds_or_of_another_type_is_refused_with_what_is_allowed(text: object) -> None:
    with pytest.raises(SettingError, match=r"max_retries: .* is not allowed; expected a whole number from 0 to 1000\."):
        DEFINITIONS["max_retries"].parse(text)


def test_an_unknown_setting_gets_the_nearest_name_as_a_hint() -> None:
    with pytest.raises(SettingError, match="Did you mean backoff_base"):
        setting_values.define("backof_base")


@pytest.mark.usefixtures("app")
def test_a_change_is_stored_with_its_author_and_its_history() -> None:
    settings.set_setting("backoff_base", "3", "person:ana")
    settings.set_setting("backoff_base", "2.5", "person:bob")
    with reading() as session:
        assert settings.load(session).backoff_base == 2.5
        [value] = [one for one in settings.describe(session) if one.changed_by]
        history = [
            (event.actor, json.loads(event.detail or "{}")) for event in events_of(session, "setting:backoff_base")
        ]
    assert (value.definition.key, value.value, value.changed_by) == ("backoff_base", 2.5, "person:bob")
    assert history == [
        ("person:bob", {"from": 3, "to": 2.5}),
        ("person:ana", {"from": 2, "from_default": True, "to": 3}),
    ]


@pytest.mark.usefixtures("app")
def test_a_refused_value_changes_nothing() -> None:
    with pytest.raises(SettingError):
        settings.set_setting("backoff_base", "0.5", "person:ana")
    with reading() as session:
        assert settings.load(session).backoff_base == 2


@pytest.mark.usefixtures("app")
def test_reset_goes_back_to_the_default() -> None:
    settings.set_setting("keep_dead", "90", "person:ana")
    assert settings.unset_setting("keep_dead", "person:ana").value == 0
    with reading() as session:
        assert settings.load(session).keep_dead == 0
        assert events_of(session, "setting:keep_dead")[0].verb == "config"


# --- history ---


def history(key: str = "backoff_base") -> list[settings.Change]:
    with reading() as session:
        return settings.history(session, key)


@pytest.mark.usefixtures("app")
def test_a_change_is_reverted_and_the_revert_is_recorded() -> None:
    settings.set_setting("backoff_base", 3, "person:ana")
    settings.set_setting("backoff_base", 5, "person:ana")
    newest, first = history()
    assert (newest.before, newest.after, newest.before_default, first.before_default) == (3, 5, False, True)
    assert settings.revert_setting("backoff_base", newest.id, "person:ben").value == 3
    assert [(one.actor, one.before, one.after, one.reverted) for one in history()[:1]] == [("person:ben", 5, 3, True)]
    value = settings.revert_setting("backoff_base", first.id, "person:ben")
    assert (value.value, value.changed_by) == (2, None)
    assert (history()[0].after, history()[0].after_default) == (2, True)


@pytest.mark.usefixtures("app")
def test_a_default_value_set_by_hand_is_not_the_default() -> None:
    settings.set_setting("backoff_base", 2, "person:ana")
    settings.set_setting("backoff_base", 3, "person:ana")
    value = settings.revert_setting("backoff_base", history()[0].id, "person:ana")
    assert (value.value, value.changed_by) == (2, "person:ana")


@pytest.mark.usefixtures("app")
def test_an_unseen_change_of_another_user_is_not_overwritten() -> None:
    settings.set_setting("backoff_base", 3, "person:ana", seen=0)
    seen = history()[0].id
    settings.set_setting("backoff_base", 4, "person:ben", seen=seen)
    acts: list[Callable[[], object]] = [
        lambda: settings.set_setting("backoff_base", 9, "person:ana", seen=seen),
        lambda: settings.unset_setting("backoff_base", "person:ana", seen=seen),
        lambda: settings.revert_setting("backoff_base", seen, "person:ana", seen=seen),
        lambda: settings.set_setting("backoff_base", 9, "person:ana", seen=0),
    ]
    for act in acts:
        with pytest.raises(settings.Outdated) as refused:
            act()
        assert (refused.value.change.actor, refused.value.change.after) == ("person:ben", 4)
    assert len(history()) == 2


@pytest.mark.usefixtures("app")
def test_only_a_settings_own_changes_are_reverted_and_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.set_setting("max_retries", 900, "person:ana")
    settings.set_setting("max_retries", 5, "person:ana")
    change = history("max_retries")[0].id
    for key, id_ in (("backoff_base", change), ("max_retries", 10**17)):
        with pytest.raises(lifecycle.NotFound, match="not on record"):
            settings.revert_setting(key, id_, "person:ana")
    narrower = dataclasses.replace(DEFINITIONS["max_retries"], highest=100)
    monkeypatch.setitem(setting_values.DEFINITIONS, "max_retries", narrower)
    with pytest.raises(SettingError, match="from 0 to 100"):
        settings.revert_setting("max_retries", change, "person:ana")
    assert len(history("max_retries")) == 2
