"""The tables of a mount: nodes the kernel knows, open handles, callers."""

from __future__ import annotations

import logging
import os

import pytest

pytest.importorskip("hypercluster.mount.libfuse", reason="libfuse 3 is not installed", exc_type=OSError)

from hypercluster.client.live.ports import KIND_FILE, ROOT_ID, Node
from hypercluster.mount.callers import NOBODY, Callers, read_process
from hypercluster.mount.handles import HandleTable
from hypercluster.mount.libfuse import ROOT_NODE
from hypercluster.mount.nodes import NodeTable


def node(ino: int) -> Node:
    return Node(ino.to_bytes(16, "big"), ino, KIND_FILE, 0o644, 0, 0, 0, 1, 0, 0, b"", 1, 1)


@pytest.mark.req("WS-10", "WS-62")
def test_a_node_is_known_until_every_lookup_is_forgotten() -> None:
    table = NodeTable()
    for _ in range(3):
        table.looked_up(node(77))
    table.forget(77, 2)
    assert table.inode_of(77) == node(77).inode_id
    table.forget(77, 1)
    with pytest.raises(OSError, match="was not given"):
        table.inode_of(77)
    table.forget(77, 1)
    assert not table.looked_up(node(79)) and not table.looked_up(node(79))
    table.inode_of(79)  # the kernel names it, so it has it
    assert table.looked_up(node(79))
    table.forget(79, 3)
    assert not table.looked_up(node(79))
    table.forget(79, 1)
    for _ in range(3):
        table.looked_up(node(78))
    table.forget(78, 3)
    assert table.inode_of(ROOT_NODE) == ROOT_ID and len(table) == 0


def test_handles_are_numbered_once_and_say_what_is_cached() -> None:
    table = HandleTable()
    first = table.open(b"i" * 16, cached=True)
    second = table.open(b"i" * 16, cached=True)
    third = table.open(b"j" * 16, cached=False)
    assert len({first.number, second.number, third.number}) == 3
    assert table.cached() == [b"i" * 16] and not table.is_cached(b"j" * 16)
    table.close(first.number)
    assert table.is_cached(b"i" * 16)
    table.close(second.number)
    assert not table.is_cached(b"i" * 16)
    with pytest.raises(OSError, match="not open"):
        table.close(second.number)
    assert table.open(b"i" * 16, cached=False).number > third.number


@pytest.mark.req("WS-10")
def test_a_caller_is_a_process_whatever_its_thread() -> None:
    mine = read_process(os.getpid())
    assert mine.pid == os.getpid() and mine.start_ticks > 0
    for thread in os.listdir("/proc/self/task"):
        assert read_process(int(thread)) == mine
    assert read_process(0) == read_process(-1) == read_process(2**22 + 1) == NOBODY


@pytest.mark.req("WS-6")
def test_a_foreign_uid_is_named_loudly_and_not_too_often(caplog: pytest.LogCaptureFixture) -> None:
    callers = Callers(1_000, "/srv/demo")
    callers.admit(1_000, 1)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            with pytest.raises(PermissionError):
                callers.admit(0, 1)  # root, too
        with pytest.raises(PermissionError):
            callers.admit(1_001, 1)
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [0, 1_001]
