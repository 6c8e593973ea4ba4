"""The parts of a workload process, without a cluster: plans, the recorder, outcomes, turns, the end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from chaos.records import FAIL, INFO, INVOKE, OK, Event, read
from chaos.seams import LoadPlan
from chaos.workloads import WORKLOADS, running
from chaos.workloads.__main__ import scripts
from chaos.workloads.final import put_final, put_part, read_final
from chaos.workloads.logical import LogicalClient, NotDoneError, kind_of
from chaos.workloads.operations import Answer, Bench, Operation
from chaos.workloads.pace import Deck, Turns
from chaos.workloads.plan import BadPlanError, ObserverPlan, read_load_plan, read_observer_plan, setting, tag_of
from chaos.workloads.recorder import HistoryFullError, Recorder
from chaos.workloads.running import Load
from chaos.workloads.tree import RECORD_BYTES, record_of, records_in
from hypercluster import errors
from hypercluster.client.answers import raise_unless_ok
from hypercluster.pb.v1 import command_pb2
from tests.chaos.workload_histories import check_history
from tests.integration.cluster import eventually, free_ports

GOOD = {"workload": "register", "seed": 7, "client_file": "client.toml", "history_file": "h.jsonl"}
SOON = {"settings": {"read_deadline_ms": 200}}


# --- plans ------------------------------------------------------------------------------------------


def test_a_plan_is_read_as_it_was_written() -> None:
    plan = LoadPlan("set", 7, "client.toml", "h.jsonl", 8, 100.5, {"keys": 2})
    assert read_load_plan(json.dumps(asdict(plan))) == plan
    assert read_load_plan(json.dumps(GOOD)).workers == LoadPlan("", 0, "", "").workers
    observer = ObserverPlan("client.toml", "run", ("n1",), 5, 1.5, "files-", "r")
    assert read_observer_plan(observer.to_json()) == observer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workload": "nonsense"}, "workload is 'nonsense', must be one of register"),
        ({"workers": 0}, "workers is 0, must be 1 to 64"),
        ({"workers": 65}, "workers is 65, must be 1 to 64"),
        ({"workers": "4"}, "workers is '4', must be int"),
        ({"workers": True}, "workers is True, must be int"),
        ({"ops_per_s": 0}, "ops_per_s is 0, must be"),
        ({"seed": -1}, "seed is -1"),
        ({"colour": "red"}, "colour: no such field; there are workload, seed"),
        ({"settings": []}, "settings is"),
    ],
)
def test_a_bad_plan_names_the_field_and_the_limit(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadPlanError, match=re.escape(words)):
        read_load_plan(json.dumps({**GOOD, **change}))


def test_more_bad_plans() -> None:
    for text, words in (("{", "must be JSON"), ("[]", "a JSON object"), ("{}", "workload is missing")):
        with pytest.raises(BadPlanError, match=words):
            read_load_plan(text)
    with pytest.raises(BadPlanError, match="PLAN_BYTES_MAX"):
        read_load_plan(" " * 70_000)
    with pytest.raises(BadPlanError, match="nodes is 65, must be 0 to 64"):
        read_observer_plan(ObserverPlan("c", "o", ["n"] * 65).to_json())
    with pytest.raises(BadPlanError, match="directory is missing"):
        read_observer_plan('{"client_file": "c"}')
    with pytest.raises(BadPlanError, match=r"settings\.keys is 101, must be 1 to 100"):
        setting(LoadPlan("register", 1, "", "", settings={"keys": 101}), "keys", 4, 1, 100)


def test_seeds_have_short_names() -> None:
    assert [tag_of(seed) for seed in (0, 7, 999_999)] == ["0", "7", "999999"]
    tags = {tag_of(seed) for seed in range(10**6, 10**6 + 1_000)}
    assert len(tags) == 1_000 and {len(tag) for tag in tags} == {6}


def test_every_named_workload_has_a_script_and_every_record_has_room() -> None:
    assert scripts().keys() == WORKLOADS.keys()
    assert all(WORKLOADS[name].name == name and WORKLOADS[name].ops for name in WORKLOADS)
    longest = f"files-{tag_of(2**64 - 1)}-w63.9999:9999999"
    assert records_in(record_of(longest)) == [longest]
    with pytest.raises(ValueError, match="longer than 31 bytes"):
        record_of("x" * RECORD_BYTES)


def test_what_is_no_record_is_not_taken_for_one() -> None:
    whole = record_of("files-7-w0.1:1")
    assert records_in(whole + whole[:7]) == ["files-7-w0.1:1", "!" + whole[:7].hex()]
    assert records_in(whole[:16] + whole[:16]) == ["!" + (whole[:16] * 2).hex()]
    assert records_in(bytes(32)) == ["!" + "00" * 32]
    assert records_in(b"") == []


# --- the recorder -------------------------------------------------------------------------------------


@pytest.mark.req("CH-5")
def test_an_event_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    with Recorder(path, "register") as recorder:
        recorder.invoke("p.1", "read", "k", None, "linearizable", {"min_index": 3})
        (invoke,) = read(Event, path)
        recorder.end("p.1", OK, 0, extra={"version": 1})
        _, end = read(Event, path)
    assert (invoke.kind, invoke.level, invoke.extra) == (INVOKE, "linearizable", {"min_index": 3})
    assert (end.kind, end.value, end.op, end.key, end.level) == (OK, 0, "read", "k", "linearizable")
    assert invoke.at_ns <= end.at_ns <= time.monotonic_ns()


@pytest.mark.req("CH-5")
@pytest.mark.parametrize("value", ["", [], {}, 0, None, False])
def test_an_empty_value_is_not_no_value(tmp_path: Path, value: object) -> None:
    with Recorder(tmp_path / "h.jsonl", "files") as recorder:
        recorder.invoke("p.1", "read_file", "k", value)
    (event,) = read(Event, tmp_path / "h.jsonl")
    assert event.value == value and type(event.value) is type(value)


@pytest.mark.req("CH-5")
def test_the_recorder_refuses_what_a_history_must_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recorder(tmp_path / "h.jsonl", "register") as recorder:
        recorder.invoke("p.1", "write", "k", 1)
        with pytest.raises(HistoryFullError, match="has not ended"):
            recorder.invoke("p.1", "write", "k", 2)
        with pytest.raises(HistoryFullError, match="did not begin"):
            recorder.end("p.2", OK)
        recorder.end("p.1", INFO, error="UNKNOWN")
        with pytest.raises(HistoryFullError, match="is gone"):
            recorder.invoke("p.1", "write", "k", 2)
        recorder.invoke("p.2", "write", "k", 2)
        with pytest.raises(HistoryFullError, match="LINE_BYTES_MAX"):
            recorder.end("p.2", OK, "x" * (1 << 20))
        monkeypatch.setattr("chaos.workloads.recorder.HISTORY_BYTES_MAX", 10)
        with pytest.raises(HistoryFullError, match="limit is 10"):
            recorder.end("p.2", OK)
    with pytest.raises(FileExistsError):
        Recorder(tmp_path / "h.jsonl", "register")


def all_errors(root: type[errors.HyperClusterError] = errors.HyperClusterError) -> Iterator[errors.HyperClusterError]:
    made = {
        errors.RateLimitedError: lambda: errors.RateLimitedError("words", 5),
    }
    if issubclass(root, errors.RefusedError):
        yield root("FENCED", "words")
    else:
        yield made.get(root, lambda: root("words"))()
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from all_errors(child)


@pytest.mark.req("CH-5", "D-8")
def test_fail_is_said_only_of_what_certainly_did_not_happen() -> None:
    found = list(all_errors())
    assert len(found) > 20
    for error in found:
        kind, code = kind_of(error)
        assert kind == (FAIL if error.outcome is errors.Outcome.DEFINITELY_NOT else INFO)
        assert code == error.reason
    assert kind_of(errors.DeadlineError("words")) == (INFO, "DEADLINE")
    assert kind_of(errors.RefusedError("ERRNO", "words", errno=17)) == (FAIL, "EEXIST")
    assert kind_of(errors.RefusedError("PRECONDITION_FAILED", "words", errno=16)) == (FAIL, "PRECONDITION_FAILED")
    assert kind_of(NotDoneError("CONTENDED")) == (FAIL, "CONTENDED")


# --- turns and decks ------------------------------------------------------------------------------------


async def test_workers_take_turns_together_and_leave_out_what_they_missed() -> None:
    stop = asyncio.Event()
    turns = Turns(2_000.0, 4, stop)  # a turn in 2 ms
    rngs = [random.Random(number) for number in range(4)]

    async def worker(rng: random.Random) -> list[int]:
        seen, last = [], -1
        while len(seen) < 10:
            turn = await turns.after(last, rng)
            assert turn is not None and turn > last
            seen.append(last := turn)
        return seen

    taken = Counter(turn for seen in await asyncio.gather(*map(worker, rngs)) for turn in seen)
    assert max(taken.values()) > 1, "no two workers took the same turn"
    began_s = time.monotonic()
    await eventually(lambda: time.monotonic() > began_s + 0.05, "some turns pass")
    assert (await turns.after(0, rngs[0]) or 0) > 20  # those in between are left out
    stop.set()
    assert await turns.after(10**9, rngs[0]) is None


def test_a_deck_gives_every_card_before_it_is_shuffled() -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    deck = Deck({"a": 3, "b": 1}, random.Random(seed))
    for _ in range(20):
        assert Counter(deck.draw() for _ in range(4)) == {"a": 3, "b": 1}


# --- the running of a script ----------------------------------------------------------------------------


class Scripted:
    """Each operation does what `run` says. Nobody is connected to anything."""

    def __init__(self, run: Callable[[LogicalClient], Awaitable[Answer]]) -> None:
        self._run = run

    async def prepare(self, bench: Bench) -> None:
        pass

    async def draw(self, who: LogicalClient, turn: int) -> Operation | None:
        return Operation("write", "k", self._run, turn)


def load_of(
    directory: Path, run: Callable[[LogicalClient], Awaitable[Answer]], workers: int = 1
) -> tuple[Load, Recorder, Path]:
    (directory / "client.toml").write_text(f'nodes = ["127.0.0.1:{free_ports(1)[0]}"]\n')
    plan = LoadPlan("register", 7, str(directory / "client.toml"), "", workers, 500.0 * workers, {"no_leader_ms": 200})
    path = directory / "h.jsonl"
    recorder = Recorder(path, plan.workload)
    return Load(plan, Scripted(run), recorder, asyncio.Event()), recorder, path


@pytest.mark.req("CH-5")
async def test_after_an_unknown_outcome_nothing_of_a_logical_client_is_used_again(tmp_path: Path) -> None:
    clients: dict[str, int] = {}
    rng = random.Random(3)

    async def sometimes(who: LogicalClient) -> Answer:
        assert clients.setdefault(who.name, id(who.client)) == id(who.client)
        seen.append(who)
        match rng.randrange(4):
            case 0:
                raise errors.OutcomeUnknownError("words")
            case 1:
                raise errors.NoQuorumError("words")
        return Answer(1, {"raft_index": len(seen)})

    seen: list[LogicalClient] = []  # keeps them, so that no id comes twice
    load, recorder, path = load_of(tmp_path, sometimes, workers=3)
    with recorder:
        running_load = asyncio.create_task(load.run())
        await eventually(lambda: len(clients) > 12, "clients are replaced")
        load.stop.set()
        await running_load
    assert len(set(clients.values())) == len(clients)
    events = list(read(Event, path))
    check_history(events)
    kinds = Counter(event.kind for event in events)
    assert min(kinds[kind] for kind in (OK, FAIL, INFO)) > 0
    assert {event.process for event in events if event.process.startswith("register-7-w1.")} >= {
        f"register-7-w1.{number}" for number in (1, 2, 3)
    }


@pytest.mark.req("CH-5")
async def test_what_is_open_at_the_end_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STOP_GRACE_S", 0.05)

    async def for_ever(who: LogicalClient) -> Answer:
        await asyncio.Event().wait()
        return Answer()

    load, recorder, path = load_of(tmp_path, for_ever, workers=2)
    with recorder:
        running_load = asyncio.create_task(load.run())
        await eventually(lambda: len(list(read(Event, path))) == 2, "both have begun")
        load.stop.set()
        await running_load
    ends = [(event.kind, event.error) for event in read(Event, path)][2:]
    assert ends == [(INFO, "STOPPED")] * 2


@pytest.mark.req("CH-5")
async def test_an_operation_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "OPERATION_S_MAX", 0.02)

    async def for_ever(who: LogicalClient) -> Answer:
        await asyncio.Event().wait()
        return Answer()

    load, recorder, path = load_of(tmp_path, for_ever)
    with recorder:
        running_load = asyncio.create_task(load.run())
        await eventually(lambda: any(e.process.endswith("w0.3") for e in read(Event, path)), "the third client")
        load.stop.set()
        await running_load
    events = list(read(Event, path))
    check_history(events)
    assert {(event.kind, event.error) for event in events} == {(INVOKE, ""), (INFO, "TIMEOUT")}


@pytest.mark.req("CH-5")
async def test_a_defect_of_the_harness_ends_it_and_leaves_no_operation_open(tmp_path: Path) -> None:
    async def broken(who: LogicalClient) -> Answer:
        raise ZeroDivisionError("a defect")

    load, recorder, path = load_of(tmp_path, broken)
    with recorder, pytest.raises(ExceptionGroup) as found:
        await load.run()
    assert found.group_contains(ZeroDivisionError)
    assert [(event.kind, event.error) for event in read(Event, path)] == [(INVOKE, ""), (INFO, "DEFECT")]


# --- the key of a command ---------------------------------------------------------------------------------


@pytest.mark.req("CH-5", "CL-11")
async def test_without_a_cluster_an_operation_fails_and_names_its_key(tmp_path: Path) -> None:
    command = command_pb2.Command().SerializeToString()

    async def submit(who: LogicalClient) -> Answer:
        raise_unless_ok(await who.client.lane().submit(command), "do")
        return Answer()

    load, recorder, path = load_of(tmp_path, submit)
    with recorder:
        running_load = asyncio.create_task(load.run())
        await eventually(lambda: any(e.kind == FAIL for e in read(Event, path)), "an operation is given up")
        load.stop.set()
        await running_load
    end = next(event for event in read(Event, path) if event.kind == FAIL)
    assert end.error == "NO_QUORUM"
    assert len(end.extra["client_id"]) == 32 and end.extra["client_seq"] == 1


# --- the command line -------------------------------------------------------------------------------------


def run_process(plan: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "chaos.workloads", plan], stderr=subprocess.PIPE, text=True)


def test_exit_statuses(tmp_path: Path) -> None:
    with run_process("{") as bad:
        assert bad.wait(30) == 2
        assert bad.stderr is not None and bad.stderr.read().startswith("plan: a plan must be JSON")
    (tmp_path / "client.toml").write_text(f'nodes = ["127.0.0.1:{free_ports(1)[0]}"]\n')
    plan = {**GOOD, "client_file": str(tmp_path / "client.toml"), "history_file": str(tmp_path / "h.jsonl"), **SOON}
    with run_process(json.dumps(plan)) as waiting:
        end_s = time.monotonic() + 30
        while not (tmp_path / "h.jsonl").exists():
            assert time.monotonic() < end_s and waiting.poll() is None
            time.sleep(0.01)
        began_s = time.monotonic()
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(30) == 0
        assert time.monotonic() - began_s < 10
    with run_process(json.dumps(plan)) as again:
        assert again.wait(30) == 1
        assert again.stderr is not None and "FileExistsError" in again.stderr.read()


def test_a_load_ends_with_its_runner(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text(f'nodes = ["127.0.0.1:{free_ports(1)[0]}"]\n')
    history = tmp_path / "h.jsonl"
    plan = {**GOOD, "client_file": str(tmp_path / "client.toml"), "history_file": str(history), **SOON}
    runner = (
        "import pathlib, subprocess, sys, time\n"
        "load = subprocess.Popen([sys.executable, '-m', 'chaos.workloads', sys.argv[1]], stdout=subprocess.DEVNULL)\n"
        "while not pathlib.Path(sys.argv[2]).exists() and load.poll() is None: time.sleep(0.01)\n"
        "print(load.pid)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", runner, json.dumps(plan), str(history)], stdout=subprocess.PIPE, timeout=30, check=True
    )
    # A pidfd becomes readable when the process ends; nobody here is its parent.
    pidfd = os.pidfd_open(int(ended.stdout))
    try:
        ready, _, _ = select.select([pidfd], [], [], 10)
        if not ready:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    assert ready, "it goes on without its runner"


# --- the final state as files -----------------------------------------------------------------------------


def test_parts_are_read_back_in_their_places(tmp_path: Path) -> None:
    log = put_part(tmp_path, "log-a", [{"path": "\udcff"}])
    put_final(tmp_path, {"workspaces": {"a": {"log": log, "root": {"n1": "00"}}}, "problems": []})
    whole = {"workspaces": {"a": {"log": [{"path": "\udcff"}], "root": {"n1": "00"}}}, "problems": []}
    assert read_final(tmp_path) == whole
    put_final(tmp_path, {"log": {"$file": "../elsewhere.json"}})
    with pytest.raises(ValueError, match="lies outside"):
        read_final(tmp_path)
