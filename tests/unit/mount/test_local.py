"""The parts of a mount's local side, one by one (WS-56): ranges of locks, nodes, the ground they lie on."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

pytest.importorskip("hypercluster.mount.libfuse", reason="libfuse 3 is not installed", exc_type=OSError)

from hypercluster.errors import NoQuorumError
from hypercluster.mount.local.ground import Ground
from hypercluster.mount.local.patterns import PatternsInForce
from hypercluster.mount.local.range_locks import END, Range, RangeLocks
from hypercluster.mount.local.table import LOCAL_BIT, LocalTable, Place
from tests.fakes.site_node import SiteNode
from tests.unit.client.live.trees import following, founded, mkdir

BYTES = 12  # of the file in the model
STEPS = 400
OWNER = (os.geteuid(), os.getegid())


@pytest.mark.parametrize("seed", range(20))
def test_range_locks_are_those_of_a_byte_by_byte_model(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    locks = RangeLocks()
    model: dict[tuple[int, int], bool] = {}  # (owner, byte) -> exclusive
    for _ in range(STEPS):
        owner, start = rng.randrange(3), rng.randrange(BYTES)
        end = rng.randrange(start + 1, BYTES + 1)
        exclusive = rng.random() < 0.4
        span = range(start, end)
        if rng.random() < 0.4:
            had = locks.free("f", owner, start, end)
            assert had == any((owner, at) in model for at in span)
            model = {key: kind for key, kind in model.items() if key[0] != owner or key[1] not in span}
        else:
            free = not any(o != owner and at in span and (kind or exclusive) for (o, at), kind in model.items())
            assert locks.take("f", Range(owner, start, end, exclusive, 1)) == free
            if free:
                model |= {(owner, at): exclusive for at in span}
        found = {(held.owner, at): held.exclusive for held in locks.of("f") for at in range(held.start, held.end)}
        assert found == model and len(found) == sum(held.end - held.start for held in locks.of("f"))
        ends = [(held.owner, held.exclusive, held.end) for held in locks.of("f")]
        assert not {(held.owner, held.exclusive, held.start) for held in locks.of("f")}.intersection(ends)  # joined
    for owner in range(3):
        locks.free("f", owner, 0, END)
    assert len(locks) == 0


def status(directory: Path, name: str) -> os.stat_result:
    return os.stat(directory / name, follow_symlinks=False)


@pytest.mark.req("WS-56")
def test_a_node_follows_its_file_and_not_its_number(tmp_path: Path) -> None:
    table, home = LocalTable(), b"h" * 16
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_bytes(b"")
    directory = table.looked_up(status(tmp_path, "d"), Place(home, None, b"d"))
    file = table.looked_up(status(tmp_path, "f"), Place(home, directory, b"f"))
    assert file.number & directory.number & LOCAL_BIT and file.number != directory.number
    assert file.place.names() == (home, [b"d", b"f"])
    table.forget(directory.number, 1)
    assert table.get(directory.number) is directory  # the file stands in it
    table.moved(directory.identity, Place(b"i" * 16, None, b"e"))
    assert file.place.names() == (b"i" * 16, [b"e", b"f"])
    os.link(tmp_path / "f", tmp_path / "g")
    again = table.looked_up(status(tmp_path, "g"), Place(home, None, b"g"))
    assert again is file and not table.looked_up(status(tmp_path, "f"), file.place).gone
    table.removed(status(tmp_path, "g"), Place(home, None, b"g"))
    assert file.gone
    os.unlink(tmp_path / "g")
    table.removed(status(tmp_path, "f"), file.place)  # the last name: its number is free for another file
    other = table.looked_up(status(tmp_path, "f"), Place(home, None, b"new"))
    assert other is not file and other.number != file.number
    table.forget(file.number, 3)
    table.forget(other.number, 1)
    with pytest.raises(OSError, match="was not given"):
        table.get(file.number)
    assert len(table) == 0


@pytest.mark.req("WS-56")
def test_nothing_is_reached_through_a_symlink(tmp_path: Path) -> None:
    ground = Ground(str(tmp_path / "local"), OWNER)
    home = b"h" * 16
    with ground.reach(home, [], make=True) as root:
        os.symlink("/etc", b"d", dir_fd=root)
        os.mkdir(b"e", dir_fd=root)
    with pytest.raises(OSError, match="directory"), ground.reach(home, [b"d"]):
        pass
    with ground.reach(home, [b"e"]) as directory:
        os.mkdir(b"sub", dir_fd=directory)
    ground.prune(home)
    assert ground.has(home)
    with ground.root(home) as root:
        os.rmdir(b"e/sub", dir_fd=root)
        os.rmdir(b"e", dir_fd=root)
        os.unlink(b"d", dir_fd=root)
    again = Ground(str(tmp_path / "local"), OWNER)
    assert again.roots() == [home]  # as a restart finds it
    again.prune(home)
    assert not again.has(home) and os.listdir(tmp_path / "local") == []


@pytest.mark.req("WS-56")
async def test_patterns_outlive_a_start_without_a_cluster(tmp_path: Path) -> None:
    said: list[bytes] = [b"build/\n*.o\n!/d/keep.o\n"]

    async def fetch() -> bytes:
        if not said:
            raise NoQuorumError("nobody answers")
        return said[-1]

    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        directory = await mkdir(tree, b"d")
        patterns = PatternsInForce(tmp_path / "patterns", tree.view, fetch)
        assert not patterns
        await patterns.learn()
        said.clear()
        for known in (patterns, PatternsInForce(tmp_path / "patterns", tree.view, fetch)):
            await known.learn()
            assert known.match(directory, b"build", is_directory=True)
            assert not known.match(directory, b"build", is_directory=False)
            assert known.match(bytes(16), b"keep.o", is_directory=False)
            assert not known.match(directory, b"keep.o", is_directory=False)  # at /d/keep.o
            assert not known.match(b"x" * 16, b"build", is_directory=True)  # a directory without a name
