"""Histories in the words of other checkers, parsed back and judged again."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from chaos.checkers.linear import Bound, search
from chaos.checkers.models import Register
from chaos.checkers.operations import Operation, join
from chaos.export import FORMATS, edn, export, to_text
from chaos.history import EXPECTED, events_of, keep, read_run
from chaos.records import FAIL, INFO, INVOKE, BadRecordError, Event, encode
from tests.chaos.checker_finals import small_world
from tests.chaos.checker_histories import Book, draw_register

pytestmark = pytest.mark.req("CH-6")

TOKEN = re.compile(r'[\s,]*([\[\]{}]|"(?:\\.|[^"\\])*"|[^\s,\[\]{}]+)')


def parse_edn(text: str) -> Any:
    """The part of EDN that is written here: maps, vectors, strings, keywords, integers, nil, booleans."""
    tokens = TOKEN.findall(text)

    def value(at: int) -> tuple[Any, int]:
        token = tokens[at]
        if token in "[{":
            items, at = [], at + 1
            while tokens[at] not in "]}":
                item, at = value(at)
                items.append(item)
            closed = list(items) if token == "[" else dict(zip(items[::2], items[1::2], strict=True))
            return closed, at + 1
        plain = {"nil": None, "true": True, "false": False}
        if token in plain:
            return plain[token], at + 1
        return (token if token.startswith(":") else json.loads(token)), at + 1

    found, end = value(0)
    assert end == len(tokens), text
    return found


def test_edn_of_every_value() -> None:
    for value in (None, 1, -7, True, 'a "b" \\ c\n', "é", [1, [2, None]], {"a": [1], "b": {}}, "", []):
        assert parse_edn(edn(value)) == value


def test_knossos_takes_one_line_an_event() -> None:
    book = Book().write(1, 2, 5, 3).cas(3, 4, 3, 6, 4).read(5, 6, 6, 4, level="linearizable")
    book.cas(7, 8, 3, 9, kind=FAIL, error="PRECONDITION_FAILED").write(9, 10, 7, kind=INFO, error="DEADLINE")
    book.read(11, 12, 6, 4, level="bounded_stale")
    lines = [parse_edn(line) for line in to_text(book.sorted(), "edn").splitlines()]
    assert [line[":time"] for line in lines] == [n * 1_000_000 for n in range(1, 10)]
    assert [(line[":process"], line[":type"], line[":f"], line[":value"]) for line in lines] == [
        (0, ":invoke", ":write", 5),
        (0, ":ok", ":write", 5),
        (1, ":invoke", ":cas", [5, 6]),
        (1, ":ok", ":cas", [5, 6]),
        (2, ":invoke", ":read", None),
        (2, ":ok", ":read", 6),
        (3, ":invoke", ":cas", [5, 9]),
        (3, ":fail", ":cas", [5, 9]),
        (4, ":invoke", ":write", 7),
    ]
    assert lines[7][":error"] == "PRECONDITION_FAILED" and lines[7][":key"] == "r0-1" and lines[7][":version"] == 3


def test_porcupine_takes_one_line_an_operation() -> None:
    book = Book().write(1, 2, 5, 3).read(5, 6, 5, 3, level="linearizable").write(9, 10, 7, kind=INFO, error="DEADLINE")
    lines = [json.loads(line) for line in to_text(book.sorted(), "porcupine").splitlines()]
    assert lines[1] == {
        "client": 1,
        "call": 5_000_000,
        "return": 6_000_000,
        "input": {"workload": "register", "op": "read", "key": "r0-1", "value": None},
        "output": {"outcome": "ok", "value": 5, "version": 3},
    }
    assert lines[2]["return"] is None and lines[2]["output"]["outcome"] == "info"


@pytest.mark.parametrize("to", sorted(FORMATS))
def test_what_is_read_back_gets_the_same_verdict(to: str) -> None:
    """Drawn histories; every other one with a stale read."""
    outcomes = set()
    for seed in range(40):
        events = draw_register(random.Random(f"export {seed}"), 40, 4, versions=False)
        if seed % 2:
            reads = [n for n, e in enumerate(events) if e.op == "read" and e.kind == "ok"]
            changed = events[reads[-1]]
            events[reads[-1]] = Event(**{**_fields(changed), "value": -1})
        before = _judge(join(events))
        assert _judge(_read_back(to_text(events, to), to)) == before, f"seed {seed}"
        outcomes.add(before)
    assert outcomes == {"yes", "no"}


def _fields(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in Event.__dataclass_fields__}


def _judge(operations: list[Operation]) -> str:
    return search(Register(), operations, Bound(time.monotonic() + 20)).outcome


def _read_back(text: str, to: str) -> list[Operation]:
    if to == "edn":
        return join(
            Event(
                line[":time"],
                str(line[":process"]),
                line[":type"][1:],
                line[":workload"][1:],
                line[":f"][1:],
                line[":key"],
                line[":value"],
            )
            for line in map(parse_edn, text.splitlines())
        )
    events: list[Event] = []
    for line in map(json.loads, text.splitlines()):
        asked, came = line["input"], line["output"]
        who = (str(line["client"]),)
        what = (asked["workload"], asked["op"], asked["key"])
        events.append(Event(line["call"], *who, INVOKE, *what, asked["value"]))
        if line["return"] is not None:
            events.append(Event(line["return"], *who, came["outcome"], *what, came["value"]))
    return join(sorted(events, key=lambda event: (event.at_ns, event.kind != INVOKE)))


def written(directory: Path) -> Path:
    """A run as it lies on disk, with a part of its final state beside it."""
    world = small_world()
    final = world.final()
    for name in ("history", "final"):
        (directory / name).mkdir(parents=True)
    lines = [encode(event) + "\n" for event in world.book.sorted()]
    (directory / "history" / "files.jsonl").write_text("".join(lines) + '{"at_ns":1,"proc')
    (directory / "final" / "log.json").write_text(json.dumps(final["workspaces"]["w"]["log"]))
    final["workspaces"]["w"]["log"] = {"$file": "final/log.json"}
    (directory / "final.json").write_text(json.dumps(final))
    verdicts = [{"checker": "workspace", "outcome": "yes"}, {"checker": "liveness", "outcome": "yes"}]
    (directory / "run.json").write_text(json.dumps({"verdicts": verdicts}))
    return directory


def test_a_run_is_read_back_packed_or_not(tmp_path: Path) -> None:
    plain = written(tmp_path / "run")
    size = keep(plain, tmp_path / "kept")
    assert 0 < size < 10_000
    kept = read_run(tmp_path / "kept")
    assert kept.events == read_run(plain).events == small_world().book.sorted()
    assert kept.final == read_run(plain).final != {}
    assert export(plain, "edn") == export(tmp_path / "kept", "edn") != ""
    expected = json.loads((tmp_path / "kept" / EXPECTED).read_text())
    assert expected["verdicts"] == {"workspace": "yes", "liveness": "yes"}
    keep(plain, tmp_path / "again")
    for path in (tmp_path / "kept").rglob("*.gz"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "kept")).read_bytes()


def test_what_is_no_finished_run_is_not_kept(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    (run / "run.json").unlink()
    with pytest.raises(ValueError, match="no run, or one that did not end"):
        keep(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_bad_line_of_a_packed_history_is_named(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    history = run / "history" / "files.jsonl"
    history.write_text(history.read_text().replace('"kind":"ok"', '"kind":"maybe"', 1))
    keep(run, tmp_path / "kept")
    with pytest.raises(BadRecordError, match=r"files.jsonl.gz:\d+: kind is 'maybe'"):
        events_of(tmp_path / "kept")
