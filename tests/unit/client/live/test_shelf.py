"""Which tree counts after a crash: the newest that was built to its end (WS-52)."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypercluster.client.live.shelf import Shelf
from hypercluster.errors import DamagedError, MalformedError
from hypercluster.state_machine.workspace.transfer import export_records
from tests.unit.client.live.trees import founded
from tests.unit.workspace.site import Site

HISTORY = b"history---------"


def exported(site: Site) -> list[tuple[int, bytes, bytes]]:
    return [(int(c.family), c.key, c.value or b"") for c in export_records(site.store, site.workspace_id)]


def trees(directory: Path) -> list[str]:
    return sorted(found.name for found in directory.glob("tree-*"))


@pytest.mark.req("WS-52")
@pytest.mark.parametrize("flushed", [False, True])
def test_a_tree_that_was_not_built_to_its_end_does_not_count(tmp_path: Path, flushed: bool) -> None:
    site = founded()
    site.file(b"f")
    shelf = Shelf(str(tmp_path), site.workspace_id)
    assert shelf.open_newest() is None
    building = shelf.build(HISTORY)
    building.add(exported(site))
    building.finish(site.header.log_index, site.header.root).close()
    half = shelf.build(HISTORY)
    half.add(exported(site))
    if flushed:
        half._store.flush_now()
    half.give_up()
    assert trees(tmp_path) == ["tree-1", "tree-2"]
    found = shelf.open_newest()
    assert found is not None
    assert (trees(tmp_path), found.record("history_id")) == (["tree-1"], HISTORY)
    found.put_record("state", None)  # disowned: another history, or a log that does not reach back
    found.flush_now()
    found.close()
    assert shelf.open_newest() is None
    assert trees(tmp_path) == []
    shelf.close()


def test_a_snapshot_that_does_not_add_up_or_is_of_something_else_is_refused(tmp_path: Path) -> None:
    site, other = founded(), founded()
    other.workspace_id = other.found("second").inode_id
    shelf = Shelf(str(tmp_path), site.workspace_id)
    building = shelf.build(HISTORY)
    with pytest.raises(MalformedError, match=r"TreeRecord\.key"):
        building.add(exported(other))
    building.add(exported(site))
    with pytest.raises(DamagedError, match="does not add up"):
        building.finish(site.header.log_index, bytes(32))
    building.give_up()
    shelf.close()
