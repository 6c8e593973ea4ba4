"""A mount whose copy of the tree has stopped (WS-5): it can be read, says why, and goes on when an operator says so."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from hypercluster.client.live.store import TreeStore
from hypercluster.client.worker.state import FAILURE_RECORD, Failure
from hypercluster.mount.mounting import TREE
from tests.mount.calls import refusal
from tests.mount.mounts import NEEDS, LocalCluster, Mount, within

pytestmark = NEEDS


def stop(state: Path) -> None:
    """As a replay that arrived at another root would have left it."""
    (tree,) = (state / TREE).glob("tree-*")
    store = TreeStore(str(tree))
    failure = Failure(7, errno.EIO, "the root is another", kept=True)
    store.put_record(FAILURE_RECORD, json.dumps(asdict(failure)).encode())
    store.flush_now()
    store.close()


@pytest.mark.req("WS-5")
@pytest.mark.parametrize("option", ["--clear-error", "--rebuild"])
def test_an_operator_lets_a_stopped_mount_go_on(cluster: LocalCluster, tmp_path: Path, option: str) -> None:
    name = option.strip("-")
    with Mount(cluster, tmp_path / "a", "demo", name) as mount:
        (mount.path / name).write_bytes(b"content")
    stop(mount.state)
    with Mount(cluster, tmp_path / "b", "demo", name, "--state", str(mount.state)) as stopped:
        assert (stopped.path / name).read_bytes() == b"content"
        assert refusal((stopped.path / name).write_bytes, b"x") == "EROFS"
        assert "the root is another" in stopped.why()
    with Mount(cluster, tmp_path / "c", "demo", name, "--state", str(mount.state), option) as cleared:
        within(lambda: not cleared.why(), "it goes on")
        (cleared.path / name).write_bytes(b"new content")
        assert (cleared.path / name).read_bytes() == b"new content"
        assert "the root is another" in cleared.log.read_text()
