"""Import of a directory into a workspace, with thousands of operations in flight (WS-61).

Owns: the order of an import: directories level by level, then files over parallel lanes, then symlinks and hard
links, then the times of directories, which every new entry has moved.
Never: follows symlinks; deletes what the workspace has and the directory has not.
Invariants: after it returns, mode, mtime, content, link structure and user.* attributes of every imported path equal
the source's; what could not be imported is named. A file that changes while it is read is imported as it was read.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from hypercluster.client.file_ops import ROOT, FileResult, all_or_first_error, shown
from hypercluster.client.import_scan import LocalEntry, LocalLink, LocalTree, scan, user_xattrs
from hypercluster.client.local_patterns import LocalPatterns
from hypercluster.client.workspace import Workspace, is_directory
from hypercluster.errors import RefusedError
from hypercluster.limits import WRITE_BYTES_MAX, XATTR_VALUE_BYTES_MAX

FILE_LANES = (2, 3, 4, 5)
META_LANE = 0
ENTRIES_IN_FLIGHT = 512
T = TypeVar("T")
SKIPPED_NAMED_MAX = 1_000


@dataclass(slots=True)
class Progress:
    """Counts so far; the same object is passed to the callback each time."""

    entries_total: int = 0
    entries_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0


@dataclass(slots=True)
class ImportReport:
    files: int = 0
    directories: int = 0
    symlinks: int = 0
    links: int = 0
    bytes_total: int = 0
    chunks_new: int = 0
    chunks_shared: int = 0
    operations: int = 0
    log_index: int = 0
    root: bytes = b""
    elapsed_s: float = 0.0
    skipped: list[tuple[bytes, str]] = field(default_factory=list)


async def import_tree(
    workspace: Workspace,
    top: str | bytes,
    progress: Callable[[Progress], None] | None = None,
    local: LocalPatterns | None = None,
) -> ImportReport:
    """Imports what is in `top` into the root of the workspace, without what is `local`. Raises the first error once
    nothing is in flight."""
    tree = await asyncio.to_thread(scan, os.fsencode(top), local)
    return await _Import(workspace, tree, progress).run()


class _Import:
    def __init__(self, workspace: Workspace, tree: LocalTree, progress: Callable[[Progress], None] | None) -> None:
        self._workspace = workspace
        self._ops = workspace.ops
        self._tree = tree
        self._tell = progress
        self._ids: dict[bytes, bytes] = {b"": ROOT}  # directories
        self._file_ids: dict[bytes, bytes] = {}  # files that have further names
        self._linked = {link.target for link in tree.links}
        self._written: set[bytes] = set()  # files that are some entry's own
        self._report = ImportReport(skipped=list(tree.skipped), bytes_total=tree.bytes_total)
        links = len(tree.symlinks) + len(tree.links)
        self._progress = Progress(
            entries_total=len(tree.directories) + len(tree.files) + links, bytes_total=tree.bytes_total
        )
        self._lane_turn = 0

    async def run(self) -> ImportReport:
        started_s = time.monotonic()
        tree = self._tree
        for group in tree.by_depth():
            await _each(group, self._directory)
        await _each(tree.files, self._file)
        await _each(tree.symlinks, self._symlink)
        await _each(tree.links, self._link)
        # In any order: setting a directory's time does not touch its parent.
        await _each([*tree.directories, tree.root], self._directory_times)
        barrier = await self._workspace.barrier()
        report = self._report
        report.log_index, report.root = barrier.workspace.log_index, barrier.workspace.root
        report.chunks_new, report.chunks_shared = self._ops.chunks.sent, self._ops.chunks.shared
        report.elapsed_s = time.monotonic() - started_s
        return report

    def _done(self, bytes_done: int = 0) -> None:
        self._progress.entries_done += 1
        self._progress.bytes_done += bytes_done
        if self._tell is not None:
            self._tell(self._progress)

    def _took(self, result: FileResult) -> FileResult:
        self._report.operations += 1
        return result

    def _place(self, path: bytes) -> tuple[bytes, bytes]:
        directory, _, name = path.rpartition(b"/")
        return self._ids[directory], name

    def _local(self, path: bytes) -> bytes:
        return os.path.join(self._tree.top, path) if path else self._tree.top

    def _lane(self) -> int:
        self._lane_turn += 1
        return FILE_LANES[self._lane_turn % len(FILE_LANES)]

    def _skip(self, path: bytes, why: str) -> None:
        if len(self._report.skipped) < SKIPPED_NAMED_MAX:
            self._report.skipped.append((path, why))

    # --- entries ------------------------------------------------------------------------------------

    async def _directory(self, entry: LocalEntry) -> None:
        directory, name = self._place(entry.path)
        try:
            made = self._took(await self._ops.mkdir(directory, name, entry.mode))
            self._ids[entry.path] = made.inode_id
        except RefusedError as error:
            if error.errno != errno.EEXIST:
                raise
            inode = await self._workspace.stat(entry.path)
            if is_directory(inode):
                self._ids[entry.path] = inode.inode_id
                if inode.mode != entry.mode:
                    self._took(await self._ops.chmod(inode.inode_id, entry.mode))
            else:
                self._took(await self._ops.unlink(directory, name))
                made = self._took(await self._ops.mkdir(directory, name, entry.mode))
                self._ids[entry.path] = made.inode_id
        self._report.directories += 1
        self._done()

    async def _directory_times(self, entry: LocalEntry) -> None:
        inode_id = self._ids[entry.path]
        if not entry.path:
            self._took(await self._ops.chmod(inode_id, entry.mode))
        flow = self._xattrs(entry.path, inode_id, META_LANE)
        flow.append(asyncio.create_task(self._ops.utimens(inode_id, entry.mtime_ns, lane=META_LANE)))
        for result in await all_or_first_error(flow):
            self._took(result)

    async def _file(self, entry: LocalEntry) -> None:
        try:
            opened = os.open(self._local(entry.path), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            self._skip(entry.path, error.strerror or "can not be opened")
            return
        try:
            mtime_ns = os.fstat(opened).st_mtime_ns
            lane = self._lane()
            made = await self._made(entry, lane)
            if made is None:
                return
            await self._file_from(entry, opened, mtime_ns, made, lane)
        finally:
            os.close(opened)
        self._report.files += 1
        self._done(entry.size)

    async def _made(self, entry: LocalEntry, lane: int) -> FileResult | None:
        """The file of an entry, a file of its own; None if a directory that is not empty stands there."""
        directory, name = self._place(entry.path)
        try:
            made = self._took(await self._ops.create(directory, name, entry.mode, lane=lane))
        except RefusedError as error:
            if error.errno not in (errno.EISDIR, errno.ELOOP):
                raise
            if not await self._cleared(entry.path, directory, name):
                return None
            made = self._took(await self._ops.create(directory, name, entry.mode, lane=lane))
        if made.existed and made.inode_id in self._written:  # the workspace has a link where the source has two files
            self._took(await self._ops.unlink(directory, name))
            made = self._took(await self._ops.create(directory, name, entry.mode, lane=lane))
        self._written.add(made.inode_id)
        return made

    async def _file_from(self, entry: LocalEntry, opened: int, mtime_ns: int, made: FileResult, lane: int) -> None:
        inode_id = made.inode_id
        if entry.path in self._linked:
            self._file_ids[entry.path] = inode_id
        # All that follows is given to one lane in order, so it is judged in order without waiting for each answer.
        flow: list[asyncio.Task[FileResult]] = []
        if made.existed:
            flow.append(asyncio.create_task(self._ops.truncate(inode_id, 0, lane=lane)))
            flow.append(asyncio.create_task(self._ops.chmod(inode_id, entry.mode, lane=lane)))
        try:
            offset = 0
            while block := os.read(opened, WRITE_BYTES_MAX):
                write, pieces = await self._ops.prepare_write(inode_id, block, offset)
                flow.append(asyncio.create_task(self._ops.run(write, "write", pieces=pieces, lane=lane)))
                offset += len(block)
                await asyncio.sleep(0)  # others have their turn, and this one its place in the lane
            flow += self._xattrs(entry.path, inode_id, lane)
            flow.append(asyncio.create_task(self._ops.utimens(inode_id, mtime_ns, lane=lane)))
        finally:
            for result in await all_or_first_error(flow):
                self._took(result)

    def _xattrs(self, path: bytes, inode_id: bytes, lane: int) -> list[asyncio.Task[FileResult]]:
        mine, others = user_xattrs(self._local(path))
        flow: list[asyncio.Task[FileResult]] = []
        for name, value in mine:
            if len(value) > XATTR_VALUE_BYTES_MAX:
                self._skip(path, f"attribute {shown(name)} has {len(value)} bytes, limit is {XATTR_VALUE_BYTES_MAX}")
                continue
            flow.append(asyncio.create_task(self._ops.set_xattr(inode_id, name, value, lane=lane)))
        for name in others:
            self._skip(path, f"attribute {shown(name)} belongs to the host")
        return flow

    async def _symlink(self, entry: LocalEntry) -> None:
        directory, name = self._place(entry.path)
        target = os.readlink(self._local(entry.path))
        make = partial(self._ops.symlink, directory, name, target, lane=META_LANE)
        made = await self._replacing(entry.path, directory, name, make)
        if made is None:
            return
        self._took(await self._ops.utimens(made.inode_id, entry.mtime_ns, lane=META_LANE))
        self._report.symlinks += 1
        self._done()

    async def _link(self, link: LocalLink) -> None:
        directory, name = self._place(link.path)
        inode_id = self._file_ids.get(link.target)
        if inode_id is None:
            self._skip(link.path, f"the file it is a link to, {shown(link.target)}, was skipped")
            return
        if (
            await self._replacing(link.path, directory, name, partial(self._ops.link, inode_id, directory, name))
            is None
        ):
            return
        self._report.links += 1
        self._done()

    async def _replacing(
        self, path: bytes, directory: bytes, name: bytes, make: Callable[[], Awaitable[FileResult]]
    ) -> FileResult | None:
        """`make`, after taking away what stands in its place; None if that can not be taken away."""
        try:
            return self._took(await make())
        except RefusedError as error:
            if error.errno != errno.EEXIST:
                raise
        if not await self._cleared(path, directory, name):
            return None
        return self._took(await make())

    async def _cleared(self, path: bytes, directory: bytes, name: bytes) -> bool:
        """Takes away what stands there. Not a directory with something in it: that is named."""
        try:
            self._took(await self._ops.unlink(directory, name))
        except RefusedError as error:
            if error.errno != errno.EISDIR:
                raise
            try:
                self._took(await self._ops.rmdir(directory, name))
            except RefusedError as full:
                if full.errno != errno.ENOTEMPTY:
                    raise
                self._skip(path, "a directory that is not empty stands there")
                return False
        return True


async def _each(entries: Iterable[T], one: Callable[[T], Awaitable[None]]) -> None:
    """Runs `one` for every entry, ENTRIES_IN_FLIGHT at a time; the first error ends it once nothing is in flight."""
    source = iter(entries)
    failed: list[BaseException] = []

    async def work() -> None:
        for entry in source:
            if failed:
                return
            try:
                await one(entry)
            except Exception as error:
                failed.append(error)

    await asyncio.gather(*(work() for _ in range(ENTRIES_IN_FLIGHT)))
    if failed:
        raise failed[0]
