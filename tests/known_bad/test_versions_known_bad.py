"""Broken builds of the versions column, each of which the walks of tests/properties/test_versions.py must catch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hypercluster.errors import ApplyFailedError, DamagedError, InvariantError
from hypercluster.state_machine import versions
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.hub import Hub
from hypercluster.state_machine.keys import number
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.values import Index
from tests.properties.test_versions import KEYS_A_STEP, walk_column, walk_machine

Break = Callable[[pytest.MonkeyPatch], None]


def deletions_of_tree_records_leave_no_record(patch: pytest.MonkeyPatch) -> None:
    real = Overlay.put

    def put(self: Overlay, family: Family, key: bytes, value: bytes) -> None:
        if family is not Family.VERSIONS:
            real(self, family, key, value)

    patch.setattr(Overlay, "put", put)


def deletions_of_hub_keys_leave_no_record(patch: pytest.MonkeyPatch) -> None:
    real = Hub._delete

    def delete(self: Hub, head_key: bytes, version: int, previous: bytes, place: bytes) -> None:
        real(self, head_key, version, previous, place)
        self._changes.pop()

    patch.setattr(Hub, "_delete", delete)


def tree_records_made_again_follow_nothing(patch: pytest.MonkeyPatch) -> None:
    real = versions.put

    def put(ctx: OpContext, family: Family, key: bytes, value: bytes | None, previous: bytes | None) -> bytes:
        return real(ctx, family, key, value, previous or versions.NO_PLACE)

    patch.setattr(versions, "put", put)


def hub_keys_made_again_follow_nothing(patch: pytest.MonkeyPatch) -> None:
    real = Hub._made

    def made(self: Hub, head_key: bytes, deleted_at: bytes) -> tuple[bytes, bytes]:
        real(self, head_key, deleted_at)
        return versions.LIVE, versions.NO_PLACE

    patch.setattr(Hub, "_made", made)


def hub_keys_made_again_keep_the_record_of_their_deletion(patch: pytest.MonkeyPatch) -> None:
    real = Hub._made

    def made(self: Hub, head_key: bytes, deleted_at: bytes) -> tuple[bytes, bytes]:
        found = real(self, head_key, deleted_at)
        if found[0] == versions.REMADE:
            self._changes.pop()
        return found

    patch.setattr(Hub, "_made", made)


def the_hub_remembers_deletions_beyond_the_entry(patch: pytest.MonkeyPatch) -> None:
    """A cache then says what the floor has removed from the store: nodes differ by when they were started."""
    real = Hub.take

    def take(self: Hub) -> tuple[list[Change], list[bytes]]:
        self._deleted.clear()
        return real(self)

    patch.setattr(Hub, "take", take)


def a_command_that_touches_an_object_twice_cuts_its_history_off(patch: pytest.MonkeyPatch) -> None:
    real = versions.put

    def put(ctx: OpContext, family: Family, key: bytes, value: bytes | None, previous: bytes | None) -> bytes:
        links = ctx.effects.version_links
        for name in links:
            links[name] = (0, versions.NO_PLACE)
        return real(ctx, family, key, value, previous)

    patch.setattr(versions, "put", put)


def the_floor_removes_one_list_too_many(patch: pytest.MonkeyPatch) -> None:
    real = versions.raise_floor

    def raise_floor(overlay: Overlay, floor_index: Index) -> int:
        removed = real(overlay, floor_index)
        above = number(versions.floor(overlay) + 1)
        for _, value in overlay.scan(Family.VERSIONS, b"S" + above, b"S" + above + b"\0"):
            for name in versions._superseded_keys(value):
                overlay.record((Change(Family.VERSIONS, name, None),))
        return removed

    patch.setattr(versions, "raise_floor", raise_floor)


def the_floor_removes_records_of_later_deletions(patch: pytest.MonkeyPatch) -> None:
    real = versions._remove

    def remove(overlay: Overlay, name: bytes, index: int) -> int:
        removed = real(overlay, name, index)
        if removed == 1:
            overlay.record((Change(Family.VERSIONS, b"D" + name[1 + versions.PLACE.size :], None),))
        return removed

    patch.setattr(versions, "_remove", remove)


def the_floor_keeps_records_of_deletions(patch: pytest.MonkeyPatch) -> None:
    def remove(overlay: Overlay, name: bytes, index: int) -> int:
        overlay.record((Change(Family.VERSIONS, name, None),))
        return 1

    patch.setattr(versions, "_remove", remove)


def the_floor_forgets_what_the_overlay_holds(patch: pytest.MonkeyPatch) -> None:
    """A record removed past the overlay is still in its cache: nodes differ by when they were started."""
    real = versions._remove

    def remove(overlay: Overlay, name: bytes, index: int) -> int:
        cached = dict(overlay._cache[Family.VERSIONS])
        removed = real(overlay, name, index)
        overlay._cache[Family.VERSIONS].update(cached)
        return removed

    patch.setattr(versions, "_remove", remove)


def a_read_that_the_floor_passes_finds_nothing(patch: pytest.MonkeyPatch) -> None:
    """Instead of an error: what it looked for was removed while it waited."""
    real = versions._check_floor
    patch.setattr(versions, "_check_floor", lambda reader, index: None)

    def steps_to(reader: Reader, family: Family, key: bytes, index: Index) -> Iterator[versions.Version | None]:
        real(reader, index)
        yield from steps(reader, family, key, index)

    steps = versions.steps_to
    patch.setattr(versions, "steps_to", steps_to)


BROKEN = [
    deletions_of_tree_records_leave_no_record,
    deletions_of_hub_keys_leave_no_record,
    tree_records_made_again_follow_nothing,
    hub_keys_made_again_follow_nothing,
    hub_keys_made_again_keep_the_record_of_their_deletion,
    the_hub_remembers_deletions_beyond_the_entry,
    a_command_that_touches_an_object_twice_cuts_its_history_off,
    the_floor_removes_one_list_too_many,
    the_floor_removes_records_of_later_deletions,
    the_floor_keeps_records_of_deletions,
    the_floor_forgets_what_the_overlay_holds,
    a_read_that_the_floor_passes_finds_nothing,
]


def walks() -> None:
    for seed in range(8):
        walk_column(seed)
        walk_machine(seed)


@pytest.mark.req("D-18", "CH-10")
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_versions_column_is_caught(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "FLOOR_KEYS_MAX", KEYS_A_STEP)
    broken(monkeypatch)
    with pytest.raises((AssertionError, ApplyFailedError, DamagedError, InvariantError)):
        walks()
