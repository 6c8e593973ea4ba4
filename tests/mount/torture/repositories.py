"""git torture: one repository of 500 commits, worked on from two mounts, while leaders and workers are killed (WS-64).

    python -m tests.mount.torture.repositories --seconds 300 --seed 1

The two mounts share objects, refs and packs, and each has a worktree of its own: they edit, add, commit, check out,
branch, look at status and collect garbage at random. Holds when `git fsck --full` finds nothing on either mount, every
acknowledged commit is in the history of its branch, both mounts show the same refs, and no command failed at a time at
which nothing had been killed. Locks that a failed command left behind are taken away, as a person would.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.mount.torture.fleet import Fleet, Killer, arguments, run

MOUNTS = 2
COMMITS = 500
FILES = 40
STALE_S = 40.0  # a lock in the shared part that is older belongs to nobody: a call ends within 30 s
AFTERMATH_S = 40.0  # for so long after a kill a command may fail
COMMAND_S = 600.0
CONTENTION = ("File exists", "cannot lock ref", "Unable to create", "gc is already running", "reference already exists")
IDENTITY = {
    "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_TERMINAL_PROMPT": "0",
}  # fmt: skip


def git(place: Path, *arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", *arguments],
        cwd=place,
        env={**os.environ, **IDENTITY},
        input=given,
        capture_output=True,
        check=False,
        timeout=COMMAND_S,
    )


def history(rng: random.Random) -> bytes:
    """A stream for git fast-import."""
    parts: list[str] = []
    for number in range(COMMITS):
        text = "".join(f"{rng.getrandbits(64):x}\n" for _ in range(rng.randint(1, 60)))
        name = f"dir{number % 7}/file{rng.randrange(FILES)}"
        parts.append(
            f"commit refs/heads/main\ncommitter t <t@example.org> {1_700_000_000 + number} +0000\n"
            f"data {len(str(number))}\n{number}\n"
            f"M 100644 inline {name}\ndata {len(text)}\n{text}\n"
        )
    return "".join(parts).encode()


def make_repository(repository: Path, rng: random.Random) -> None:
    repository.mkdir()
    for command in (["init", "-q", "-b", "main"], ["config", "gc.auto", "0"], ["config", "core.checkStat", "default"]):
        assert git(repository, *command).returncode == 0
    imported = git(repository, "fast-import", "--quiet", given=history(rng))
    assert imported.returncode == 0, imported.stderr
    for number in range(MOUNTS):
        made = git(repository, "worktree", "add", "-q", "-b", f"work{number}", f"../tree{number}", "main")
        assert made.returncode == 0, made.stderr
        # Each mount has a path of its own: the way to the repository must not name one.
        pointer = repository.parent / f"tree{number}" / ".git"
        pointer.write_text(f"gitdir: ../repository/.git/worktrees/tree{number}\n")


@dataclass(slots=True)
class Hand:
    """One mount's worker on the repository."""

    number: int
    base: Path
    rng: random.Random
    killed_s: list[float]
    acknowledged: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    commands: int = 0
    failed: int = 0
    edits: int = 0

    @property
    def tree(self) -> Path:
        return self.base / f"tree{self.number}"

    def work(self, end_s: float) -> None:
        while time.monotonic() < end_s:
            try:
                self.step()
            except OSError as error:
                self.judge_failure("an edit", str(error), time.monotonic() - 1.0)
                time.sleep(0.2)
            except subprocess.TimeoutExpired as error:
                self.problems.append(f"tree{self.number}: hangs: {error}")
                return

    def step(self) -> None:
        choice = self.rng.random()
        if choice < 0.55:
            self.commit()
        elif choice < 0.70:
            self.run("status", "--porcelain")
        elif choice < 0.80:
            back = self.rng.randint(1, 30)
            if self.run("checkout", "-q", "--detach", f"HEAD~{back}"):
                self.run("checkout", "-q", f"work{self.number}")
        elif choice < 0.88:
            self.run("branch", f"b{self.number}-{self.rng.getrandbits(32):x}")
        elif choice < 0.94:
            self.run("log", "--oneline", "-20", "--all")
        else:
            self.run("gc", "-q")

    def commit(self) -> None:
        head = git(self.tree, "symbolic-ref", "-q", "HEAD").stdout.strip().decode()
        if head != f"refs/heads/work{self.number}" and not self.run("checkout", "-q", "-f", f"work{self.number}"):
            return
        for _ in range(self.rng.randint(1, 4)):
            path = self.tree / f"dir{self.rng.randrange(7)}" / f"file{self.rng.randrange(FILES)}"
            path.parent.mkdir(exist_ok=True)
            self.edits += 1
            path.write_text(f"{self.number} {self.edits}\n" * self.rng.randint(1, 400))
        if self.run("add", "-A") and self.run("commit", "-q", "-m", f"{self.number} {self.edits}"):
            named = git(self.tree, "rev-parse", f"refs/heads/work{self.number}")
            if named.returncode == 0:
                self.acknowledged.append(named.stdout.strip().decode())

    def run(self, *arguments: str) -> bool:
        begun_s = time.monotonic()
        done = git(self.tree, *arguments)
        self.commands += 1
        if done.returncode == 0:
            return True
        words = (done.stderr + done.stdout).decode(errors="replace")
        if "nothing to commit" in words:
            return False
        self.failed += 1
        self.judge_failure(f"git {' '.join(arguments)}", words, begun_s)
        self.clear_locks()
        return False

    def judge_failure(self, what: str, words: str, begun_s: float) -> None:
        disturbed = any(begun_s - AFTERMATH_S <= at_s <= time.monotonic() for at_s in self.killed_s)
        if not disturbed and not any(word in words for word in CONTENTION):
            self.problems.append(f"tree{self.number}: {what} failed though nothing was killed: {words[-400:]}")

    def clear_locks(self) -> None:
        """Those of this worktree, which nobody else uses; shared ones once they are old."""
        common = self.base / "repository" / ".git"
        own = [common / "worktrees" / f"tree{self.number}" / name for name in ("index.lock", "HEAD.lock")]
        own.append(common / "refs" / "heads" / f"work{self.number}.lock")
        for lock in own:
            with contextlib.suppress(OSError):
                lock.unlink()
        for lock in (common / "packed-refs.lock", common / "gc.pid", common / "gc.pid.lock", common / "config.lock"):
            with contextlib.suppress(OSError):
                if time.time() - lock.stat().st_mtime > STALE_S:
                    lock.unlink()


def judge(hand: Hand) -> list[str]:
    checked = git(hand.base / "repository", "fsck", "--full", "--no-dangling")
    said = (checked.stdout + checked.stderr).decode(errors="replace").strip()
    problems = list(hand.problems)
    if checked.returncode != 0 or "missing" in said or "error" in said:
        problems.append(f"fsck on mount {hand.number}: {said[:600]}")
    kept = set(git(hand.tree, "rev-list", f"work{hand.number}").stdout.decode().split())
    lost = [commit for commit in hand.acknowledged if commit not in kept]
    if lost:
        problems.append(f"tree{hand.number}: {len(lost)} acknowledged commits are lost, the first is {lost[0]}")
    if len(kept) < COMMITS:
        problems.append(f"tree{hand.number}: only {len(kept)} commits are left")
    return problems


def main() -> None:
    given = arguments(__doc__ or "", kill_every_s=30.0)

    def body(fleet: Fleet, rng: random.Random) -> list[str]:
        bases = fleet.everywhere("git")
        begun_s = time.monotonic()
        make_repository(bases[0] / "repository", rng)
        fleet.settle()
        print(f"{COMMITS} commits made in {time.monotonic() - begun_s:.0f} s", flush=True)
        killed_s: list[float] = []
        hands = [Hand(n, base, random.Random(rng.getrandbits(32)), killed_s) for n, base in enumerate(bases)]
        end_s = time.monotonic() + given.seconds
        threads = [threading.Thread(target=hand.work, args=(end_s,)) for hand in hands]
        killer = Killer(fleet, rng, given.kill_every_s, about_to_kill=lambda: killed_s.append(time.monotonic()))
        with killer:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        fleet.settle()
        for lock in (bases[0] / "repository" / ".git").rglob("*.lock"):
            lock.unlink()
        for hand in hands:
            git(hand.tree, "checkout", "-q", "-f", f"work{hand.number}")
        fleet.settle()
        problems = killer.problems
        for hand in hands:
            problems += judge(hand)
        refs = {git(base / "repository", "for-each-ref").stdout for base in bases}
        if len(refs) != 1:
            problems.append("the mounts do not show the same refs")
        commits = sum(len(hand.acknowledged) for hand in hands)
        print(
            f"{sum(hand.commands for hand in hands)} commands, {sum(hand.failed for hand in hands)} failed, {commits} "
            f"commits acknowledged; {killer.leaders} leaders and {killer.workers} workers killed"
        )
        return problems + ([] if commits else ["nothing was committed"])

    run(given, MOUNTS, body)


if __name__ == "__main__":
    main()
