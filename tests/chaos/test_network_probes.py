"""What the harness asks children and probes by, without root: lines, reach matrices, what each shape cuts, features."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from chaos.cluster import features, open_cluster
from chaos.cluster.lines import ChildGoneError, LineChild
from chaos.nemeses import NEMESES, make_nemeses
from chaos.nemeses.links import KINDS, SHARE, draw_links
from chaos.nemeses.partitions import SHAPES, between, not_as_cut, pairs_of
from chaos.seams import Link, Pair

CHILD = """
import json, sys
print('{"ready": true}', flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["ask"] == "end":
        sys.exit("had enough")
    if asked["ask"] == "refuse":
        print(json.dumps({"number": asked["number"], "error": "not that"}), flush=True)
    else:
        print(json.dumps({"number": asked["number"], "said": asked["ask"]}), flush=True)
"""


def child(directory: Path, code: str = CHILD) -> LineChild:
    return LineChild([sys.executable, "-c", code], directory / "child.log")


async def test_a_child_answers_refuses_and_ends(tmp_path: Path) -> None:
    asked = child(tmp_path)
    with pytest.raises(ChildGoneError, match="not there to be asked"):
        await asked.ask({"ask": "early"})
    assert await asked.start() == {"ready": True}
    assert (await asked.ask({"ask": "hello"}))["said"] == "hello"
    with pytest.raises(ValueError, match="not that"):
        await asked.ask({"ask": "refuse"})
    with pytest.raises(ChildGoneError, match="had enough"):
        await asked.ask({"ask": "end"})
    with pytest.raises(ChildGoneError, match="had enough"):
        await asked.ask({"ask": "hello"})
    await asked.close()
    await asked.close()


async def test_a_child_that_does_not_start_says_why(tmp_path: Path) -> None:
    asked = child(tmp_path, "raise SystemExit('no such thing')")
    with pytest.raises(ChildGoneError, match="no such thing"):
        await asked.start()
    await asked.close()


class TableNetwork:
    """Cuts as a table: what the probes of a partition are judged by."""

    features = frozenset({"cut"})

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self._pairs = set(pairs)

    async def cut(self, pairs: Iterable[Pair]) -> None:
        self._pairs = set(pairs)

    async def shape(self, links: Mapping[Pair, Link]) -> None:
        raise NotImplementedError

    async def heal(self) -> None:
        self._pairs = set()

    async def reaches(self, source: str, target: str) -> bool:
        return (source, target) not in self._pairs and (target, source) not in self._pairs


FIVE = ("a", "b", "c", "d", "e")
THREE = ("a", "b", "c")


def both(*pairs: Pair) -> set[Pair]:
    return {one for a, b in pairs for one in ((a, b), (b, a))}


@pytest.mark.req("CH-4")
@pytest.mark.parametrize(
    ("shape", "order", "leader", "cut"),
    [
        ("halves", THREE, "c", both(("a", "b"), ("a", "c"))),
        ("halves", FIVE, "c", both(("a", "c"), ("a", "d"), ("a", "e"), ("b", "c"), ("b", "d"), ("b", "e"))),
        ("leader", THREE, "b", both(("b", "a"), ("b", "c"))),
        ("leader", FIVE, "e", both(("e", "a"), ("e", "b"), ("e", "c"), ("e", "d"))),
        ("bridge", THREE, "a", both(("a", "c"))),
        ("bridge", FIVE, "a", both(("a", "d"), ("a", "e"), ("b", "d"), ("b", "e"))),
        ("ring", THREE, "a", both(("a", "c"))),
        ("ring", FIVE, "a", both(("a", "c"), ("a", "d"), ("b", "d"), ("b", "e"), ("c", "e"))),
        ("leader-deaf", THREE, "b", {("a", "b"), ("c", "b")}),
        ("leader-deaf", FIVE, "a", {("b", "a"), ("c", "a"), ("d", "a"), ("e", "a")}),
        ("leader-mute", THREE, "b", {("b", "a"), ("b", "c")}),
        ("leader-mute", FIVE, "a", {("a", "b"), ("a", "c"), ("a", "d"), ("a", "e")}),
    ],
)
def test_what_each_shape_cuts(shape: str, order: tuple[str, ...], leader: str, cut: set[Pair]) -> None:
    assert pairs_of(shape, order, leader) == cut


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape: 'star', must be one of halves"):
        pairs_of("star", THREE, "a")


@pytest.mark.req("CH-4")
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_cut_that_is_too_small_or_too_large_is_seen(shape: str) -> None:
    wanted = pairs_of(shape, FIVE, "c")
    network = TableNetwork(wanted)
    assert await not_as_cut(network, FIVE, wanted) == ""
    one = min(wanted)
    await network.cut(wanted - both(one))
    assert f"{one[0]} reaches {one[1]}" in await not_as_cut(network, FIVE, wanted)
    kept = min((a, b) for a in FIVE for b in FIVE if a != b and not both((a, b)) & wanted)
    await network.cut(wanted | {kept})
    assert f"{kept[0]} does not reach {kept[1]}" in await not_as_cut(network, FIVE, wanted)
    assert await not_as_cut(network, FIVE, ()) != "", "not healed"
    await network.heal()
    assert await not_as_cut(network, FIVE, ()) == ""


def test_between_takes_both_directions() -> None:
    assert between("a", "bc") == both(("a", "b"), ("a", "c"))


@pytest.mark.parametrize("kind", KINDS)
def test_bad_links_are_drawn_from_the_seed(kind: str) -> None:
    drawn = draw_links(kind, FIVE, random.Random(5))
    assert drawn == draw_links(kind, FIVE, random.Random(5)) != draw_links(kind, FIVE, random.Random(6))
    counts = [len(draw_links(kind, FIVE, random.Random(seed))) for seed in range(200)]
    assert SHARE * 20 - 1 < sum(counts) / len(counts) < SHARE * 20 + 1
    assert all(len(draw_links(kind, ("a", "b"), random.Random(seed))) >= 1 for seed in range(50))
    assert all(link != Link() for link in drawn.values())


@pytest.mark.req("CH-4")
def test_every_nemesis_is_named_and_made_anew() -> None:
    again = make_nemeses()
    assert list(again) == list(NEMESES) and all(again[name] is not NEMESES[name] for name in again)
    known = {"processes", "network", "disks", "clocks", "members"}
    for name, nemesis in NEMESES.items():
        assert nemesis.name == name
        assert nemesis.excludes and nemesis.excludes <= known
        assert nemesis.needs <= {"cut", "links", "shim", "power", "fill"}


def test_a_feature_that_is_missing_has_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert features.why_not("local") == ""
    words = features.why_not("namespaces")
    assert "needs root" in words or "there is no nft" in words
    assert "there is no gcc" in features.probe()["compiler"]
    assert "there is no gcc" in features.host_features()["shim"]
    with pytest.raises(ValueError, match="kind: 'cloud', must be one of local, namespaces, switch"):
        features.why_not("cloud")


def test_a_cluster_that_can_not_be_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nodes: 4, must be one of 3, 5"):
        open_cluster("local", tmp_path, 4, {})
    with pytest.raises(ValueError, match="kind: 'cloud', must be one of local, namespaces, switch"):
        open_cluster("cloud", tmp_path, 3, {})
    with pytest.raises(ValueError, match="hosts: none for n1, n2, n3"):
        open_cluster("local", tmp_path, 3, {})
