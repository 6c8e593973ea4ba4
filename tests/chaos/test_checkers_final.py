"""Checkers over final states: appends, exactly-once, workspaces; good ones accepted, each spoiled one refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.checkers import CHECKERS
from chaos.checkers.tree_model import ROOT, TreeModel
from chaos.records import FAIL, INFO
from tests.chaos.checker_finals import World, hub_key, small_world
from tests.chaos.checker_histories import Book

pytestmark = pytest.mark.req("CH-5", "CH-6")

Final = dict[str, Any]


def outcome(checker: str, world: World, spoil: Callable[[Final], None] | None = None) -> tuple[str, str]:
    final = world.final()
    if spoil is not None:
        spoil(final)
    verdict = CHECKERS[checker].check(world.run(final))
    return verdict.outcome, " | ".join((verdict.words, *verdict.evidence))


@pytest.mark.parametrize("checker", ["append_order", "exactly_once", "workspace", "index_order", "paths"])
def test_a_good_world_is_accepted(checker: str) -> None:
    assert outcome(checker, small_world())[0] == "yes", outcome(checker, small_world())


@pytest.mark.parametrize("checker", ["append_order", "exactly_once", "workspace", "set"])
def test_without_a_final_state_nothing_is_accepted(checker: str) -> None:
    book = Book("set", "s0").note("add", 0, 1, 1) if checker == "set" else small_world().book
    for final in ({}, {"problems": ["it could not be read"]}):
        assert CHECKERS[checker].check(book.run(final)).outcome == "unknown"
    assert CHECKERS[checker].check(Book().run()).outcome == "unknown"


def workspace_of(final: Final) -> Any:
    return final["workspaces"]["w"]


# --- appends --------------------------------------------------------------------------------------


def records(change: Callable[[list[str]], object], size: int | None = None) -> Callable[[Final], None]:
    def spoil(final: Final) -> None:
        there = workspace_of(final)["files"]["append/0"]
        change(there["records"])
        there["size"] = 32 * len(there["records"]) if size is None else size

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (records(lambda r: r.pop()), "lost"),
        (records(lambda r: r.pop(1)), "lost"),
        (records(lambda r: r.append("p:2")), "is there 2 times"),
        (records(lambda r: r.__setitem__(1, "!702020")), "torn or foreign"),
        (records(lambda r: None, size=95), "torn: 95 bytes"),
        (records(lambda r: r.reverse()), "stands after what was asked for later"),
        (records(lambda r: r.insert(0, "x:1")), "nobody appended it"),
        (lambda final: workspace_of(final)["files"].pop("append/0"), "lost"),
    ],
)
def test_append_order_refuses(spoil: Callable[[Final], None], words: str) -> None:
    found, said = outcome("append_order", small_world(), spoil)
    assert found == "no" and words in said, said


def test_unknown_and_failed_appends() -> None:
    happened = small_world().append("append/0", "q:1", kind=INFO, applied=True)
    assert outcome("append_order", happened)[0] == "yes"
    assert outcome("append_order", small_world().append("append/0", "q:1", kind=INFO))[0] == "yes"
    failed = small_world().append("append/0", "q:1", kind=FAIL, applied=True)
    assert outcome("append_order", failed)[0] == "no"
    assert outcome("append_order", small_world().append("append/0", "q:1", kind=FAIL))[0] == "yes"


def test_an_unknown_append_may_stand_anywhere_after_what_was_there_when_it_was_asked_for() -> None:
    def world() -> World:
        return small_world().append("append/0", "q:1", kind=INFO).append("append/0", "p:4")

    assert outcome("append_order", world(), records(lambda r: r.append("q:1")))[0] == "yes"
    found, said = outcome("append_order", world(), records(lambda r: r.insert(1, "q:1")))
    assert found == "no" and "stands after what was asked for later" in said


def test_offsets_and_log_indexes_of_appends() -> None:
    world = small_world()
    event = next(e for e in world.book.events if e.extra.get("applied_offset") == 32)
    at = world.book.events.index(event)
    world.book.events[at] = replace(event, extra={**event.extra, "applied_offset": 64})
    assert "told offset 64, stands at 32" in outcome("append_order", world)[1]
    world.book.events[at] = replace(event, extra={**event.extra, "log_index": 99})
    assert "log_index 99 stands before 10" in outcome("append_order", world)[1]


@pytest.mark.parametrize(
    ("value", "level", "expected"),
    [
        (["p:1", "p:2", "p:3"], "linearizable", "yes"),
        (["p:1", "p:2"], "bounded_stale", "yes"),
        ([], "leader_local", "yes"),
        (["p:1", "p:2"], "linearizable", "no"),
        (["p:1", "p:3"], "bounded_stale", "no"),
        (["p:1", "p:2", "p:3", "p:4"], "linearizable", "no"),
        (["p:1", "!7030"], "leader_local", "no"),
    ],
)
def test_reads_of_appended_files(value: list[str], level: str, expected: str) -> None:
    world = small_world()
    world.book.note("read_file", 5_000, 5_001, None, value, key="append/0", level=level)
    world.at_ms = 6_000
    world.append("append/0", "p:4")
    assert outcome("append_order", world)[0] == expected


@pytest.mark.parametrize("checker", ["append_order", "exactly_once"])
def test_a_workspace_of_others_is_left_alone(checker: str) -> None:
    def with_others(final: Final) -> None:
        others = json.loads(json.dumps(workspace_of(final)))
        others["files"]["append/0"]["records"] = ["z:1"]
        for line in others["log"]:
            line["client_id"] = "dd"
        final["workspaces"]["others"] = others

    assert outcome(checker, small_world(), with_others)[0] == "yes"

    def without_ours(final: Final) -> None:
        with_others(final)
        final["workspaces"].pop("w")

    assert outcome(checker, small_world(), without_ours)[0] == "no"


# --- exactly once ---------------------------------------------------------------------------------


def log(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Final], None]:
    return lambda final: change(workspace_of(final)["log"]) and None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (log(lambda lines: lines.pop(4)), "not in the log"),
        (log(lambda lines: lines.append({**lines[4], "log_index": len(lines) + 1})), "applied 2 times"),
        (log(lambda lines: lines.append({**lines[4], "client_seq": 900})), "nobody asked for"),
        (log(lambda lines: lines[4].update(log_index=77)), "stands at"),
        (log(lambda lines: lines[4].update(raft_index=77)), "stands at"),
        (log(lambda lines: lines[4].update(root="beef")), "told root"),
        (log(lambda lines: lines[4].update(text="p:8")), "with 'p:8'"),
        (log(lambda lines: lines[4].update(op="unlink")), "as unlink"),
        (log(lambda lines: lines[2].update(name="1")), "as '1'"),
    ],
)
def test_exactly_once_refuses_logs(spoil: Callable[[Final], None], words: str) -> None:
    found, said = outcome("exactly_once", small_world(), spoil)
    assert found == "no" and words in said, said


def test_failed_and_unknown_operations_against_the_log() -> None:
    for kind, applied, expected in (
        (FAIL, True, "no"),
        (FAIL, False, "yes"),
        (INFO, True, "yes"),
        (INFO, False, "yes"),
    ):
        world = small_world().append("append/0", "q:1", kind=kind, applied=applied)
        assert outcome("exactly_once", world)[0] == expected, (kind, applied)
    unnamed = small_world().append("append/0", "q:1", kind=INFO, applied=True, keyed=False)
    assert outcome("exactly_once", unnamed)[0] == "yes"
    unnamed.log.append({**unnamed.log[-1], "client_seq": 901})
    assert outcome("exactly_once", unnamed)[0] == "no"


def test_a_key_that_was_turned_away_may_be_used_again_but_never_by_two() -> None:
    world = small_world().append("append/0", "q:1", kind=FAIL, error="NO_QUORUM")
    world.seq -= 1
    world.append("append/0", "q:2")
    assert outcome("exactly_once", world)[0] == "yes"
    world.seq -= 1
    world.append("append/0", "q:3", applied=False)
    found, said = outcome("exactly_once", world)
    assert found == "no" and "one key for two" in said


def registers(there: dict[str, Any] | None) -> tuple[str, str]:
    """Writes 1, 2 and 3, of which 2 is unknown, against what is there."""
    book = Book().write(0, 1, 1, 3, extra={"raft_index": 10})
    book.write(2, 3, 2, kind=INFO).write(4, 5, 3, 7, extra={"raft_index": 12})
    book.write(6, 7, 4, kind=FAIL, error="NO_QUORUM")
    verdict = CHECKERS["exactly_once"].check(book.run({"hub": {"metadata": {"r0-1": there} if there else {}}}))
    return verdict.outcome, verdict.words


def test_versions_of_hub_keys() -> None:
    assert registers(hub_key(1, 2, 3))[0] == "yes"
    not_happened = hub_key(1, 3)
    not_happened["history"][0].update(version=7, raft_index=12)
    assert registers(not_happened)[0] == "yes"
    assert registers(None)[0] == registers(hub_key(1, 2))[0] == "no"
    assert "r0-1: lost" in registers(None)[1]
    assert "2 times" in registers(hub_key(1, 2, 3, 2))[1]
    assert "though it failed" in registers(hub_key(1, 2, 3, 4))[1]
    assert "nobody asked" in registers(hub_key(1, 2, 3, 9))[1]
    assert "told version" in registers(hub_key(1, 2, 3, first=1))[1]
    later = hub_key(1, 2, 3)
    later["history"][0]["raft_index"] = 90
    assert "told Raft index" in registers(later)[1]


def test_versions_that_are_no_longer_kept_are_not_lost() -> None:
    kept = hub_key(1, 2, 3)
    kept["history"].pop()
    assert registers(kept)[0] == "no"
    kept["complete"] = False
    assert registers(kept)[0] == "yes"


def test_counters_against_their_versions() -> None:
    def counted(*values: int) -> str:
        book = Book("counter", "c0").note("increment", 0, 1, None, 1).note("increment", 2, 3, kind=INFO)
        book.note("increment", 4, 5, None, 3)
        return CHECKERS["exactly_once"].check(book.run({"hub": {"metadata": {"c0": hub_key(*values)}}})).outcome

    assert counted(1, 2, 3) == "yes"
    assert counted(1, 2) == counted(1, 2, 3, 4) == counted(1, 2, 3, 3) == "no"


# --- workspaces -----------------------------------------------------------------------------------


def on_n2(change: Callable[[dict[str, Any]], object]) -> Callable[[Final], None]:
    return lambda final: change(workspace_of(final)["tree"]["n2"]) and None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda final: workspace_of(final)["root"].update(n2="beef"), "root beef on n2"),
        (lambda final: final["nodes"]["n2"].update(digest="d2"), "digests differ at index 100"),
        (log(lambda lines: lines.pop(4)), "log_index 6 where 5 should stand"),
        (log(lambda lines: lines[4].update(raft_index=1)), "Raft index 1 after 13"),
        (log(lambda lines: lines[4].update(applied_offset=16)), "an append at 16 to a file of 32 bytes"),
        (log(lambda lines: lines[4].update(text="p:8")), "differs from the log at record 1"),
        (log(lambda lines: lines[8].update(name="0")), "removed though it is not there"),
        (log(lambda lines: lines[2].update(directory="ff")), "which is no directory"),
        (log(lambda lines: lines[7].update(name="append")), "is made though it is there"),
        (log(lambda lines: lines[8].update(op="rmdir")), "as something else than it is"),
        (log(lambda lines: lines[6].update(target_name="1")), "target/1 is not there"),
        (log(lambda lines: lines[8].update(op="rmdir", name="append")), "append is removed with something in it"),
        (log(lambda lines: lines[6].update(target_directory=ROOT, target_name="append")), "which it must not"),
        (log(lambda lines: lines[4].update(inode="ff")), "a write to ff, which is no file"),
        (on_n2(lambda tree: tree.pop("append/0")), "append/0 is not there, the log says that it is"),
        (on_n2(lambda tree: tree.update(gone=dict(tree["append/0"]))), "gone is there"),
        (on_n2(lambda tree: tree["append/0"].update(size=95)), "append/0 has {'size': 95}"),
        (on_n2(lambda tree: tree["append/0"].update(blake3="00")), "append/0 is another on n2 than on n1"),
        (records(lambda r: r.pop(1), size=96), "differs from the log at record 1"),
    ],
)
def test_workspace_refuses(spoil: Callable[[Final], None], words: str) -> None:
    found, said = outcome("workspace", small_world(), spoil)
    assert found == "no" and words in said, said


def test_a_rename_takes_the_place_of_what_was_there() -> None:
    model = TreeModel()
    for number, (name, inode) in enumerate((("a", "01"), ("b", "02")), 1):
        model.apply({"log_index": number, "op": "create", "inode": inode, "directory": ROOT, "name": name})
    there = {"directory": ROOT, "name": "a", "target_directory": ROOT, "target_name": "b"}
    model.apply({"log_index": 3, "op": "rename", "inode": "01", **there})
    assert not model.wrong
    assert {path: inode for path, (inode, _) in model.paths().items()} == {"b": "01"}
    assert (model.nodes["01"].links, model.nodes["02"].links) == (1, 0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda final: final["problems"].append("n2 did not answer"),
        lambda final: final["nodes"]["n2"].pop("digest"),
        lambda final: final["nodes"]["n2"].update(applied_index=99),
        lambda final: workspace_of(final).pop("log"),
        lambda final: workspace_of(final)["root"].pop("n2"),
        lambda final: workspace_of(final)["tree"].pop("n2"),
        lambda final: workspace_of(final).pop("files"),
        lambda final: workspace_of(final)["log"][3].pop("length"),
        lambda final: workspace_of(final)["log"][3].pop("log_index"),
        lambda final: workspace_of(final).update(log={"$file": "final/lacking.json"}),
        lambda final: workspace_of(final).update(log={"$file": "../outside.json"}),
    ],
)
def test_a_workspace_that_was_not_seen_whole_is_unknown(spoil: Callable[[Final], None]) -> None:
    assert outcome("workspace", small_world(), spoil)[0] == "unknown"


def test_parts_of_the_final_state_lie_in_files(tmp_path: Path) -> None:
    world = small_world()
    final = world.final()
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "log.json").write_text(json.dumps(workspace_of(final)["log"]))
    packed = gzip.compress(json.dumps(workspace_of(final)["tree"]["n1"]).encode())
    (tmp_path / "final" / "tree.json.gz").write_bytes(packed)
    workspace_of(final)["log"] = {"$file": "final/log.json"}
    workspace_of(final)["tree"]["n1"] = {"$file": "final/tree.json"}
    run = replace(world.run(final), directory=tmp_path)
    assert CHECKERS["workspace"].check(run).outcome == "yes"
    (tmp_path / "final" / "tree.json.gz").write_bytes(packed[:-20])
    assert CHECKERS["workspace"].check(run).outcome == "unknown"
