"""Whoever works on the shared repository of `repositories.py`: random git commands in one worktree of it.

Owns: `git`, `Hand`, `Quiet`.
Never: judges the repository at the end.
Invariants: every command has an outcome that is remembered as git told it: a subject in `subjects` or a branch in
`branches` was acknowledged with exit status 0 and must be there at the end; where a command failed nothing is expected
either way. Locks that a failed command left behind are removed as a person would: when no command runs, so that their
owner is gone.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.mount.torture.fleet import Disturbance

DIRECTORIES = 7
FILES = 40  # in each
AFTERMATH_S = 10.0  # for so long after what was killed has been replaced a command may fail
COMMAND_S = 600.0
PAUSE_S = 0.2
LOCKED = ("File exists", "cannot lock ref", "Unable to create", "gc is already running", "reference already exists")
CONFLICT = "CONFLICT ("
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


class Quiet:
    """Commands run beside each other; whoever wants to be alone waits for their end and holds up the next ones."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._alone = False

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody is alone, or waits for it."""
        return self._alone

    @contextlib.contextmanager
    def command(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Not within `command`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._running)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


def locks_of(base: Path) -> list[Path]:
    """Lock files of the repository and all its worktrees; where git says who collects garbage, too."""
    common = base / "repository" / ".git"
    found = [*common.glob("*.lock"), *common.glob("gc.pid"), *(common / "refs").rglob("*.lock")]
    for place in ("objects/info", "objects/pack", "worktrees"):
        found += (common / place).rglob("*.lock")
    return found


@dataclass(slots=True)
class Hand:
    """Of mount `number`; the other one's worktree is that of `other`."""

    number: int
    other: int
    base: Path
    rng: random.Random
    quiet: Quiet
    disturbances: list[Disturbance]
    subjects: list[str] = field(default_factory=list)
    branches: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    conflicts: int = 0
    locks_removed: int = 0
    edits: int = 0
    unsure: bool = False

    @property
    def tree(self) -> Path:
        return self.base / f"tree{self.number}"

    @property
    def branch(self) -> str:
        return f"work{self.number}"

    def work(self, end_s: float) -> None:
        while time.monotonic() < end_s:
            try:
                self.step()
            except OSError as error:
                self.unsure = True
                self.judge_failure("an edit", str(error), time.monotonic() - 1.0)
                time.sleep(PAUSE_S)
            except subprocess.TimeoutExpired as error:
                self.problems.append(f"tree{self.number}: hangs: {error}")
                return

    def step(self) -> None:
        choice = self.rng.random()
        if choice < 0.45:
            self.commit()
        elif choice < 0.57:
            self.run("status", "--porcelain")
        elif choice < 0.67:
            back = self.rng.randint(1, 30)
            if self.run("checkout", "-q", "-f", "--detach", f"HEAD~{back}"):
                self.run("checkout", "-q", "-f", self.branch)
        elif choice < 0.77:
            self.change_branches()
        elif choice < 0.89:
            self.merge()
        elif choice < 0.95:
            self.run("log", "--oneline", "-20", "--all")
        else:
            self.run("gc", "-q")

    # --- what is acknowledged -----------------------------------------------------------------------

    def commit(self) -> None:
        if not self.ready():
            return
        for _ in range(self.rng.randint(1, 4)):
            self.edit()
        subject = f"commit {self.number}.{self.edits}"
        if self.run("add", "-A") and self.run("commit", "-q", "-m", subject):
            self.subjects.append(subject)

    def merge(self) -> None:
        """What the other hand has, as of now. A conflict is given up."""
        if not self.ready():
            return
        self.edits += 1
        subject = f"merge {self.number}.{self.edits}"
        said: list[str] = []
        if self.run("merge", "--no-ff", "-X", "theirs", "-m", subject, f"work{self.other}", said=said):
            if "Already up to date" not in said[0]:
                self.subjects.append(subject)
        elif CONFLICT in said[0]:
            self.conflicts += 1
            self.run("merge", "--abort")

    def change_branches(self) -> None:
        if self.branches and self.rng.random() < 0.3:
            name = self.rng.choice(sorted(self.branches))
            self.branches.discard(name)
            if self.run("branch", "-q", "-D", name):
                self.deleted.add(name)
            return
        name = f"b{self.number}-{self.rng.getrandbits(48):x}"
        if self.run("branch", name):
            self.branches.add(name)

    def ready(self) -> bool:
        """On its own branch, with no merge under way, and with the files of the branch: a command that was stopped half
        way may have left fewer, and the next commit would delete the rest."""
        head = git(self.tree, "symbolic-ref", "-q", "HEAD").stdout.strip().decode()
        if head != f"refs/heads/{self.branch}":
            self.unsure = True
        if self.unsure:
            again = self.run("checkout", "-q", "-f", self.branch) and self.run("clean", "-q", "-f", "-d")
            self.unsure = not again
        return not self.unsure

    def edit(self) -> None:
        path = self.tree / f"dir{self.rng.randrange(DIRECTORIES)}" / f"file{self.rng.randrange(FILES)}"
        path.parent.mkdir(exist_ok=True)
        self.edits += 1
        lines = f"{self.number} {self.edits}\n" * self.rng.randint(1, 400)
        if self.rng.random() < 0.2:
            with path.open("a") as file:
                file.write(lines)
        else:
            path.write_text(lines)

    # --- running ------------------------------------------------------------------------------------

    def run(self, *arguments: str, said: list[str] | None = None) -> bool:
        """`said` gets what git printed."""
        begun_s = time.monotonic()
        with self.quiet.command():
            done = git(self.tree, *arguments)
        words = (done.stderr + done.stdout).decode(errors="replace")
        if said is not None:
            said.append(words)
        self.done[arguments[0]] = self.done.get(arguments[0], 0) + 1
        if done.returncode == 0:
            return True
        if "nothing to commit" in words or CONFLICT in words:
            return False
        self.failed += 1
        self.unsure = True
        self.judge_failure(f"git {' '.join(arguments)}", words, begun_s)
        if any(word in words for word in LOCKED):
            self.remove_locks()
        return False

    def judge_failure(self, what: str, words: str, begun_s: float) -> None:
        disturbed = any(begun_s <= kill.ended_s + AFTERMATH_S for kill in self.disturbances)
        if not disturbed and not any(word in words for word in LOCKED):
            self.problems.append(f"tree{self.number}: {what} failed though nothing was killed: {words[-400:]}")

    def remove_locks(self) -> None:
        with self.quiet.alone():
            for lock in locks_of(self.base):
                with contextlib.suppress(OSError):
                    lock.unlink()
                    self.locks_removed += 1
