"""Namespaces on a bridge and on the switch: they come and go whole, and are cut and slowed exactly as asked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chaos.cluster import namespaces
from chaos.cluster.entering import PLACE, inside
from chaos.cluster.lines import PROJECT, ChildGoneError
from chaos.cluster.probing import CLIENTS
from chaos.nemeses.partitions import SHAPES, pairs_of
from chaos.seams import Link
from tests.chaos.networks import KINDS, NODES, PLACES, QUIET_S, OpenNetwork, eventually, in_namespace, needs

pytestmark = [pytest.mark.root, pytest.mark.req("CH-4")]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    needs(request.param)
    return str(request.param)


def left_of(run_id: str) -> list[str]:
    return [path.name for path in PLACE.glob(f"*{run_id}*")] + [p.name for p in namespaces.OWNERS.glob(f"*{run_id}*")]


def own_network() -> str:
    return os.readlink("/proc/thread-self/ns/net")


async def test_a_network_comes_whole_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    before, links = own_network(), namespaces.run("ip", "-br", "link")
    async with OpenNetwork(kind, tmp_path) as opened:
        run_id = opened.site.run.run_id
        assert len(list(PLACE.glob(f"hc{run_id}-*"))) >= len(PLACES)
        assert await opened.deaf() == set(), "everybody hears everybody"
        # Something of the run's that nobody stopped ends with its namespace.
        forgotten = in_namespace(opened.site.prefix("n1"))
    assert forgotten.wait(5) == -9
    assert left_of(run_id) == []
    assert (own_network(), namespaces.run("ip", "-br", "link")) == (before, links), (
        "the machine's own network is as it was"
    )


async def test_nothing_is_left_after_an_exception(kind: str, tmp_path: Path) -> None:
    opened = OpenNetwork(kind, tmp_path)
    with pytest.raises(ZeroDivisionError):
        async with opened:
            raise ZeroDivisionError
    assert left_of(opened.site.run.run_id) == []

    # A name in the way stops it in the middle.
    half = OpenNetwork(kind, tmp_path)
    namespaces.run("ip", "netns", "add", half.site.run.name("n4"))
    try:
        with pytest.raises(OSError, match="File exists"):
            async with half:
                pass
        assert left_of(half.site.run.run_id) == [half.site.run.name("n4")], "what it did not make it does not remove"
    finally:
        namespaces.remove_namespace(half.site.run.name("n4"))


async def test_two_runs_do_not_meet(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with OpenNetwork(kind, tmp_path / "a") as one, OpenNetwork(kind, tmp_path / "b") as other:
        await one.network.cut([("n1", "n2")])
        assert await one.deaf(("n1", "n2"), places=("n1", "n2")) == {("n1", "n2")}
        assert await other.deaf(places=("n1", "n2")) == set(), "same addresses, another network"


async def test_every_partition_cuts_exactly_its_directions(kind: str, tmp_path: Path) -> None:
    async with OpenNetwork(kind, tmp_path) as opened:
        for shape in SHAPES:
            pairs = pairs_of(shape, ("n3", "n1", "n5", "n2", "n4"), "n2")
            await opened.network.cut(pairs)
            assert await opened.deaf(*pairs) == pairs, shape
        await opened.network.cut([(CLIENTS, "n1")])
        assert await opened.deaf((CLIENTS, "n1")) == {(CLIENTS, "n1")}, "a cut takes the place of the one before"
        path = await opened.network.probe("n1", CLIENTS, QUIET_S)
        assert path.there and not path.back, "the packet gets there, and its answer does not"
        assert await opened.network.hears(CLIENTS, "n1")
        await opened.network.heal()
        assert await opened.deaf() == set()


async def test_a_cut_lasts_beyond_what_neighbours_remember(kind: str, tmp_path: Path) -> None:
    """Hardware addresses are known for good: without that, a one-way cut becomes one of both ways after a while."""
    async with OpenNetwork(kind, tmp_path) as opened:
        for place in PLACES:
            said = inside(opened.site.run.name(place), lambda: namespaces.run("ip", "neigh", "show"))
            assert said.count("PERMANENT") == len(PLACES) - 1


async def test_a_place_that_is_not_there_is_an_error(kind: str, tmp_path: Path) -> None:
    async with OpenNetwork(kind, tmp_path) as opened:
        await opened.network.cut([("n1", "n2")])
        with pytest.raises(ValueError, match="n9"):
            await opened.network.cut([("n1", "n9")])
        assert await opened.deaf(("n1", "n2"), places=("n1", "n2")) == {("n1", "n2")}, "the cut before stands"
        with pytest.raises(ValueError, match="n9"):
            await opened.network.reaches("n1", "n9")


async def test_delay_is_measured_and_one_way(tmp_path: Path) -> None:
    needs("switch")
    async with OpenNetwork("switch", tmp_path) as opened:
        good_ms = await opened.round_trip_ms("n1", "n2")
        await opened.network.shape({("n1", "n2"): Link(delay_ms=80.0)})
        slow_ms = await opened.round_trip_ms("n1", "n2")
        assert 80.0 <= slow_ms < 80.0 + good_ms + 30.0
        assert 80.0 <= await opened.round_trip_ms("n2", "n1") < 110.0 + good_ms, "the way there or the way back"
        assert await opened.round_trip_ms("n1", "n3") < 40.0
        await opened.network.shape(
            {("n1", "n2"): Link(delay_ms=40.0), ("n2", "n1"): Link(delay_ms=60.0, jitter_ms=20.0)}
        )
        assert 80.0 <= await opened.round_trip_ms("n1", "n2") < 150.0
        await opened.network.heal()
        assert await opened.round_trip_ms("n1", "n2") < 40.0


async def test_all_lost_is_a_cut_of_that_direction(tmp_path: Path) -> None:
    needs("switch")
    async with OpenNetwork("switch", tmp_path) as opened:
        await opened.network.shape({("n1", "n2"): Link(loss=1.0)})
        assert await opened.deaf(("n1", "n2"), places=NODES) == {("n1", "n2")}
        await opened.network.cut([("n3", "n1")])
        assert await opened.deaf(("n1", "n2"), ("n3", "n1")) == {("n1", "n2"), ("n3", "n1")}, (
            "cuts and bad links add up"
        )
        await opened.network.heal()
        assert await opened.deaf() == set()


async def test_half_lost_is_half_lost(tmp_path: Path) -> None:
    needs("switch")
    async with OpenNetwork("switch", tmp_path) as opened:
        await opened.network.shape({("n1", "n2"): Link(loss=0.5)})
        found = await asyncio.gather(*(opened.network.probe("n1", "n2", QUIET_S) for _ in range(100)))
        assert 20 < sum(path.there for path in found) < 80


async def test_the_bridge_says_that_it_can_not_shape(tmp_path: Path) -> None:
    needs("namespaces")
    async with OpenNetwork("namespaces", tmp_path) as opened:
        assert opened.network.features == {"cut"}
        with pytest.raises(NotImplementedError):
            await opened.network.shape({("n1", "n2"): Link(loss=1.0)})


async def test_a_switch_that_dies_is_noticed(tmp_path: Path) -> None:
    needs("switch")
    async with OpenNetwork("switch", tmp_path) as opened:
        process = opened.switch.process
        assert process is not None and process.pid
        os.kill(process.pid, 9)
        await eventually(lambda: process.is_gone, "its end is noticed")
        with pytest.raises(ChildGoneError, match=r"switch\.log"):
            await opened.network.heal()
    assert left_of(opened.site.run.run_id) == []


OWNER = """
    import asyncio, sys
    from pathlib import Path
    from tests.chaos.networks import OpenNetwork

    async def main():
        async with OpenNetwork("switch", Path(sys.argv[1])) as opened:
            print(opened.site.run.run_id, flush=True)
            await asyncio.sleep(600)

    asyncio.run(main())
"""


def owner_of_another_run(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(OWNER), str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT, text=True)


async def test_what_a_killed_run_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    needs("switch")
    (tmp_path / "mine").mkdir()
    async with OpenNetwork("switch", tmp_path / "mine") as mine:
        with owner_of_another_run(tmp_path) as owner:
            try:
                assert owner.stdout is not None
                run_id = owner.stdout.readline().strip()
                assert len(left_of(run_id)) == len(PLACES) + 1
                assert namespaces.sweep() == [], "its owner lives"
                forgotten = in_namespace(namespaces.prefix_into(f"hc{run_id}-n1"))
            finally:
                owner.kill()
        assert len(left_of(run_id)) == len(PLACES) + 1, "a killed run leaves everything"
        assert namespaces.sweep() == sorted(f"hc{run_id}-{place}" for place in PLACES)
        assert forgotten.wait(5) == -9
        assert left_of(run_id) == []
        assert await mine.deaf(places=NODES[:2]) == set(), "a run whose owner lives is left alone"
    await eventually(lambda: not left_of(mine.site.run.run_id), "and then it is gone too")
