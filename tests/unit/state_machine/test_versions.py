"""The versions column by itself: objects touched several times, made again, keys that nest, damage."""

from __future__ import annotations

import pytest

from hypercluster.errors import DamagedError, HistoryGoneError, InvariantError
from hypercluster.state_machine import versions
from hypercluster.state_machine.store import Change, Family
from hypercluster.values import Index
from tests.unit.state_machine.versions_column import Column

Seen = list[tuple[int, int, bytes | None]]


def newest(column: Column, key: bytes, count_max: int = 99) -> Seen:
    found = versions.newest(column.store, Family.TREE, key, count_max)
    return [(version.index, version.ordinal, version.value) for version in found]


def kept(column: Column) -> list[bytes]:
    return [change.key for change in column.store.items() if change.family is Family.VERSIONS]


@pytest.mark.req("D-18")
def test_deleted_and_made_again_in_one_command() -> None:
    column = Column()
    column.entry([(b"k", b"old")])
    column.entry([(b"k", None), (b"k", b"new")])
    assert (column.at(b"k", 1), column.at(b"k", 2)) == (b"old", b"new")
    assert newest(column, b"k") == [(2, 0, b"new"), (1, 0, b"old")]
    column.raise_floor(5)
    assert column.at(b"k", 5) == b"new"
    assert len(kept(column)) == 1


@pytest.mark.req("D-18")
def test_made_and_deleted_in_one_command() -> None:
    column = Column()
    column.entry([(b"k", b"v")])
    column.entry([(b"k", b"w"), (b"k", None)])
    assert (column.at(b"k", 1), column.at(b"k", 2)) == (b"v", None)
    assert newest(column, b"k") == [(2, 0, None), (1, 0, b"v")]
    column.raise_floor(2)
    assert column.at(b"k", 2) is None
    assert not kept(column)


@pytest.mark.req("D-18")
def test_deleted_and_made_again_by_commands_of_one_entry() -> None:
    column = Column()
    column.entry([(b"k", b"1")])
    column.entry([(b"k", None)], [(b"k", b"2")], [(b"k", None)], [(b"k", b"3")])
    history: Seen = [(2, 3, b"3"), (2, 2, None), (2, 1, b"2"), (2, 0, None), (1, 0, b"1")]
    assert newest(column, b"k") == history
    assert newest(column, b"k", 2) == history[:2]
    assert (column.at(b"k", 1), column.at(b"k", 2)) == (b"1", b"3")
    column.raise_floor(2)
    assert newest(column, b"k") == history[:1]


@pytest.mark.req("D-18")
def test_history_is_found_without_a_head_until_the_floor_passes_the_deletion() -> None:
    column = Column()
    for value in (b"1", b"2", None):
        column.entry([(b"k", value)])
    assert [column.at(b"k", index) for index in range(4)] == [None, b"1", b"2", None]
    column.raise_floor(2)
    assert newest(column, b"k") == [(3, 0, None), (2, 0, b"2")]
    assert versions.deletion_key(Family.TREE, b"k") in kept(column)
    column.raise_floor(3)
    assert newest(column, b"k") == []
    assert not kept(column)


@pytest.mark.req("D-18")
def test_an_object_made_again_after_the_floor_passed_its_deletion_has_no_older_history() -> None:
    column = Column()
    column.entry([(b"k", b"1")])
    column.entry([(b"k", None)])
    column.raise_floor(2)
    column.entry([(b"k", b"2")])
    assert newest(column, b"k") == [(3, 0, b"2")]
    assert (column.at(b"k", 2), column.at(b"k", 3)) == (None, b"2")


@pytest.mark.req("D-18")
@pytest.mark.parametrize("again", [True, False])
def test_made_again_while_the_floor_passes_the_deletion(again: bool) -> None:
    """The link to the deletion then leads nowhere, and no read may miss it; a later deletion keeps its own record."""
    column = Column()
    column.entry([(b"k", b"1")])
    column.entry([(b"k", None)])
    column.entry([(b"k", b"2")], *([[(b"k", None)]] if again else []), floor=2)
    assert (column.at(b"k", 2), column.at(b"k", 3)) == (None, None if again else b"2")
    assert newest(column, b"k") == ([(3, 1, None)] if again else []) + [(3, 0, b"2")]
    column.entry([(b"k", b"3")])
    assert column.at(b"k", 3) == (None if again else b"2")
    column.raise_floor(4)
    assert newest(column, b"k") == [(4, 0, b"3")]
    assert len(kept(column)) == 1


@pytest.mark.req("D-18")
def test_keys_that_begin_alike_are_not_mixed_up() -> None:
    """One key continues another by exactly what a place looks like."""
    column = Column()
    longer = b"k" + versions.place(Index(3), 0)
    pairs = [(b"k", b"short"), (longer, b"long"), (b"k\0", b"zero"), (b"k\0\1", b"end")]
    column.entry(pairs)
    for key, value in pairs:
        assert column.at(key, 9) == value
        assert len(newest(column, key)) == 1
    assert column.at(b"", 9) is None


@pytest.mark.req("D-18")
def test_keys_of_versions_rise_from_command_to_command() -> None:
    column = Column()
    written: list[bytes] = []
    for _ in range(300):
        column.entry([(b"z", b"1")], [(b"a", b"2")])
        written += [change.key for change in column.last_changes if change.key.startswith(b"V")]
    assert written == sorted(written)


@pytest.mark.req("CL-3", "D-18")
def test_a_version_that_must_be_there_and_is_not_is_damage() -> None:
    """And one that the floor removed is not: only reads that no node serves would need it."""
    column = Column()
    for value in (b"1", b"2", b"3", None, b"4", b"5"):
        column.entry([(b"k", value)])
    column.raise_floor(2)
    names = {versions.PLACE.unpack_from(key, 1)[0]: key for key in kept(column) if key.startswith(b"V")}
    assert sorted(names) == [2, 3, 4, 5, 6]
    held = {2: b"2", 3: b"3", 4: None, 5: b"4", 6: b"5"}
    assert {index: column.at(b"k", index) for index in held} == held
    for index, name in names.items():
        value = column.store.get(Family.VERSIONS, name)
        column.store.write([Change(Family.VERSIONS, name, None)])
        with pytest.raises(DamagedError, match=rf"version {index}/0 of TREE record 6b is missing.*node rejoin"):
            newest(column, b"k")
        with pytest.raises(DamagedError):
            column.at(b"k", index)
        assert {later: column.at(b"k", later) for later in range(index + 1, 7)} == {
            later: held[later] for later in range(index + 1, 7)
        }
        column.store.write([Change(Family.VERSIONS, name, value)])
    (second, third) = (names[2], names[3])
    column.store.write([Change(Family.VERSIONS, second, b"\1" + third[1:13] + b"2")])
    with pytest.raises(DamagedError, match="version 2/0 of TREE record 6b is wrongly linked"):
        newest(column, b"k")
    with pytest.raises(HistoryGoneError):
        column.at(b"k", 1)


def test_an_object_without_a_head_is_not_deleted() -> None:
    with pytest.raises(InvariantError):
        Column().entry([(b"k", None)])
