"""One run, in its order: found, load, break, heal, settle, observe, judge.

Owns: `run`, the workload processes, the keeping of the schedule, and what makes a run invalid.
Never: knows what a nemesis breaks or a checker looks for.
Invariants: whatever happens, every nemesis that began is healed and every process of the run is ended; a nemesis that
can not prove that it healed, a workload that ends by itself and a node that nobody stopped are a *no*; a run without
enough operations or faults is *unknown*.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chaos.load import LoadEndedError, LoadProcesses, has_success_since, observe
from chaos.records import Fault, Verdict, encode
from chaos.scenarios import RATES, TWO_WORKERS, WORKERS, WORKERS_USUAL, Scenario
from chaos.schedule import Planned, Schedule
from chaos.seams import ClusterUnderTest, LoadPlan, Nemesis
from chaos.waiting import until

WARM_S = 3.0  # of load before the first fault
HEAL_S = 90.0  # for one nemesis to prove that it healed
PROBE_PAUSE_S = 0.5
LIVENESS_S = 45.0  # within which every workload succeeds again once all is healed
HEALTHY_S = 90.0

Tell = Callable[[str], None]


@dataclass(slots=True)
class RunState:
    """What the run itself saw; the checkers see the rest."""

    directory: Path
    faults: list[Fault] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    _lost: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_lost(self) -> bool:
        """A fault could not be begun or healed: the run says no, whatever comes."""
        return self._lost.is_set()

    async def pause(self, seconds: float) -> None:
        """So long, and no longer than until the run is lost: what was still to come shows nothing more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._lost.wait()

    def note(self, nemesis: str, phase: str, words: str) -> None:
        fault = Fault(time.monotonic_ns(), nemesis, phase, words)
        self.faults.append(fault)
        if phase == "broken":
            self._lost.set()
        with (self.directory / "faults.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(encode(fault) + "\n")


class Breaker:
    """Keeps the schedule."""

    def __init__(self, cluster: ClusterUnderTest, nemeses: Mapping[str, Nemesis], state: RunState, tell: Tell) -> None:
        self._cluster = cluster
        self._nemeses = nemeses
        self._state = state
        self._tell = tell
        self._held: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def keep(self, schedule: Schedule, began_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            for planned in schedule.faults:
                group.create_task(self._one(planned, began_s))

    async def _one(self, planned: Planned, began_s: float) -> None:
        nemesis = self._nemeses[planned.nemesis]
        await self._state.pause(began_s + planned.at_s - time.monotonic())
        async with contextlib.AsyncExitStack() as held:
            for kind in sorted(nemesis.excludes):
                await held.enter_async_context(self._held[kind])
            if not self._state.is_lost:
                await self._break_and_heal(nemesis, planned)

    async def _break_and_heal(self, nemesis: Nemesis, planned: Planned) -> None:
        try:
            words = await nemesis.begin(self._cluster, random.Random(planned.seed))
            self._say(nemesis.name, "begin", words)
            await self._state.pause(planned.for_s)
        except Exception as error:  # it is healed like any other, and the run says no
            self._say(nemesis.name, "broken", f"could not begin: {error!r}")
        finally:
            await self._heal(nemesis)

    async def _heal(self, nemesis: Nemesis) -> None:
        wrong = "heal hangs"
        try:
            async with asyncio.timeout(HEAL_S):
                await nemesis.heal(self._cluster)
                while True:
                    wrong = await nemesis.probe(self._cluster)
                    if not wrong:
                        break
                    await asyncio.sleep(PROBE_PAUSE_S)
        except TimeoutError:
            self._say(nemesis.name, "broken", f"not healed within {HEAL_S:.0f} s: {wrong}")
        except Exception as error:
            self._say(nemesis.name, "broken", f"could not heal: {error!r}")
        else:
            self._say(nemesis.name, "healed", "")

    def _say(self, name: str, phase: str, words: str) -> None:
        self._state.note(name, phase, words)
        self._tell(f"{name}: {phase} {words}".rstrip())


async def run(
    scenario: Scenario,
    cluster: ClusterUnderTest,
    nemeses: Mapping[str, Nemesis],
    schedule: Schedule,
    *,
    seed: int,
    duration_s: float,
    tell: Tell,
) -> RunState:
    """Everything up to the checkers; `cluster.directory` becomes the directory of the run."""
    state = RunState(cluster.directory)
    (state.directory / "history").mkdir(exist_ok=True)
    schedule.write(state.directory / "schedule.json")
    (state.directory / "faults.jsonl").touch()
    async with cluster, _load(scenario, cluster, seed) as load:
        tell(f"{len(cluster.nodes)} nodes, {', '.join(scenario.workloads)}; {len(schedule.faults)} faults to come")
        began_s = time.monotonic() + WARM_S
        await asyncio.gather(
            Breaker(cluster, nemeses, state, tell).keep(schedule, began_s),
            _until(began_s + duration_s, load, state, tell),
        )
        state.verdicts += _broken(state)
        state.verdicts.append(await _liveness(scenario, cluster, state, tell))
        state.verdicts += await load.stop()
        state.verdicts += await _observed(cluster, state, tell)
        state.verdicts.append(_nodes(cluster))
    return state


@contextlib.asynccontextmanager
async def _load(scenario: Scenario, cluster: ClusterUnderTest, seed: int) -> AsyncIterator[LoadProcesses]:
    rng = random.Random(f"load {seed}")
    processes = LoadProcesses(cluster)
    try:
        for name in scenario.workloads:
            history = cluster.directory / "history" / f"{name}.jsonl"
            plan = LoadPlan(
                name,
                rng.randrange(1 << 32),
                str(cluster.client_file),
                str(history),
                WORKERS.get(name, WORKERS_USUAL),
                RATES[name],
                other_client_file=str(cluster.other_client_file) if name in TWO_WORKERS else "",
            )
            processes.start(plan)
        yield processes
    finally:
        processes.kill()


async def _until(end_s: float, load: LoadProcesses, state: RunState, tell: Tell) -> None:
    next_words_s = time.monotonic() + 30
    while (now_s := time.monotonic()) < end_s and not state.is_lost:
        try:
            load.check_running()
        except LoadEndedError as error:  # the run is lost: what has begun is healed, and it is judged all the same
            state.note("load", "broken", str(error))
            tell(f"load: broken {error}")
            return
        if now_s >= next_words_s:
            tell(f"{end_s - now_s:.0f} s to go, history {load.history_bytes() / 1e6:.1f} MB")
            next_words_s = now_s + 30
        await state.pause(min(0.5, end_s - now_s))


def _broken(state: RunState) -> list[Verdict]:
    broken = tuple(f"{f.nemesis}: {f.words}" for f in state.faults if f.phase == "broken")
    begun = sum(1 for f in state.faults if f.phase == "begin")
    if broken:
        words = f"{len(broken)} of {begun} faults did not begin or heal, or the load ended by itself"
        return [Verdict("nemeses", "no", words, broken)]
    return [Verdict("nemeses", "yes", f"{begun} faults, each healed and seen to be", counts={"faults": begun})]


async def _liveness(scenario: Scenario, cluster: ClusterUnderTest, state: RunState, tell: Tell) -> Verdict:
    """All is healed: the cluster is whole again, and every workload succeeds again."""
    healed_ns = time.monotonic_ns()
    try:
        await cluster.healthy(HEALTHY_S)
    except TimeoutError as error:
        return Verdict("liveness", "no", f"not whole within {HEALTHY_S:.0f} s after all was healed", (str(error),))
    left = set(scenario.workloads)

    def all_succeed() -> bool:
        left.difference_update(
            [w for w in left if has_success_since(state.directory / "history" / f"{w}.jsonl", healed_ns)]
        )
        return not left

    await until(all_succeed, LIVENESS_S, PROBE_PAUSE_S)
    took_s = (time.monotonic_ns() - healed_ns) / 1e9
    if left:
        return Verdict("liveness", "no", f"no success within {took_s:.0f} s after healing: {', '.join(sorted(left))}")
    tell(f"all workloads succeed again after {took_s:.1f} s")
    return Verdict("liveness", "yes", f"whole, and every workload succeeds, {took_s:.1f} s after the last healing")


async def _observed(cluster: ClusterUnderTest, state: RunState, tell: Tell) -> list[Verdict]:
    tell("reading the final state of every node")
    wrong = await observe(cluster)
    if wrong:
        return [Verdict("observer", "no", "the final state could not be read", (wrong,))]
    return []


def _nodes(cluster: ClusterUnderTest) -> Verdict:
    ended = tuple(cluster.unexpected_exits())
    if ended:
        return Verdict("nodes", "no", f"{len(ended)} nodes ended though nobody ended them", ended)
    return Verdict("nodes", "yes", "no node ended by itself")


def validity(scenario: Scenario, completed: int, faults: int) -> Verdict:
    """Whether there was enough of everything to judge by."""
    counts: Mapping[str, int] = {"completed": completed, "faults": faults}
    if completed < scenario.ops_min or faults < scenario.faults_min:
        words = f"{completed} operations and {faults} faults, at least {scenario.ops_min} and {scenario.faults_min}"
        return Verdict("enough", "unknown", words, counts=counts)
    return Verdict("enough", "yes", f"{completed} operations, {faults} faults", counts=counts)
