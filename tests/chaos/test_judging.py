"""Which checkers judge a run, and what the judgement writes down (CH-6)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chaos.checkers import CHECKERS
from chaos.judging import BROKEN, HELD, UNSURE, exit_status, judge, read_verdicts
from chaos.records import Event, Verdict, encode
from chaos.workloads import WORKLOADS

DIGESTS = {"n1": "aa", "n2": "aa", "n3": "aa"}


def increments(workload: str = "counter") -> list[Event]:
    """A client that adds to a counter and reads it."""
    steps: list[tuple[str, Any, dict[str, Any]]] = [
        ("increment", 1, {"version": 1, "raft_index": 5}),
        ("read", 1, {"version": 1, "raft_index": 5}),
    ]
    events = []
    for number, (op, value, extra) in enumerate(steps):
        at_ns = 1_000_000 * (2 * number + 1)
        events.append(Event(at_ns, "p", "invoke", workload, op, "k", None if op == "read" else value, "linearizable"))
        end = Event(at_ns + 500_000, "p", "ok", workload, op, "k", value, "linearizable", extra=extra)
        events.append(end)
    return events


def judged(directory: Path, events: list[Event], workloads: list[str], digests: dict[str, str]) -> dict[str, str]:
    (directory / "history").mkdir()
    (directory / "history" / "counter.jsonl").write_text("".join(encode(e) + "\n" for e in events), encoding="utf-8")
    (directory / "faults.jsonl").touch()
    nodes = {node: {"applied_index": 9, "digest": digest} for node, digest in digests.items()}
    key = {"value": 1, "version": 1, "complete": True, "history": [{"value": 1, "version": 1, "raft_index": 5}]}
    final = {"workspaces": {}, "hub": {"metadata": {"k": key}}, "nodes": nodes, "problems": []}
    (directory / "final.json").write_text(json.dumps(final), encoding="utf-8")
    told: list[str] = []
    context = {"scenario": "smoke", "workloads": workloads}
    verdicts = judge(directory, context, [], enough=lambda *_: Verdict("enough", "yes", ""), tell=told.append)
    summary, again = read_verdicts(directory)
    assert [(v.checker, v.outcome) for v in again] == [(v.checker, v.outcome) for v in verdicts]
    for name in summary["left_out"]:
        assert any(line.startswith(f"{name}: left out, this run has no ") for line in told)
    assert set(summary["left_out"]) | {v.checker for v in verdicts} == {*CHECKERS, "enough"}
    return {v.checker: v.outcome for v in verdicts}


@pytest.mark.req("CH-6")
def test_a_checker_whose_workload_was_not_to_run_is_left_out(tmp_path: Path) -> None:
    outcomes = judged(tmp_path, increments(), ["counter"], DIGESTS)
    assert not outcomes.keys() & {"register", "set", "paths", "append_order", "levels"}
    assert {"counter", "exactly_once", "workspace", "index_order", "progress", "enough"} == outcomes.keys()
    assert outcomes["workspace"] == "yes", "digests are judged with or without files"
    assert set(outcomes.values()) == {"yes"}, outcomes


@pytest.mark.req("CH-6")
def test_a_workload_that_was_to_run_and_left_nothing_is_no_reason_to_leave_its_checker_out(tmp_path: Path) -> None:
    outcomes = judged(tmp_path, increments(), ["counter", "set"], DIGESTS)
    assert outcomes["set"] == "unknown"
    assert exit_status([Verdict(name, outcome, "") for name, outcome in outcomes.items()]) == UNSURE


@pytest.mark.req("CH-6")
def test_what_ran_is_judged_also_where_nobody_wrote_down_what_was_to_run(tmp_path: Path) -> None:
    outcomes = judged(tmp_path, increments(), [], DIGESTS)
    assert "counter" in outcomes


@pytest.mark.req("CH-6")
def test_digests_that_differ_are_seen_without_files(tmp_path: Path) -> None:
    outcomes = judged(tmp_path, increments(), ["counter"], {**DIGESTS, "n3": "bb"})
    assert outcomes["workspace"] == "no"
    assert exit_status([Verdict("workspace", "no", "")]) == BROKEN


@pytest.mark.req("CH-6")
def test_with_all_workloads_no_checker_is_left_out(tmp_path: Path) -> None:
    outcomes = judged(tmp_path, increments(), sorted(WORKLOADS), DIGESTS)
    assert outcomes.keys() == {*CHECKERS, "enough"}
    assert exit_status([Verdict("enough", "yes", "")]) == HELD
