"""The demo's checker on short histories that are good, and on one for each way of being bad (CH-6)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from blake3 import blake3

from tests.demo.checker import LogLine, check, hub_keys, read_journals

A = "aa" * 16
COMMAND = b"what was asked"
DIGEST = blake3(COMMAND).hexdigest(16)


def journal(tmp_path: Path, *lines: dict[str, object]) -> Path:
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps({"client": A, "command": DIGEST, **line}) + "\n" for line in lines))
    return path


def file_op(seq: int, outcome: str | None, log_index: int = 0) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = [{"type": "invoke", "seq": seq, "kind": "file"}]
    if outcome:
        lines.append({"type": outcome, "seq": seq, "kind": "file", "log_index": log_index})
    return lines


def hub_op(seq: int, outcome: str, value: str, version: int = 0) -> list[dict[str, object]]:
    hub = {"seq": seq, "kind": "hub", "namespace": "metadata", "key": "k", "value": value}
    return [{"type": "invoke", **hub}, {"type": outcome, "version": version, **hub}]


def log(*seqs: int) -> list[LogLine]:
    return [LogLine(A, seq, index, index, COMMAND) for index, seq in enumerate(seqs, start=1)]


@pytest.mark.req("CH-6")
def test_a_good_history_holds(tmp_path: Path) -> None:
    lines = [*file_op(1, "ok", 1), *file_op(2, "fail"), *file_op(3, "info"), *file_op(4, None), *file_op(5, "ok", 3)]
    commands = read_journals([journal(tmp_path, *lines, *hub_op(6, "ok", "1", 9), *hub_op(7, "info", "2"))])
    report = check(commands, log(1, 3, 5), {("metadata", "k"): [("1", 9)]})
    assert hub_keys(commands) == [("metadata", "k")]
    assert report.holds, report.lines()
    assert (report.commands, report.acknowledged, report.refused, report.unknown) == (7, 3, 1, 3)


@pytest.mark.req("CH-6")
@pytest.mark.parametrize(
    ("lines", "entries", "versions", "found"),
    [
        (file_op(1, "ok", 1) + file_op(2, "ok", 2), (1,), [], "lost"),
        (file_op(1, "ok", 1), (1, 1), [], "twice"),
        (file_op(1, "ok", 1) + file_op(2, "fail"), (1, 2), [], "unasked"),
        (file_op(1, "ok", 1), (1, 9), [], "unasked"),
        (file_op(1, "ok", 7), (1,), [], "disagreeing"),
        (file_op(1, "ok", 1) + hub_op(2, "ok", "v", 5), (1,), [], "lost"),
        (file_op(1, "ok", 1) + hub_op(2, "ok", "v", 5), (1,), [("v", 5), ("v", 6)], "twice"),
        (file_op(1, "ok", 1) + hub_op(2, "ok", "v", 5), (1,), [("v", 6)], "disagreeing"),
        (file_op(1, "ok", 1) + hub_op(2, "fail", "v"), (1,), [("v", 6)], "unasked"),
    ],
)
def test_each_kind_of_bad_history_is_found(
    tmp_path: Path,
    lines: list[dict[str, object]],
    entries: tuple[int, ...],
    versions: list[tuple[str, int]],
    found: str,
) -> None:
    report = check(read_journals([journal(tmp_path, *lines)]), log(*entries), {("metadata", "k"): versions})
    assert not report.holds
    assert getattr(report, found), report.lines()


@pytest.mark.req("CH-6")
def test_a_gap_in_the_log_is_found(tmp_path: Path) -> None:
    commands = read_journals([journal(tmp_path, *file_op(1, "ok", 2))])
    assert check(commands, [LogLine(A, 1, 2, 2, COMMAND)], {}).gaps


@pytest.mark.req("CH-6")
def test_another_command_under_the_same_key_is_found(tmp_path: Path) -> None:
    commands = read_journals([journal(tmp_path, *file_op(1, "ok", 1))])
    assert check(commands, [LogLine(A, 1, 1, 1, b"what was not")], {}).disagreeing


@pytest.mark.req("CH-6")
def test_a_value_that_was_sent_again_under_another_key_is_no_surprise(tmp_path: Path) -> None:
    lines = [*hub_op(1, "fail", "v"), *hub_op(2, "ok", "v", 6)]
    assert check(read_journals([journal(tmp_path, *lines)]), [], {("metadata", "k"): [("v", 6)]}).holds


@pytest.mark.req("CH-5")
def test_a_run_without_a_success_is_not_a_pass(tmp_path: Path) -> None:
    assert not check(read_journals([journal(tmp_path, *file_op(1, "info"))]), [], {}).holds
