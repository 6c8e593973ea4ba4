"""Files: a workspace that all workers share, and race in.

Owns: which operation on which path comes next: `create/` and `dir/` names that several workers try at once, `append/`
files that all append to, `over/` files that all overwrite, unique sources renamed to shared targets, files unlinked
by two at once.
Invariants: whatever changes the workspace is in the history, the making of its directories too; every token is used
for one file content or record only; the path of a read is one that somebody makes.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass

from chaos.workloads.logical import LogicalClient
from chaos.workloads.operations import Answer, Bench, Operation
from chaos.workloads.pace import Deck
from chaos.workloads.plan import setting, tag_of
from chaos.workloads.running import certainly_there
from chaos.workloads.tree import DIRECTORIES, Run, Tree

CARDS = {"create": 4, "append": 9, "overwrite": 5, "rename": 6, "unlink": 4, "mkdir": 2, "rmdir": 2, "read_file": 7}
LEVEL_CARDS = {"linearizable": 7, "leader_local": 1, "bounded_stale": 2}
CREATE_EVERY = 8  # in one turn of so many all workers create
TRIES = 3  # how often a name of `dir/` is made, and how often one is removed
CREATED_KEPT = 20  # paths of late creations, to be read


@dataclass(slots=True)
class Source:
    """A file on its way to be renamed by the one who made it: created, then written, then moved."""

    path: str
    token: str
    created: bool = False
    written: bool = False


class Files:
    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._sources: dict[str, Source] = {}
        self._asked: set[str] = set()  # paths of append/ and over/ whose creation was asked for
        self._to_unlink: deque[str] = deque()
        self._to_rmdir: deque[str] = deque()
        self._created: deque[str] = deque(maxlen=CREATED_KEPT)
        self._dirs = self._appends = 0

    async def prepare(self, bench: Bench) -> None:
        plan = bench.plan
        self._rng = random.Random(bench.rng.getrandbits(64))
        self._deck = Deck(CARDS, self._rng)
        self._levels = Deck(LEVEL_CARDS, self._rng)
        self._append_files = setting(plan, "append_files", 2, 1, 100)
        self._appends_max = setting(plan, "appends_per_file", 300, 1, 10_000) * self._append_files
        self._shared = setting(plan, "shared_files", 3, 1, 100)
        label = f"files-{tag_of(plan.seed)}"

        async def begin(who: LogicalClient) -> None:
            """A workspace that nobody has used: one that we made and were not told of stays empty."""
            taken = {summary.name for summary in await who.client.workspaces()}
            name = next(n for n in (f"{label}.{i}" for i in itertools.count()) if n not in taken)
            self.tree = Tree((await who.client.create_workspace(name)).workspace_id, name)

        await bench.until_done(begin)
        for directory in DIRECTORIES:
            await bench.perform_until(Operation("mkdir", directory, self.tree.mkdir(directory)), certainly_there)

        async def know(who: LogicalClient) -> None:
            for directory in DIRECTORIES:
                self.tree.directories[directory] = await self.tree.inode_id(who, directory)

        await bench.until_done(know)

    async def draw(self, who: LogicalClient, turn: int) -> Operation | None:
        op = "create" if turn % CREATE_EVERY == 0 else self._deck.draw()
        match op:
            case "create":
                path = f"create/{turn // CREATE_EVERY}"
                return Operation("create", path, self._then(self.tree.create(path), self._created, path))
            case "append":
                epoch = self._appends // self._appends_max
                self._appends += 1
                return self._append(who, f"append/{epoch}-{turn % self._append_files}")
            case "overwrite":
                return self._overwrite(who, f"over/{turn % self._shared}")
            case "rename":
                return self._rename(who, f"target/{turn % self._shared}")
            case "unlink":
                return self._unlink(who)
            case "mkdir":
                path = f"dir/{self._dirs // TRIES}"
                self._dirs += 1
                return Operation("mkdir", path, self._then(self.tree.mkdir(path), self._to_rmdir, *[path] * TRIES))
            case "rmdir" if self._to_rmdir:
                path = self._to_rmdir.popleft()
                return Operation("rmdir", path, self.tree.rmdir(path))
            case _:
                return self._read(turn)

    def _token(self, who: LogicalClient) -> str:
        return f"{who.name}:{next(self._numbers)}"

    @staticmethod
    def _then(run: Run, paths: deque[str], *path: str) -> Run:
        """When it is done, `path` joins `paths`."""

        async def run_and_note(who: LogicalClient) -> Answer:
            answer = await run(who)
            paths.extend(path)
            return answer

        return run_and_note

    def _create_once(self, path: str) -> Operation | None:
        """The creation of a file that everybody needs, when nobody has asked for it yet."""
        if path in self._asked or path in self.tree.inodes:
            self._asked.discard(path)  # if it is not there after all, it is asked for again
            return None
        self._asked.add(path)
        return Operation("create", path, self.tree.create(path))

    def _append(self, who: LogicalClient, path: str) -> Operation:
        token = self._token(who)
        return self._create_once(path) or Operation("append", path, self.tree.append(path, token), token)

    def _overwrite(self, who: LogicalClient, path: str) -> Operation:
        token = self._token(who)
        return self._create_once(path) or Operation("overwrite", path, self.tree.overwrite(path, token), token)

    def _rename(self, who: LogicalClient, target: str) -> Operation:
        """One step of three. A step that was not done is not taken again: the next source begins."""
        source = self._sources.pop(who.name, None)
        if source is not None and source.written:
            run = self.tree.rename(source.path, target, source.token)
            return Operation("rename", target, run, source.token, extra={"source": source.path})
        if source is not None and source.created:
            run = self.tree.overwrite(source.path, source.token)
            source.written = True
            return Operation("overwrite", source.path, self._keep(run, source), source.token)
        token = self._token(who)
        source = Source(f"source/{token}", token, created=True)
        return Operation("create", source.path, self._keep(self.tree.create(source.path), source))

    def _keep(self, run: Run, source: Source) -> Run:
        async def run_and_keep(who: LogicalClient) -> Answer:
            answer = await run(who)
            self._sources[who.name] = source
            return answer

        return run_and_keep

    def _unlink(self, who: LogicalClient) -> Operation:
        """Each file is unlinked twice, by whoever comes."""
        if self._to_unlink:
            path = self._to_unlink.popleft()
            return Operation("unlink", path, self.tree.unlink(path))
        path = f"own/{self._token(who)}"
        return Operation("create", path, self._then(self.tree.create(path), self._to_unlink, path, path))

    def _read(self, turn: int) -> Operation:
        number = turn % self._shared
        paths = [f"over/{number}", f"target/{number}"]
        paths.append(f"append/{self._appends // self._appends_max}-{turn % self._append_files}")
        paths += [self._rng.choice(self._created)] if self._created else []
        path, level = self._rng.choice(paths), self._levels.draw()
        return Operation("read_file", path, self.tree.read_file(path, level), level=level)
