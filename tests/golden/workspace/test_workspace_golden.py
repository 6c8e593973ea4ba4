"""Recorded runs must play to the same verdicts, roots and records for ever (WS-35, WS-64, OPS-5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.state_machine.store import MemoryStore
from hypercluster.state_machine.workspace import content, leaves, merkle, writing
from hypercluster.state_machine.workspace.transfer import verify_tree
from tests.golden.workspace.scenario import RUN, play
from tests.unit.workspace.site import Mirror, Site

VERSIONS = sorted(found.name for found in Path(__file__).parent.glob("v*") if found.is_dir())


def replay_run(version: str, restart: bool) -> Site:
    site = Site(MemoryStore(), seed=1)
    mirror: Mirror | None = None
    for line in (Path(__file__).parent / version / RUN).read_text().splitlines():
        recorded = json.loads(line)
        commands = [Command.FromString(bytes.fromhex(command)) for command in recorded["commands"]]
        assert play(site, commands) == recorded
        if mirror is None:
            mirror = Mirror(site)
        mirror.follow(site, restart=restart)
        if restart:
            site.restart()
    return site


@pytest.mark.req("WS-35", "WS-64", "OPS-5", "D-4")
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_recorded_run_plays_to_the_same_roots_and_records(version: str, restart: bool) -> None:
    site = replay_run(version, restart)
    checked = verify_tree(site.store, site.workspace_id)
    assert checked is not None
    assert checked.sound


Break = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.req("WS-35")
@pytest.mark.parametrize(
    "broken",
    [
        lambda patch: patch.setattr(leaves, "_LEAF", b"\x03"),
        lambda patch: patch.setattr(merkle, "BUCKET_LEAVES", 8),
        lambda patch: patch.setattr(content, "PAGE_EXTENTS", 32),
        lambda patch: patch.setattr(writing, "COALESCE_EXTENTS", 8),
        lambda patch: patch.setattr(content, "INLINE_EXTENTS", 4),
    ],
    ids=["leaf prefix", "bucket", "page", "coalescing", "records only"],
)
def test_a_changed_rule_does_not_pass(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        replay_run(VERSIONS[0], restart=False)
