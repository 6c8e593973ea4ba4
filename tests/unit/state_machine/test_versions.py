"""The versions column by itself: one command that touches an object several times, and objects whose keys nest."""

from __future__ import annotations

import pytest

from hypercluster.state_machine import versions
from hypercluster.state_machine.context import Effects, OpContext
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, MemoryStore
from hypercluster.values import ClientId, Index, Nanos, Scope, Seq, Term


class Column:
    """A store with nothing but versions in it; `place` is what an owner keeps in its head record."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def entry(self, index: int, *puts: tuple[bytes, bytes | None, bytes]) -> list[bytes]:
        overlay = Overlay(self.store)
        context = OpContext(
            overlay, Effects(), Index(index), Term(1), 0, Nanos(1), bytes(16), "p", Scope("o", "p"), "w",
            ClientId(bytes(16)), Seq(1), b"", b"",
        )  # fmt: skip
        places = [versions.put(context, Family.TREE, key, value, previous) for key, value, previous in puts]
        versions.flush(overlay, Index(index), list(context.effects.superseded))
        self.store.write(overlay.take_changes())
        return places

    def raise_floor(self, floor: int) -> None:
        overlay = Overlay(self.store)
        versions.raise_floor(overlay, Index(floor))
        self.store.write(overlay.take_changes())

    def at(self, key: bytes, index: int) -> bytes | None:
        found = versions.read_at(self.store, Family.TREE, key, Index(index))
        return None if found is None else found.value


@pytest.mark.req("D-18")
def test_deleted_and_made_again_in_one_command() -> None:
    column = Column()
    (first,) = column.entry(1, (b"k", b"old", b""))
    column.entry(2, (b"k", None, first), (b"k", b"new", b""))
    assert (column.at(b"k", 1), column.at(b"k", 2)) == (b"old", b"new")
    column.raise_floor(5)
    assert column.at(b"k", 5) == b"new"


@pytest.mark.req("D-18")
def test_made_and_deleted_in_one_command() -> None:
    column = Column()
    (here,) = column.entry(1, (b"k", b"v", b""))
    assert (
        column.entry(2, (b"k", b"w", here), (b"k", None, versions.place(Index(2), 0)))
        == [versions.place(Index(2), 0)] * 2
    )
    assert (column.at(b"k", 1), column.at(b"k", 2)) == (b"v", None)
    column.raise_floor(2)
    assert column.at(b"k", 2) is None
    assert not [c for c in column.store.items() if c.family is Family.VERSIONS]


@pytest.mark.req("D-18")
def test_keys_that_begin_alike_are_not_mixed_up() -> None:
    """One key continues another by exactly what a place looks like."""
    column = Column()
    longer = b"k" + versions.place(Index(3), 0)
    column.entry(1, (b"k", b"short", b""), (longer, b"long", b""), (b"k\0", b"zero", b""), (b"k\0\1", b"end", b""))
    for key, value in ((b"k", b"short"), (longer, b"long"), (b"k\0", b"zero"), (b"k\0\1", b"end")):
        assert column.at(key, 9) == value
        assert len(versions.newest(column.store, Family.TREE, key, 9)) == 1
    assert column.at(b"", 9) is None
