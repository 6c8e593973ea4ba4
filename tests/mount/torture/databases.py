"""SQLite with its dot-file locks, from four processes on two mounts, while leaders and workers are killed (WS-64).

    python -m tests.mount.torture.databases --seconds 120 --seed 1

Holds when PRAGMA integrity_check says ok on every mount, the sum of all accounts is what it was, every acknowledged
transfer is in the database exactly once, and one that failed at most once. A lock whose taker never learned that it had
it is taken away while nobody has the database open, as an administrator would.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

from tests.mount.mounts import within
from tests.mount.torture.fleet import Fleet, Killer, arguments, run

MOUNTS = 2
WRITERS = 4
ACCOUNTS = 50
EACH = 1_000
QUIET_S = 8.0  # without a commit of anybody: the lock may be nobody's
BUSY_MS = 500

Report = tuple[int, list[int], list[int]]  # writer, acknowledged numbers, numbers whose commit failed


@contextlib.contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{path}?vfs=unix-dotfile", uri=True, isolation_level=None, timeout=BUSY_MS / 1e3)
    try:
        yield connection
    finally:
        connection.close()


def prepare(path: Path) -> None:
    with database(path) as db:
        db.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL)")
        db.execute("CREATE TABLE transfers (writer INTEGER, number INTEGER, note TEXT)")
        db.executemany("INSERT INTO accounts VALUES (?, ?)", [(i, EACH) for i in range(ACCOUNTS)])


def transfer(db: sqlite3.Connection, writer: int, number: int, rng: random.Random) -> None:
    giver, taker = rng.sample(range(ACCOUNTS), 2)
    db.execute("UPDATE accounts SET amount = amount - 1 WHERE id = ?", (giver,))
    db.execute("UPDATE accounts SET amount = amount + 1 WHERE id = ?", (taker,))
    note = "x" * rng.randint(10, 3_000)
    db.execute("INSERT INTO transfers VALUES (?, ?, ?)", (writer, number, note))


def work(
    writer: int, path: Path, seed: int, end_s: float, go: EventType, commits: Queue[int], reports: Queue[Report]
) -> None:
    rng = random.Random(seed)
    acknowledged: list[int] = []
    failed: list[int] = []
    number = 0
    while time.monotonic() < end_s:
        go.wait(1.0)
        if not go.is_set():
            continue
        try:
            with database(path) as db:
                while go.is_set() and time.monotonic() < end_s:
                    db.execute("BEGIN IMMEDIATE")
                    number += 1
                    try:
                        transfer(db, writer, number, rng)
                        db.execute("COMMIT")
                    except sqlite3.Error:
                        failed.append(number)
                        raise
                    acknowledged.append(number)
                    commits.put(writer)
                    time.sleep(rng.random() * 0.02)
        except sqlite3.Error:
            time.sleep(0.02)
    reports.put((writer, acknowledged, failed))


def judge(path: Path, reports: list[Report]) -> list[str]:
    problems: list[str] = []
    with database(path) as db:
        said = [row[0] for row in db.execute("PRAGMA integrity_check")]
        if said != ["ok"]:
            problems.append(f"{path}: integrity_check says {said[:5]}")
        total = db.execute("SELECT sum(amount) FROM accounts").fetchone()[0]
        if total != ACCOUNTS * EACH:
            problems.append(f"{path}: the accounts hold {total}")
        for writer, acknowledged, failed in reports:
            rows = db.execute("SELECT number FROM transfers WHERE writer = ? ORDER BY rowid", (writer,)).fetchall()
            there = [row[0] for row in rows]
            if there != sorted(set(there)):
                problems.append(f"{path}: writer {writer}: twice or out of order")
            if set(acknowledged) - set(there):
                problems.append(f"{path}: writer {writer}: lost {sorted(set(acknowledged) - set(there))[:10]}")
            if set(there) - set(acknowledged) - set(failed):
                problems.append(f"{path}: writer {writer}: never written but there")
    return problems


def main() -> None:
    given = arguments(__doc__ or "", kill_every_s=10.0)

    def body(fleet: Fleet, rng: random.Random) -> list[str]:
        paths = [path / "accounts.db" for path in fleet.everywhere("databases")]
        prepare(paths[0])
        for path in paths:
            within(lambda path=path: path.stat().st_size > 0, f"{path} is there")  # type: ignore[misc]
        fleet.settle()
        context = get_context("fork")
        reports: Queue[Report] = context.Queue()
        commits: Queue[int] = context.Queue()
        go = context.Event()
        go.set()
        end_s = time.monotonic() + given.seconds
        writers = [
            context.Process(target=work, args=(w, paths[w % MOUNTS], rng.getrandbits(32), end_s, go, commits, reports))
            for w in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        taken = 0
        with Killer(fleet, rng, given.kill_every_s) as killer:
            heard_s = time.monotonic()
            while time.monotonic() < end_s:
                with contextlib.suppress(Exception):
                    commits.get(timeout=0.5)
                    heard_s = time.monotonic()
                if time.monotonic() - heard_s > QUIET_S:
                    go.clear()
                    time.sleep(3 * BUSY_MS / 1e3)  # every process has closed the database
                    with contextlib.suppress(OSError):
                        (paths[0].parent / "accounts.db.lock").rmdir()
                        taken += 1
                    go.set()
                    heard_s = time.monotonic()
            told = [reports.get(timeout=120) for _ in writers]
        while not commits.empty():
            commits.get()
        for writer in writers:
            writer.join()
        fleet.settle()
        with contextlib.suppress(OSError):
            (paths[0].parent / "accounts.db.lock").rmdir()
        fleet.settle()
        done = sum(len(acknowledged) for _, acknowledged, _ in told)
        unknown = sum(len(failed) for _, _, failed in told)
        print(
            f"{done} transfers acknowledged, {unknown} failed, {taken} locks of nobody taken away; "
            f"{killer.leaders} leaders and {killer.workers} workers killed"
        )
        problems = killer.problems
        for path in paths:
            problems += judge(path, told)
        return problems + ([] if done else ["nothing was transferred"])

    run(given, MOUNTS, body)


if __name__ == "__main__":
    main()
