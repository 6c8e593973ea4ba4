"""The one form of histories, faults and verdicts, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos.judging import BROKEN, HELD, UNSURE, exit_status
from chaos.records import LINE_BYTES_MAX, BadRecordError, Event, Fault, Verdict, decode, encode, read, read_history
from chaos.report import figures, write_page

EVENT = Event(12, "w1", "ok", "register", "read", "r1", 7, "linearizable", "", {"version": 3})


@pytest.mark.req("CH-5")
@pytest.mark.parametrize(
    "record",
    [
        EVENT,
        Event(1, "w1", "invoke", "set", "add", value=0),
        Event(2, "w1", "info", "set", "add", error="OUTCOME_UNKNOWN"),
        Fault(5, "kill-one", "begin", "n1", ("n1", "n2")),
    ],
)
def test_a_record_is_read_as_it_was_written(record: Event | Fault) -> None:
    assert decode(type(record), encode(record)) == record


@pytest.mark.req("CH-5")
@pytest.mark.parametrize(
    "line",
    ["", "7", "{", '{"at_ns":1}', encode(EVENT).replace('"ok"', '"maybe"'), encode(EVENT)[:-1] + ',"more":1}'],
)
def test_a_line_that_is_no_event_is_an_error_with_its_place(line: str) -> None:
    with pytest.raises(BadRecordError, match="h:3"):
        decode(Event, line, "h:3")


def test_a_line_has_a_bound() -> None:
    with pytest.raises(BadRecordError, match="LINE_BYTES_MAX"):
        decode(Event, " " * (LINE_BYTES_MAX + 1))


@pytest.mark.req("CH-5")
def test_streams_are_merged_by_time_and_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{encode(Event(3, 'a', 'invoke', 'w', 'x'))}\n")
    (tmp_path / "b.jsonl").write_text(
        f"{encode(Event(1, 'b', 'invoke', 'w', 'x'))}\n{encode(Event(9, 'b', 'ok', 'w', 'x'))}\n" + '{"at_ns":10,'
    )
    assert [e.at_ns for e in read_history(tmp_path)] == [1, 3, 9]
    assert len(list(read(Event, tmp_path / "b.jsonl"))) == 2


def test_one_no_is_a_no_and_one_unknown_is_no_pass() -> None:
    yes, no, unknown = (Verdict("c", outcome, "") for outcome in ("yes", "no", "unknown"))
    assert exit_status([yes, yes]) == HELD
    assert exit_status([yes, unknown]) == UNSURE
    assert exit_status([unknown, no, yes]) == BROKEN
    assert exit_status([]) == UNSURE


@pytest.mark.req("CH-9")
def test_a_page_shows_operations_faults_verdicts_and_logs(tmp_path: Path) -> None:
    second = 1_000_000_000
    events = [
        Event(0, "a", "invoke", "register", "write", "r", 1),
        Event(second // 2, "a", "ok", "register", "write", "r", 1),
        Event(second, "a", "invoke", "register", "write", "r", 2),
        Event(3 * second, "a", "info", "register", "write", "r", 2, error="OUTCOME_UNKNOWN"),
    ]
    faults = [Fault(second, "kill-one", "begin", "n1 <b>"), Fault(2 * second, "kill-one", "healed", "")]
    verdicts = [Verdict("linear", "no", "key r", ("read 3 & 4",)), Verdict("set", "yes", "all there")]
    found = figures(events)
    assert (found.completed, found.unknown, found.seconds) == (1, 1, 4)
    assert found.latencies_ms[0] == [500.0]
    (tmp_path / "nodes" / "n1").mkdir(parents=True)
    (tmp_path / "nodes" / "n1" / "log").write_text("")
    page = write_page(tmp_path, {"scenario": "s", "seed": 4}, found, faults, verdicts).read_text()
    for words in ("read 3 &amp; 4", "kill-one", "n1 &lt;b&gt;", "class=no", "nodes/n1/log", "<td>write<td>1<td>0<td>1"):
        assert words in page
    assert json.dumps("s") not in page or (tmp_path / "timeline.svg").exists()
