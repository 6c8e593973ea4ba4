"""What a node says of where it stands."""

from __future__ import annotations

from dataclasses import replace

from hypercluster.node.standing import SEEN_S, Standing
from hypercluster.values import Index
from tests.fakes.scripted_engine import ScriptedEngine
from tests.fakes.virtual_turns import VirtualTurns


def test_a_report_is_never_older_than_what_was_told_before() -> None:
    """Admission may look at a status that is some milliseconds old; whoever asks for one gets it as of now."""
    turns, engine = VirtualTurns(), ScriptedEngine()
    standing = Standing(engine, turns, str)
    before = standing.status()
    present = replace(engine.status(), applied_index=Index(before.applied_index + 7))
    engine.status = lambda: present  # type: ignore[method-assign]
    assert standing.status() == before
    assert standing.status_now() == present
    engine.status = lambda: replace(present, applied_index=Index(99))  # type: ignore[method-assign]
    turns.pass_time(SEEN_S)
    assert standing.status().applied_index == 99
