"""The demo: three nodes, two workers, a real tree, two leader kills, and a proof that nothing was lost.

    python -m tests.demo.run [--files N] [--seed N] [--known-bad dedupe_off]

Exit status 0 only if everything it shows holds. With --known-bad the nodes are a test build with one safety rule
broken; then the demo must fail, and does.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hypercluster.client.client import Client
from hypercluster.client.import_tree import ImportReport, Progress, import_tree
from hypercluster.client.journal import FileJournal
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.client.worker.state import read_status
from hypercluster.client.worker.worker import state_directory
from hypercluster.client.workspace import Workspace
from hypercluster.client.workspace_check import compare_nodes
from hypercluster.errors import HyperClusterError
from tests.demo import checker
from tests.demo.compare import diff, listing_differences
from tests.demo.source import make_source
from tests.demo.writer import LOST_ANSWERS
from tests.integration.cluster import Cluster, eventually

WORKSPACE = "demo"
LIVE = "live-*"
WRITERS = ("writer-1", "writer-2")
WORKERS = ("worker-1", "worker-2")
DEMO_S = 270  # a cluster that stands still is a failure, too


class Demo:
    def __init__(self, base: Path, cluster: Cluster, seed: int) -> None:
        self.base = base
        self.cluster = cluster
        self.seed = seed
        self.draw = random.Random(seed)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.failures: list[str] = []
        self.started_s = time.monotonic()
        lane = LaneSettings(no_leader_ns=20 * S_NS, deadline_ns=60 * S_NS)
        self.settings = replace(cluster.client_settings(), lane=lane)

    def say(self, words: str) -> None:
        print(f"{time.monotonic() - self.started_s:6.1f} s  {words}", flush=True)

    def show(self, name: str, problems: list[str], good: str = "") -> None:
        """One line of the verdict."""
        if problems:
            self.failures.append(name)
        print(f"  {'✗' if problems else '✓'} {name}{': ' + good if good and not problems else ''}", flush=True)
        for problem in problems[:5]:
            print(f"      {problem}", flush=True)

    # --- processes ----------------------------------------------------------------------------------

    def spawn(self, name: str, *arguments: str) -> None:
        with (self.base / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start_worker(self, name: str) -> None:
        arguments = ("worker", "run", str(self.base / name), "-w", WORKSPACE, "--name", name)
        config = ("--config", str(self.cluster.client_file))
        self.spawn(name, "-m", "hypercluster.cli.main", *arguments, *config)

    def start_writer(self, name: str, seed: int) -> None:
        journal = ("--journal", str(self.base / f"{name}.jsonl"), "--seed", str(seed))
        config = ("--config", str(self.cluster.client_file), "--workspace", WORKSPACE, "--name", name)
        self.spawn(name, "-m", "tests.demo.writer", *config, *journal)

    async def stop(self, name: str, deadline_s: float = 70.0) -> None:
        process = self.processes[name]
        process.terminate()
        await eventually(lambda: process.poll() is not None, f"{name} stops", deadline_s)
        if process.returncode:
            log = (self.base / f"{name}.log").read_text(errors="replace")[-2000:]
            self.show(f"{name} ended well", [f"exit status {process.returncode}", *log.splitlines()[-3:]])

    def kill_all(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()

    async def node_ends(self) -> None:
        """Returns when a node is gone that nobody killed: two of three may be too few for anything to go on."""
        nodes = self.cluster.processes
        while True:
            for name, process in list(nodes.items()):
                if process.poll() not in (None, -signal.SIGKILL):
                    said = self.cluster.log(name).strip().splitlines()[-1:]
                    self.show("no node stops by itself", [f"{name}: exit status {process.returncode}", *said])
                    return
            await asyncio.sleep(0.1)

    async def run_bounded(self, files_max: int) -> None:
        """Until all is shown, a node has ended by itself, or time is up."""
        tasks = asyncio.create_task(self.run(files_max)), asyncio.create_task(self.node_ends())
        try:
            ended, _ = await asyncio.wait(tasks, timeout=DEMO_S, return_when=asyncio.FIRST_COMPLETED)
            if not ended:
                self.show(f"it ends within {DEMO_S} s", ["something waits for what does not come"])
            for task in ended:
                await task
        finally:
            # Without the processes nothing that is cut off here waits for an answer.
            self.kill_all()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=10)

    # --- what happens -------------------------------------------------------------------------------

    async def kill_leader(self) -> float:
        """SIGKILL; then the time until a command that was asked for after it is acknowledged."""
        victim = await self.cluster.leader()
        async with Client(self.settings, name="probe") as probe:
            await probe.hub.get("metadata", b"probe")  # connected to the leader, as any other client
            self.cluster.kill(victim)
            killed_s = time.monotonic()
            while True:
                try:
                    await probe.hub.set("metadata", b"probe", b"1")
                    break
                except HyperClusterError:
                    await asyncio.sleep(0.01)
            took_s = time.monotonic() - killed_s
        self.say(f"killed the leader {victim} with SIGKILL; the next commit came after {took_s:.2f} s")
        self.cluster.start(victim)
        return took_s

    async def run(self, files_max: int) -> None:
        source = self.base / "source"
        count = await asyncio.to_thread(make_source, source, files_max)
        self.say(f"a tree of {count} files to import, with its git history")
        with (self.base / "import.jsonl").open("w", encoding="utf-8") as lines:
            async with Client(self.settings, name="import", journal=FileJournal(lines, "import")) as client:
                workspace = await client.create_workspace(WORKSPACE)
                for name in WORKERS:
                    self.start_worker(name)
                for number, name in enumerate(WRITERS):
                    self.start_writer(name, self.seed * 10 + number)
                report, kills = await self.import_under_fire(workspace, source)
                self.say(
                    f"imported {report.files} files, {report.bytes_total >> 20} MiB, {report.operations} operations"
                    f" in {report.elapsed_s:.1f} s"
                )
                kills.append(await self.kill_leader())
                await asyncio.sleep(3)  # the writers go on for a while
                for name in WRITERS:
                    await self.stop(name)
                self.say("writers stopped")
                await self.verdict(client, workspace, source, report, kills)

    async def import_under_fire(self, workspace: Workspace, source: Path) -> tuple[ImportReport, list[float]]:
        third = asyncio.Event()

        def tell(now: Progress) -> None:
            if now.entries_done * 3 >= now.entries_total:
                third.set()

        importing = asyncio.create_task(import_tree(workspace, str(source), tell))
        await asyncio.wait({importing, asyncio.create_task(third.wait())}, return_when=asyncio.FIRST_COMPLETED)
        kills = [await self.kill_leader()]
        return await importing, kills

    # --- what is shown ------------------------------------------------------------------------------

    async def verdict(
        self, client: Client, workspace: Workspace, source: Path, report: ImportReport, kills: list[float]
    ) -> None:
        final = (await workspace.barrier()).workspace
        self.say(f"the log ends at {final.log_index}, root {final.root.hex()[:16]}…")
        await self.history(workspace, final.log_index)
        print(f"  ✓ time to the next commit after each kill: {', '.join(f'{took:.2f} s' for took in kills)}")
        self.show("every file of the source was imported", [f"{p!r}: {why}" for p, why in report.skipped])
        await self.workers_reach(final.log_index)
        nodes = await compare_nodes(workspace)
        roots = {node.root for node in nodes} | {final.root}
        problems = [f"{n.address}: {n.problem or n.root.hex()}" for n in nodes if n.problem or n.root != final.root]
        self.show("equal roots on three nodes", problems if len(nodes) == 3 else ["not three nodes"])
        for name in WORKERS:
            status = read_status(state_directory(self.base / name)) or {}
            same = bytes.fromhex(str(status.get("root", ""))) in roots
            self.show(f"equal root in {name}", [] if same and len(roots) == 1 else [str(status)])
        for name in WORKERS:
            await self.stop(name)
        for name in WORKERS:
            await asyncio.to_thread(self.same_trees, source, name)
        await asyncio.to_thread(self.mirrors_agree)

    async def history(self, workspace: Workspace, log_index: int) -> None:
        journals = [self.base / f"{name}.jsonl" for name in ("import", *WRITERS)]
        commands = checker.read_journals(journals)
        channel = workspace.client.nodes.channel(workspace.client.nodes.leader)
        log = await checker.fetch_log(channel, workspace.workspace_id)
        versions = await checker.fetch_versions(channel, checker.hub_keys(commands))
        found = checker.check(commands, log, versions)
        for line in found.lines():
            print(f"  {line}", flush=True)
        again = sum(self.lost_answers(name) for name in WRITERS)
        self.show(
            "answers were thrown away on purpose and their commands sent again",
            [] if again else ["none were: applied twice 0 would show nothing"],
            f"{again} commands",
        )
        self.show(
            "nothing acknowledged is lost, nothing is applied twice",
            [] if found.holds and len(log) == log_index else ["see above"],
        )

    def lost_answers(self, name: str) -> int:
        for line in (self.base / f"{name}.log").read_text(errors="replace").splitlines():
            if line.startswith(LOST_ANSWERS):
                return int(line.removeprefix(LOST_ANSWERS))
        return 0

    async def workers_reach(self, log_index: int) -> None:
        def applied(name: str) -> int:
            return int(str((read_status(state_directory(self.base / name)) or {}).get("applied_index", 0)))

        try:
            for name in WORKERS:
                await eventually(lambda name=name: applied(name) >= log_index, f"{name} is there", 90.0)  # type: ignore[misc]
            self.show(f"both workers reached log index {log_index}", [])
        except AssertionError as error:
            states = [str(read_status(state_directory(self.base / name))) for name in WORKERS]
            self.show("both workers reached the end of the log", [str(error), *states])

    def same_trees(self, source: Path, name: str) -> None:
        mirror = self.base / name
        self.show(f"diff -r --no-dereference of source and {name}", diff(source, mirror, LIVE))
        self.show(
            f"modes, sizes, times, link targets, hard links and attributes of source and {name}",
            listing_differences(source, mirror, LIVE),
        )
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(mirror), "fsck", "--full", "--strict"],
            capture_output=True,
            check=False,
        )
        self.show(f"git fsck in {name}", [] if done.returncode == 0 else done.stderr.decode().splitlines() or ["?"])

    def mirrors_agree(self) -> None:
        left, right = (self.base / name for name in WORKERS)
        self.show("both mirrors, live files included", diff(left, right) + listing_differences(left, right))


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5_000, help="at most so many files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--known-bad", choices=["dedupe_off"], default=None)
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="hypercluster-demo-"))
    print(f"seed {args.seed}, in {base}" + (f", known-bad build {args.known_bad}" if args.known_bad else ""))
    module = "tests.known_bad.serve" if args.known_bad else "hypercluster.cli.main"
    arguments = ("--bad", args.known_bad) if args.known_bad else ()
    try:
        async with Cluster(base, 3, module=module, arguments=arguments) as cluster:
            demo = Demo(base, cluster, args.seed)
            demo.say("three nodes with mutual TLS are up")
            await demo.run_bounded(args.files)
            verdict = "everything holds" if not demo.failures else f"{len(demo.failures)} of the above do not hold"
            demo.say(verdict)
            return 1 if demo.failures else 0
    finally:
        if not args.keep:
            shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
