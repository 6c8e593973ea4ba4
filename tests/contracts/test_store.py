"""What every `Store` promises, whatever it keeps its bytes in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.state_machine.store import Change, Family, MemoryStore, Store
from tests.contracts.stores import LONGEST_KEY_BYTES, STORES, close

BEFORE_ALL = b""
AFTER_ALL = b"\xff" * 64


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = STORES[request.param](tmp_path)
    yield made
    close(made)


def put(store: Store, *pairs: tuple[bytes, bytes], family: Family = Family.HUB) -> None:
    store.write([Change(family, key, value) for key, value in pairs])


def everything(store: Store, family: Family = Family.HUB) -> list[tuple[bytes, bytes]]:
    return list(store.scan(family, BEFORE_ALL, AFTER_ALL))


def test_get_answers_what_was_put(store: Store) -> None:
    put(store, (b"a", b"1"), (b"b", b""))
    assert store.get(Family.HUB, b"a") == b"1"
    assert store.get(Family.HUB, b"b") == b""
    assert store.get(Family.HUB, b"c") is None


def test_a_second_put_replaces(store: Store) -> None:
    put(store, (b"a", b"1"))
    put(store, (b"a", b"2"))
    assert store.get(Family.HUB, b"a") == b"2"
    assert everything(store) == [(b"a", b"2")]


def test_delete_removes_and_may_name_nothing(store: Store) -> None:
    put(store, (b"a", b"1"))
    store.write([Change(Family.HUB, b"a", None), Change(Family.HUB, b"never", None)])
    assert store.get(Family.HUB, b"a") is None
    assert everything(store) == []


def test_families_are_apart(store: Store) -> None:
    for family in Family:
        put(store, (b"key", bytes([family])), family=family)
    for family in Family:
        assert store.get(family, b"key") == bytes([family])
        assert everything(store, family) == [(b"key", bytes([family]))]


def test_scan_is_in_byte_order_and_half_open(store: Store) -> None:
    keys = [b"\x00", b"a", b"a\x00", b"a\xff", b"b", b"\x7f", b"\x80", b"\xff"]
    put(store, *((key, key) for key in reversed(keys)))
    assert [key for key, _ in everything(store)] == sorted(keys)
    assert [key for key, _ in store.scan(Family.HUB, b"a", b"b")] == [b"a", b"a\x00", b"a\xff"]
    assert [key for key, _ in store.scan(Family.HUB, b"a", b"a")] == []
    assert [key for key, _ in store.scan(Family.HUB, b"b", b"a")] == []


def test_reverse_scan_is_the_same_pairs_backwards(store: Store) -> None:
    put(store, *((bytes([n]), bytes([n])) for n in range(20)))
    for start, end in ((b"\x03", b"\x0a"), (b"\x03", b"\x09\x80"), (b"", b"\xff"), (b"\x05", b"\x05")):
        forwards = list(store.scan(Family.HUB, start, end))
        assert list(store.scan(Family.HUB, start, end, reverse=True)) == forwards[::-1]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_keeps_its_own_bounds(store: Store, reverse: bool) -> None:
    """The caller's bounds are gone before the first pair is asked for, and their memory is used again."""
    prefixes = [b"lane/" + bytes(12) + bytes((number,)) for number in range(40)]
    put(store, *[(prefix + bytes((n,)), b"v") for prefix in prefixes for n in range(5)])
    scans = [
        store.scan(Family.HUB, prefix + bytes(0), prefix[:-1] + bytes((prefix[-1] + 1,)), reverse=reverse)
        for prefix in prefixes
    ]
    reused = [b"\xff" * 17 + bytes((n,)) + b"\0" for n in range(200)]
    assert [len(list(scan)) for scan in scans] == [5] * 40
    assert len(reused) == 200


def test_a_scan_shows_the_state_at_the_call(store: Store) -> None:
    put(store, *((b"%05d" % n, b"old") for n in range(2_000)))
    forwards = store.scan(Family.HUB, BEFORE_ALL, AFTER_ALL)
    backwards = store.scan(Family.HUB, BEFORE_ALL, AFTER_ALL, reverse=True)
    first = next(forwards)
    put(store, *((b"%05d" % n, b"new") for n in range(2_000)), (b"99999", b"new"))
    store.write([Change(Family.HUB, b"00007", None)])
    assert [first, *forwards] == [(b"%05d" % n, b"old") for n in range(2_000)]
    assert list(backwards) == [(b"%05d" % n, b"old") for n in reversed(range(2_000))]
    assert len(everything(store)) == 2_000


def test_the_last_change_of_a_key_wins(store: Store) -> None:
    store.write(
        [
            Change(Family.HUB, b"a", b"1"),
            Change(Family.HUB, b"a", None),
            Change(Family.HUB, b"a", b"2"),
            Change(Family.HUB, b"b", b"1"),
            Change(Family.HUB, b"b", None),
        ]
    )
    assert everything(store) == [(b"a", b"2")]


def test_a_write_that_fails_halfway_changes_nothing(store: Store) -> None:
    if isinstance(store, MemoryStore):
        pytest.skip("the in-memory store takes changes one by one; a failing iterator is its owner's defect")

    def changes() -> Iterator[Change]:
        yield Change(Family.HUB, b"a", b"1")
        raise OSError("the reader of the changes failed")

    with pytest.raises(OSError, match="reader of the changes"):
        store.write(changes())
    assert everything(store) == []
    put(store, (b"b", b"1"))
    assert everything(store) == [(b"b", b"1")]


@pytest.mark.parametrize("name", sorted(STORES))
def test_empty_key_empty_write_and_large_value(name: str, tmp_path: Path) -> None:
    store, long = STORES[name](tmp_path), b"x" * LONGEST_KEY_BYTES.get(name, 1_000)
    store.write([])
    put(store, (b"", b"at the front"), (long, b"y" * (1 << 20)))
    assert store.get(Family.HUB, b"") == b"at the front"
    assert [key for key, _ in everything(store)] == [b"", long]
    assert [key for key, _ in store.scan(Family.HUB, b"", AFTER_ALL, reverse=True)] == [long, b""]
    close(store)


keys = st.binary(max_size=3)
changes_of_a_write = st.lists(st.builds(Change, st.sampled_from(Family), keys, st.none() | st.binary(max_size=4)))


@pytest.mark.parametrize("name", sorted(set(STORES) - {"memory"}))
@settings(max_examples=25, deadline=None, derandomize=True)
@given(writes=st.lists(changes_of_a_write, max_size=6), start=keys, end=keys)
def test_every_store_agrees_with_the_memory_store(
    name: str, tmp_path_factory: pytest.TempPathFactory, writes: list[list[Change]], start: bytes, end: bytes
) -> None:
    model, store = MemoryStore(), STORES[name](tmp_path_factory.mktemp(name))
    try:
        for write in writes:
            model.write(write)
            store.write(write)
        for family in Family:
            assert everything(store, family) == everything(model, family)
            for reverse in (False, True):
                expected = list(model.scan(family, start, end, reverse=reverse))
                assert list(store.scan(family, start, end, reverse=reverse)) == expected
    finally:
        close(store)
