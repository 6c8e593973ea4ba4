"""Where what is local meets what is replicated: every operation on a name (WS-56).

Owns: which side a name is on, and what may not cross. What stands on this host is found first; otherwise the tree is
asked. What is made stays here if its path matches a pattern, the tree has nothing under that name, or its directory is
local.
Never: moves anything across: a rename or a hard link from one side to the other is EXDEV, upon which programs copy.
Invariants: changes of local names happen one at a time, so what one finds is still so when it acts. A replicated
directory that has something local in it is not empty here: rmdir, or a rename over it, is ENOTEMPTY. (Another host
does not see it and may remove the directory; then what was local in it stays on the disk, and the status names it.)
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable

from hypercluster.client.live.ports import KIND_DIRECTORY, Node
from hypercluster.errors import check
from hypercluster.limits import NAME_BYTES_MAX, SYMLINK_TARGET_BYTES_MAX
from hypercluster.mount.content import ContentOperations
from hypercluster.mount.desk import Desk
from hypercluster.mount.local.files import KEPT_FLAGS, PERMISSIONS, LocalFiles
from hypercluster.mount.local.ground import refuse
from hypercluster.mount.local.patterns import PatternsInForce
from hypercluster.mount.local.table import LocalNode, Place, is_local, shown
from hypercluster.mount.names import RENAME_NOREPLACE, NameOperations
from hypercluster.mount.request import Request

Found = os.stat_result | None


class Border:
    """Names of both sides; the operations are those of NameOperations, and `create` and `readdir`."""

    def __init__(
        self,
        desk: Desk,
        files: LocalFiles,
        patterns: PatternsInForce,
        names: NameOperations,
        content: ContentOperations,
    ) -> None:
        self._desk = desk
        self._files = files
        self._ground = files.ground
        self._table = files.table
        self._patterns = patterns
        self._names = names
        self._content = content
        self._lock = threading.Lock()  # changes of local names

    # --- finding --------------------------------------------------------------------------------------

    def _place(self, parent: int, name: bytes) -> Place:
        """Raises OSError(ESTALE, ENAMETOOLONG)."""
        if len(name) > NAME_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, f"a name is at most {NAME_BYTES_MAX} bytes")
        if is_local(parent):
            return Place(b"", self._table.get(parent), name)
        return Place(self._desk.inode(parent), None, name)

    def _find(self, place: Place) -> Found:
        """What stands there on this host. Raises OSError."""
        home, names = place.names()
        if not self._ground.has(home):
            return None
        try:
            with self._ground.reach(home, names[:-1]) as directory:
                return os.stat(place.name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _in_tree(self, place: Place) -> Node | None:
        if place.above is not None:
            return None
        try:
            return self._desk.view.lookup(place.home, place.name)
        except FileNotFoundError:
            return None

    def _may_find(self, place: Place) -> bool:
        return place.above is not None or self._ground.has(place.home)

    def _becomes_local(self, place: Place, *, is_directory: bool) -> bool:
        """Whether what is made there stays here."""
        if place.above is not None or self._in_tree(place) is not None:
            return place.above is not None
        return self._patterns.match(place.home, place.name, is_directory=is_directory)

    def _concerns(self, *places: Place) -> bool:
        return bool(self._patterns) or any(self._may_find(place) for place in places)

    def lookup(self, request: Request, parent: int, name: bytes) -> None:
        desk = self._desk
        desk.admit(request)
        place = self._place(parent, name)
        if not self._may_find(place):
            desk.enter(request, desk.view.lookup(place.home, name))
            return

        def work() -> None:
            with self._lock:
                found = self._find(place)
                node = None if found is None else self._table.looked_up(found, place)
            if found is not None and node is not None:
                self._enter(request, found, node)
            elif place.above is not None:
                raise refuse(errno.ENOENT)
            else:
                desk.enter(request, desk.view.lookup(place.home, name))

        self._files.turns.take(request, work)

    def _enter(self, request: Request, found: os.stat_result, node: LocalNode) -> None:
        """`node` has been looked up once for it."""
        taken = False
        try:
            target = self._files.target(node) if stat.S_ISLNK(found.st_mode) else b""
            taken = request.entry(shown(found, self._files.owner, target), lasting=False, number=node.number)
        finally:
            if not taken:
                self._table.forget(node.number, 1)

    def forget(self, node: int, lookups: int) -> None:
        if is_local(node):
            self._table.forget(node, lookups)
        else:
            self._names.forget(node, lookups)

    def readdir(self, request: Request, handle: int, offset: int, room: int) -> None:
        if is_local(handle):
            self._files.readdir(request, handle, offset, room)
        elif self._ground.has(self._desk.handles.get(handle).inode_id):
            self._files.turns.take(request, lambda: self._content.readdir(request, handle, offset, room))
        else:
            self._content.readdir(request, handle, offset, room)

    # --- making ---------------------------------------------------------------------------------------

    def mkdir(self, request: Request, parent: int, name: bytes, mode: int) -> None:
        place = self._place(parent, name)

        def make(directory: int) -> None:
            os.mkdir(name, 0o700, dir_fd=directory)
            self._ground.take_over(name, directory)
            os.chmod(name, mode & PERMISSIONS, dir_fd=directory)

        self._make(request, place, True, make, lambda: self._names.mkdir(request, parent, name, mode))

    def symlink(self, request: Request, target: bytes, parent: int, name: bytes) -> None:
        if len(target) > SYMLINK_TARGET_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, f"a symlink's target is at most {SYMLINK_TARGET_BYTES_MAX} bytes")
        place = self._place(parent, name)

        def make(directory: int) -> None:
            os.symlink(target, name, dir_fd=directory)
            self._ground.take_over(name, directory)

        self._make(request, place, False, make, lambda: self._names.symlink(request, target, parent, name))

    def link(self, request: Request, node: int, new_parent: int, new_name: bytes) -> None:
        place = self._place(new_parent, new_name)
        if not is_local(node):
            self._link_replicated(request, node, place, new_parent)
            return
        known = self._table.get(node)

        def make(directory: int) -> None:
            home, names = known.place.names()
            with self._ground.reach(home, names[:-1]) as source:
                status = os.stat(names[-1], dir_fd=source, follow_symlinks=False)
                if known.gone or (status.st_dev, status.st_ino) != known.identity:
                    raise refuse(errno.ESTALE)
                os.link(names[-1], new_name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

        def cross() -> None:
            raise refuse(errno.EXDEV if self._in_tree(place) is None else errno.EEXIST)

        self._make(request, place, False, make, cross, always=True)

    def _link_replicated(self, request: Request, node: int, place: Place, new_parent: int) -> None:
        if not self._concerns(place):
            self._names.link(request, node, new_parent, place.name)
            return

        def work() -> None:
            self._desk.admit(request)
            if self._find(place) is not None:
                raise refuse(errno.EEXIST)
            if self._becomes_local(place, is_directory=False):
                raise refuse(errno.EXDEV)
            self._names.link(request, node, new_parent, place.name)

        self._files.turns.take(request, work)

    def _make(
        self,
        request: Request,
        place: Place,
        is_directory: bool,
        make: Callable[[int], None],
        otherwise: Callable[[], None],
        *,
        always: bool = False,
    ) -> None:
        """`make` on this host, in the directory it is given, or `otherwise`; `always`: there is something to look at
        even where nothing is local yet."""
        if not (always or self._concerns(place)):
            otherwise()
            return

        def work() -> None:
            self._desk.admit(request)
            if self._find(place) is not None:
                raise refuse(errno.EEXIST)
            if not self._becomes_local(place, is_directory=is_directory):
                otherwise()
                return
            self._enter(request, *self._changed(place, make))

        self._files.turns.take(request, work)

    def _changed(self, place: Place, change: Callable[[int], None]) -> tuple[os.stat_result, LocalNode]:
        """Carries it out in the directory of `place`, and looks up once what stands there then."""
        home, names = place.names()
        with self._lock:
            try:
                with self._ground.reach(home, names[:-1], make=place.above is None) as directory:
                    change(directory)
                    found = os.stat(place.name, dir_fd=directory, follow_symlinks=False)
                return found, self._table.looked_up(found, place)
            finally:
                if place.above is None:
                    self._ground.prune(home)

    def create(self, request: Request, parent: int, name: bytes, mode: int, flags: int) -> None:
        place = self._place(parent, name)
        if not self._concerns(place):
            self._content.create(request, parent, name, mode, flags)
            return

        def work() -> None:
            self._desk.admit(request)
            found = self._find(place)
            if found is None and not self._becomes_local(place, is_directory=False):
                self._content.create(request, parent, name, mode, flags)
            else:
                self._create(request, place, mode & PERMISSIONS, flags)

        self._files.turns.take(request, work)

    def _create(self, request: Request, place: Place, mode: int, flags: int) -> None:
        kept = flags & KEPT_FLAGS | os.O_NOFOLLOW | os.O_CLOEXEC
        made: list[int] = []

        def change(directory: int) -> None:
            try:
                made.append(os.open(place.name, kept | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory))
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                present = os.stat(place.name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISLNK(present.st_mode):
                    raise refuse(errno.ESTALE) from None  # the kernel walks the path anew, and follows it
                made.append(os.open(place.name, kept, dir_fd=directory))
                return
            self._ground.take_over(place.name, directory)
            os.fchmod(made[0], mode)

        try:
            status, node = self._changed(place, change)
        except BaseException:
            for descriptor in made:
                os.close(descriptor)
            raise
        check(len(made) == 1, "what was created is open once")
        handle = self._table.opened(node, made[0], writable=kept & os.O_ACCMODE != os.O_RDONLY)
        if not request.created(shown(status, self._files.owner), handle.number, cached=True, number=node.number):
            self._table.forget(node.number, 1)
            self._files.close(handle.number)

    # --- taking away ------------------------------------------------------------------------------------

    def unlink(self, request: Request, parent: int, name: bytes) -> None:
        self._remove(request, parent, name, os.unlink, lambda _: self._names.unlink(request, parent, name))

    def rmdir(self, request: Request, parent: int, name: bytes) -> None:
        def replicated(place: Place) -> None:
            node = self._in_tree(place)
            if node is not None:
                self._check_empty(node)
            self._names.rmdir(request, parent, name)

        self._remove(request, parent, name, os.rmdir, replicated)

    def _check_empty(self, node: Node) -> None:
        """Raises OSError(ENOTEMPTY)."""
        if node.kind == KIND_DIRECTORY and self._ground.has(node.inode_id):
            with self._lock:
                self._ground.prune(node.inode_id)  # a former run may have ended before it did
            if self._ground.has(node.inode_id):
                raise OSError(errno.ENOTEMPTY, "something stands in it that stays on this host")

    def _remove(
        self,
        request: Request,
        parent: int,
        name: bytes,
        remove: Callable[..., None],
        otherwise: Callable[[Place], None],
    ) -> None:
        self._desk.admit(request)
        place = self._place(parent, name)
        if not self._may_find(place):
            otherwise(place)
            return

        def work() -> None:
            found = self._find(place)
            if found is None:
                if place.above is not None:
                    raise refuse(errno.ENOENT)
                otherwise(place)
                return
            home, names = place.names()
            with self._lock:
                with self._ground.reach(home, names[:-1]) as directory:
                    present = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    remove(name, dir_fd=directory)
                self._table.removed(present, place)
                if place.above is None:
                    self._ground.prune(home)
            request.done()

        self._files.turns.take(request, work)

    # --- renaming ---------------------------------------------------------------------------------------

    def rename(self, request: Request, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        self._desk.admit(request)
        source, target = self._place(parent, name), self._place(new_parent, new_name)

        if not self._patterns and not self._ground.roots():
            self._names.rename(request, parent, name, new_parent, new_name, flags)
            return
        if flags & ~RENAME_NOREPLACE:
            raise OSError(errno.EOPNOTSUPP, "only RENAME_NOREPLACE is supported")  # WS-23

        def work() -> None:
            found, there = self._find(source), self._find(target)
            if found is None:
                self._check_replicated_rename(source, target, there)
                self._names.rename(request, parent, name, new_parent, new_name, flags)
                return
            is_directory = stat.S_ISDIR(found.st_mode)
            if there is None and not self._becomes_local(target, is_directory=is_directory):
                raise refuse(errno.EXDEV)
            if there is not None and flags & RENAME_NOREPLACE:
                raise refuse(errno.EEXIST)
            self._rename(source, target)
            request.done()

        self._files.turns.take(request, work)

    def _check_replicated_rename(self, source: Place, target: Place, there: Found) -> None:
        """Raises OSError(ENOENT, EXDEV, ENOTEMPTY)."""
        node = self._in_tree(source)
        if node is None:
            raise refuse(errno.ENOENT)
        if there is not None or self._becomes_local(target, is_directory=node.kind == KIND_DIRECTORY):
            raise refuse(errno.EXDEV)
        replaced = self._in_tree(target)
        if replaced is not None and replaced.inode_id != node.inode_id:
            self._check_empty(replaced)

    def _rename(self, source: Place, target: Place) -> None:
        with self._lock:
            found, there = self._find(source), self._find(target)
            if found is None:
                raise refuse(errno.ENOENT)
            if there is not None and (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                return  # two names of one file: nothing happens (rename(2))
            home, names = source.names()
            new_home, new_names = target.names()
            try:
                with (
                    self._ground.reach(home, names[:-1]) as directory,
                    self._ground.reach(new_home, new_names[:-1], make=target.above is None) as new_directory,
                ):
                    os.rename(source.name, target.name, src_dir_fd=directory, dst_dir_fd=new_directory)
                if there is not None:
                    self._table.removed(there, target)
                self._table.moved((found.st_dev, found.st_ino), target)
            finally:
                for place in (source, target):
                    if place.above is None:
                        self._ground.prune(place.home)
