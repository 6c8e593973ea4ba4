"""What a live tree's store keeps when a process dies, and what its readers see while it goes to disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hypercluster.client.live import store as live_store
from hypercluster.client.live.store import TreeStore
from hypercluster.errors import DamagedError, InvariantError, WrongDirectoryError
from hypercluster.state_machine.store import Change, Family, MemoryStore

DIRECTORY = b"w" * 16 + b"E" + b"d" * 16  # of the length of keys that are scanned together
KILLED = """
import sys, os, random
from hypercluster.client.live.store import TreeStore
from hypercluster.state_machine.store import Change, Family
store = TreeStore(sys.argv[1])
count = 0
while True:
    count += 1
    number = count.to_bytes(8, "big")
    store.write([Change(Family.TREE, b"first", number), Change(Family.META, b"second", number)])
    store.put_record("third", number)
    if count % 7 == 0:
        store.flush_now()
        print(count, flush=True)
"""


def entry(name: bytes) -> bytes:
    return DIRECTORY + name


@pytest.mark.parametrize("seed", range(8))
def test_layers_answer_as_one_map(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    draw = random.Random(seed)
    store, model = TreeStore(str(tmp_path)), MemoryStore()
    names = [entry(b"%d" % number) for number in range(20)] + [b"x%d" % number for number in range(20)]
    for _ in range(300):
        match draw.randrange(6):
            case 0 if not store.is_flushing and store.begin_flush():
                store.flush()
            case 1 if store.is_flushing:
                store.end_flush()
            case 2 if store.is_flushing:
                store.undo_flush()
            case _:
                changes = [
                    Change(Family.TREE, draw.choice(names), draw.choice((None, draw.randbytes(3))))
                    for _ in range(draw.randrange(1, 6))
                ]
                store.write(changes)
                model.write(changes)
        key = draw.choice(names)
        assert store.get(Family.TREE, key) == model.get(Family.TREE, key)
        reverse = draw.random() < 0.5
        for start, end in ((DIRECTORY, DIRECTORY[:-1] + b"e"), (entry(b"1"), entry(b"5")), (b"", b"\xff")):
            found = list(store.scan(Family.TREE, start, end, reverse=reverse))
            assert found == list(model.scan(Family.TREE, start, end, reverse=reverse))
    store.close()


def test_what_was_not_flushed_is_gone_and_what_was_is_whole(tmp_path: Path) -> None:
    store = TreeStore(str(tmp_path))
    store.write([Change(Family.TREE, b"a", b"1")])
    store.put_record("r", b"1")
    store.flush_now()
    store.write([Change(Family.TREE, b"a", None)])
    store.put_record("r", None)
    assert (store.get(Family.TREE, b"a"), store.record("r"), store.unflushed) == (None, None, 2)
    store.close()
    again = TreeStore(str(tmp_path))
    assert (again.get(Family.TREE, b"a"), again.record("r")) == (b"1", b"1")
    again.close()


def test_a_killed_writer_leaves_one_of_its_flushes(tmp_path: Path) -> None:
    """Kill -9 at any moment: three values that were written together are found together, none older than what was
    told to be flushed."""
    draw = random.Random(5)
    for round_number in range(4):
        path = tmp_path / str(round_number)
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        told = 0
        for _ in range(draw.randrange(5, 40)):
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        told = int(rest[-1]) if rest else told
        store = TreeStore(str(path))
        first, second, third = (
            store.get(Family.TREE, b"first"),
            store.get(Family.META, b"second"),
            store.record("third"),
        )
        store.close()
        assert first == second == third
        assert first is not None
        assert int.from_bytes(first, "big") >= told
        assert int.from_bytes(first, "big") % 7 == 0


def test_a_flush_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_store, "MAP_BYTES_MAX", 1 << 20)
    store = TreeStore(str(tmp_path))
    store.write([Change(Family.TREE, b"a", b"1"), Change(Family.TREE, b"too much", bytes(2 << 20))])
    assert store.begin_flush()
    with pytest.raises(OSError, match="MDB_MAP_FULL"):
        store.flush()
    store.write([Change(Family.TREE, b"b", b"2"), Change(Family.TREE, b"too much", None)])
    store.undo_flush()
    assert (store.get(Family.TREE, b"a"), store.get(Family.TREE, b"b")) == (b"1", b"2")
    with pytest.raises(InvariantError):
        store.undo_flush()
    store.flush_now()
    assert store.unflushed == 0
    assert [key for key, _ in store.scan(Family.TREE, b"", b"z")] == [b"a", b"b"]
    store.close()


def test_what_is_no_tree_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(os.urandom(8192))
    with pytest.raises(DamagedError, match="Remove it"):
        TreeStore(str(tmp_path))
    shutil.rmtree(tmp_path)
    store = TreeStore(str(tmp_path))
    store.put_record("format", b"\x63")
    store.flush_now()
    store.close()
    with pytest.raises(WrongDirectoryError, match="format 99"):
        TreeStore(str(tmp_path))
