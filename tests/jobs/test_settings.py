"""Settings: types, bounds, changes and history."""

from __future__ import annotations

import dataclasses
import json
from typing import Callable

import pytest

from tests.factories import make_job, make_queue
from webapp.core import settings as setting_values
from webapp.core.settings import DEFINITIONS, Definition, SettingError
from webapp.db.engines import reading
from webapp.jobs import lifecycle, queries, queue_actions, setting_deletions, settings
from webapp.jobs.lifecycle import NotFound
from webapp.jobs.queries import events_of
from webapp.lib import clock


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


# --- a queue's own value ---


@pytest.mark.usefixtures("app")
def test_a_queue_inherits_what_it_does_not_set_itself() -> None:
    make_queue("mail")
    with reading() as session:
        assert settings.find(session, "keep_dead@mail").value == 0
    settings.set_setting("keep_dead@mail", "7", "person:ana")
    settings.set_setting("keep_dead", "90", "person:ana")
    with reading() as session:
        values, own = settings.load(session), settings.find(session, "keep_dead@mail")
        listed = [value.definition.key for value in settings.describe(session)]
        history = settings.history(session, "keep_dead@mail")
    assert (values.keep("keep_dead", "mail"), values.keep("keep_dead", "other"), values.keep_dead) == (7, 90, 90)
    assert (own.value, own.definition.default, own.changed_by) == (7, 90, "person:ana")
    assert listed.index("keep_dead@mail") == listed.index("keep_dead") + 1
    assert [(change.before, change.after, change.before_default) for change in history] == [(0, 7, True)]
    assert settings.unset_setting("keep_dead@mail", "person:ana").value == 90
    with reading() as session:
        assert settings.load(session).keep("keep_dead", "mail") == 90
        assert settings.history(session, "keep_dead@mail")[0].after_default
    assert settings.revert_setting("keep_dead@mail", history[0].id, "person:ana").changed_by is None


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ("keep_dead@none", NotFound, "no such queue: 'none'"),
        ("keep_dead@a\0b", NotFound, "no such queue: "),
        ("keep_audit@mail", SettingError, "keep_audit has one value for all queues. Per queue: keep_completed, "),
        ("keep_dead@", SettingError, "unknown setting 'keep_dead@'. Did you mean keep_dead?"),
        ("keep_ded@mail", SettingError, "unknown setting"),
    ],
)
def test_an_own_value_needs_a_queue_and_a_setting_of_queues(key: str, error: type[Exception], message: str) -> None:
    make_queue("mail")
    with pytest.raises(error, match=message):
        settings.set_setting(key, "7", "person:ana")


@pytest.mark.usefixtures("app")
def test_a_removed_queue_keeps_its_own_values_because_its_finished_jobs_stay() -> None:
    make_job("completed", queue="mail")
    settings.set_setting("keep_completed@mail", "400", "person:ana")
    queue_actions.remove_queue("mail", "person:ana")
    with reading() as session:
        assert settings.find(session, "keep_completed@mail").value == 400


# --- what a value deletes ---


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_value_that_deletes_jobs_needs_a_confirmation_with_their_exact_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queries, "COUNT_CAP", 2)
    for queue in ("mail", "default", "default", "default"):
        for state in ("completed", "cancelled", "dead"):
            make_job(state, queue=queue, finished_at=clock.now() - 9 * clock.DAY)

    def deleted_by(save: Callable[..., object], *arguments: object) -> str:
        with pytest.raises(settings.NeedsConfirmation) as refused:
            save(*arguments, "person:ana")
        return refused.value.deletion.what

    assert deleted_by(settings.set_setting, "keep_completed", 1) == "4 completed jobs"
    assert deleted_by(settings.set_setting, "keep_dead", "1") == "4 dead letters"
    assert deleted_by(settings.set_setting, "keep_output", 1) == "the output of 8 ended jobs"
    assert deleted_by(settings.set_setting, "keep_completed@mail", 1) == "1 completed job of queue mail"
    settings.set_setting("keep_completed@mail", 20, "person:ana")
    settings.set_setting("keep_completed", 0, "person:ana")
    assert deleted_by(settings.set_setting, "keep_completed", 1) == "3 completed jobs"  # queue mail has its own value
    settings.set_setting("keep_completed", 10, "person:ana")  # no job is that old
    settings.set_setting("keep_completed", 2, "person:ana", confirmed=True)
    settings.set_setting("keep_completed", 5, "person:ana")  # keeps more than before


@pytest.mark.usefixtures("app")
def test_every_way_to_a_lower_value_asks_and_every_setting_of_retention_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = {key for key in DEFINITIONS if key.startswith("keep_")}
    assert kept == set(setting_deletions._NOUNS)
    make_job("completed", finished_at=clock.now() - 50 * clock.DAY)
    settings.set_setting("keep_completed", 100, "person:ana", confirmed=True)
    settings.set_setting("keep_completed", 90, "person:ana")
    with reading() as session:
        first = settings.history(session, "keep_completed")[-1]
    for save in (settings.unset_setting, lambda *a: settings.revert_setting(a[0], first.id, a[1])):
        with pytest.raises(settings.NeedsConfirmation, match="keep_completed = 30 deletes 1 completed job"):
            save("keep_completed", "person:ana")
    with reading() as session:
        assert settings.find(session, "keep_completed").value == 90
    monkeypatch.setattr(setting_deletions, "used_bytes", lambda *_, **__: 5 * 1024**2)
    with pytest.raises(settings.NeedsConfirmation, match=r"deletes about 3\.0 MiB within minutes"):
        settings.set_setting("max_database_size", 2, "person:ana")
