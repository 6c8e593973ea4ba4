"""A second workspace, deliberately simple, written from the specification and POSIX: the oracle of the property tests.

Shares no code with the product: inodes are dictionaries, content is a bytearray, errno numbers are literals.
Everything is judged by `ModelTree.judge`, which answers (errno, inode id, offset) and changes nothing on an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypercluster.pb.v1.workspace_command_pb2 import FileCommand

FILE, DIRECTORY, LINK = 1, 2, 3
ROOT = b"\0" * 16
OK = 0


@dataclass
class Node:
    kind: int
    mode: int
    number: int
    mtime: int
    ctime: int
    nlink: int = 1
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, bytes] = field(default_factory=dict)
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    above: bytes = ROOT
    content_index: int = 0
    metadata_index: int = 0


class ModelTree:
    def __init__(self, uid: int, gid: int, mode: int, stamp: int) -> None:
        self.uid, self.gid = uid, gid
        self.nodes: dict[bytes, Node] = {ROOT: Node(DIRECTORY, mode, stamp, stamp, stamp, nlink=2)}
        self.log_index = 0

    def judge(
        self, command: FileCommand, stamp: int, new_id: bytes, chunks: dict[bytes, bytes]
    ) -> tuple[int, bytes, int]:
        """`new_id`: what a new inode is called, told by the outcome under test. Returns errno, inode id, offset."""
        name = command.WhichOneof("op")
        if command.HasField("uid") and command.uid != self.uid:
            return 13, b"", 0
        op = getattr(command, name)
        errno, inode_id, offset, changed = getattr(self, f"do_{name}")(op, stamp, new_id, chunks)
        if errno:
            return errno, b"", 0
        self.log_index += 1
        for node, content, metadata in changed:
            if content:
                node.content_index = self.log_index
            if metadata:
                node.metadata_index = self.log_index
        return OK, inode_id, offset

    # What a change of names does to a directory.
    def _dir(self, node: Node, stamp: int) -> tuple[Node, bool, bool]:
        node.mtime = node.ctime = stamp
        node.nlink = 2 + sum(self.nodes[found].kind == DIRECTORY for found in node.names.values())
        return node, True, True

    def _gone(self, inode_id: bytes, stamp: int) -> tuple[Node, bool, bool]:
        node = self.nodes[inode_id]
        node.nlink = 0 if node.kind == DIRECTORY else node.nlink - 1
        node.ctime = stamp
        return node, False, True

    def _at(self, place) -> tuple[int, Node | None, bytes | None]:
        directory = self.nodes.get(place.directory)
        if directory is None:
            return 2, None, None
        if directory.kind != DIRECTORY:
            return 20, None, None
        errno = self._name(place.name)
        return (errno, None, None) if errno else (0, directory, directory.names.get(place.name))

    def _name(self, name: bytes) -> int:
        if name == b"":
            return 2
        if len(name) > 255:
            return 36
        return 22 if b"/" in name or b"\0" in name or name in (b".", b"..") else 0

    def _fresh(self, place, node: Node, new_id: bytes, stamp: int):
        directory = self.nodes[place.directory]
        self.nodes[new_id] = node
        directory.names[place.name] = new_id
        return 0, new_id, 0, [(node, True, True), self._dir(directory, stamp)]

    def do_create(self, op, stamp, new_id, chunks):
        errno, directory, found = self._at(op.place)
        if errno:
            return errno, b"", 0, []
        if found is not None:
            node = self.nodes[found]
            if op.exclusive:
                return 17, b"", 0, []
            if node.kind == DIRECTORY:
                return 21, b"", 0, []
            return (40, b"", 0, []) if node.kind == LINK else (0, found, 0, [])
        if directory.nlink == 0:
            return 2, b"", 0, []
        return self._fresh(op.place, Node(FILE, op.mode, stamp, stamp, stamp), new_id, stamp)

    def _vacant(self, place) -> int:
        errno, directory, found = self._at(place)
        if errno:
            return errno
        if found is not None:
            return 17
        return 0 if directory.nlink else 2

    def do_mkdir(self, op, stamp, new_id, chunks):
        errno = self._vacant(op.place)
        if errno:
            return errno, b"", 0, []
        node = Node(DIRECTORY, op.mode, stamp, stamp, stamp, nlink=2, above=op.place.directory)
        return self._fresh(op.place, node, new_id, stamp)

    def do_symlink(self, op, stamp, new_id, chunks):
        if op.target == b"":
            return 2, b"", 0, []
        if len(op.target) > 4095:
            return 36, b"", 0, []
        errno = self._vacant(op.place)
        if errno:
            return errno, b"", 0, []
        return self._fresh(op.place, Node(LINK, 0o777, stamp, stamp, stamp, target=op.target), new_id, stamp)

    def do_link(self, op, stamp, new_id, chunks):
        node = self.nodes.get(op.inode_id)
        if node is None:
            return 2, b"", 0, []
        errno = self._vacant(op.place)
        if errno:
            return errno, b"", 0, []
        if node.kind == DIRECTORY:
            return 1, b"", 0, []
        if node.nlink == 0:
            return 2, b"", 0, []
        node.nlink += 1
        node.ctime = stamp
        directory = self.nodes[op.place.directory]
        directory.names[op.place.name] = op.inode_id
        return 0, op.inode_id, 0, [(node, False, True), self._dir(directory, stamp)]

    def do_unlink(self, op, stamp, new_id, chunks):
        errno, directory, found = self._at(op.place)
        if errno or found is None:
            return errno or 2, b"", 0, []
        if self.nodes[found].kind == DIRECTORY:
            return 21, b"", 0, []
        del directory.names[op.place.name]
        return 0, found, 0, [self._gone(found, stamp), self._dir(directory, stamp)]

    def do_rmdir(self, op, stamp, new_id, chunks):
        errno, directory, found = self._at(op.place)
        if errno or found is None:
            return errno or 2, b"", 0, []
        if self.nodes[found].kind != DIRECTORY:
            return 20, b"", 0, []
        if self.nodes[found].names:
            return 39, b"", 0, []
        del directory.names[op.place.name]
        return 0, found, 0, [self._gone(found, stamp), self._dir(directory, stamp)]

    def _ancestors(self, inode_id: bytes) -> list[bytes]:
        found = [inode_id]
        while found[-1] != ROOT:
            found.append(self.nodes[found[-1]].above)
        return found

    def do_rename(self, op, stamp, new_id, chunks):
        source, target = self.nodes.get(op.source.directory), self.nodes.get(op.target.directory)
        for directory in (source, target):
            if directory is None or directory.kind != DIRECTORY:
                return (2 if directory is None else 20), b"", 0, []
        errno = self._name(op.source.name)
        if errno:
            return errno, b"", 0, []
        moved = source.names.get(op.source.name)
        if moved is None:
            return 2, b"", 0, []
        errno = self._name(op.target.name)
        if errno or target.nlink == 0:
            return errno or 2, b"", 0, []
        replaced = target.names.get(op.target.name)
        if replaced is not None and op.no_replace:
            return 17, b"", 0, []
        node = self.nodes[moved]
        if op.source.directory != op.target.directory:
            if moved in self._ancestors(op.target.directory):
                return 22, b"", 0, []
            if replaced is not None and replaced in self._ancestors(op.source.directory):
                return 39, b"", 0, []
        if replaced == moved:
            return 0, moved, 0, []
        if replaced is not None:
            other = self.nodes[replaced]
            if node.kind == DIRECTORY and other.kind != DIRECTORY:
                return 20, b"", 0, []
            if node.kind != DIRECTORY and other.kind == DIRECTORY:
                return 21, b"", 0, []
            if other.names:
                return 39, b"", 0, []
        changed = [(node, False, True)]
        if replaced is not None:
            changed.append(self._gone(replaced, stamp))
        del source.names[op.source.name]
        target.names[op.target.name] = moved
        node.ctime = stamp
        if node.kind == DIRECTORY:
            node.above = op.target.directory
        return 0, moved, 0, [*changed, self._dir(source, stamp), self._dir(target, stamp)]

    def _file(self, inode_id: bytes) -> tuple[int, Node | None]:
        node = self.nodes.get(inode_id)
        if node is None:
            return 2, None
        return (0 if node.kind == FILE else 21 if node.kind == DIRECTORY else 22), node

    def do_write(self, op, stamp, new_id, chunks):
        errno, node = self._file(op.inode_id)
        if errno:
            return errno, b"", 0, []
        content = op.inline
        for piece in op.pieces:
            content += chunks[piece.hash][piece.chunk_offset : piece.chunk_offset + piece.length]
        offset = len(node.data) if op.append else op.offset
        if not content:
            return 0, op.inode_id, offset, []
        node.data.extend(bytes(max(0, offset - len(node.data))))
        node.data[offset : offset + len(content)] = content
        node.mtime = node.ctime = stamp
        return 0, op.inode_id, offset, [(node, True, False)]

    def do_truncate(self, op, stamp, new_id, chunks):
        errno, node = self._file(op.inode_id)
        if errno:
            return errno, b"", 0, []
        del node.data[op.size :]
        node.data.extend(bytes(op.size - len(node.data)))
        node.mtime = node.ctime = stamp
        return 0, op.inode_id, 0, [(node, True, False)]

    def _change(self, inode_id: bytes, stamp: int):
        node = self.nodes[inode_id]
        node.ctime = stamp
        return 0, inode_id, 0, [(node, False, True)]

    def do_chmod(self, op, stamp, new_id, chunks):
        node = self.nodes.get(op.inode_id)
        if node is None or node.kind == LINK:
            return (2 if node is None else 95), b"", 0, []
        node.mode = op.mode
        return self._change(op.inode_id, stamp)

    def do_chown(self, op, stamp, new_id, chunks):
        if op.inode_id not in self.nodes:
            return 2, b"", 0, []
        if (op.uid, op.gid) != (self.uid, self.gid):
            return 1, b"", 0, []
        return self._change(op.inode_id, stamp)

    def do_utimens(self, op, stamp, new_id, chunks):
        node = self.nodes.get(op.inode_id)
        if node is None:
            return 2, b"", 0, []
        node.mtime = op.mtime_ns if op.HasField("mtime_ns") else stamp
        return self._change(op.inode_id, stamp)

    def _xattrs(self, inode_id: bytes, name: bytes) -> tuple[int, Node | None]:
        node = self.nodes.get(inode_id)
        if node is None:
            return 2, None
        if not 1 <= len(name) <= 255:
            return 34, None
        return (1, None) if node.kind == LINK else (0, node)

    def do_set_xattr(self, op, stamp, new_id, chunks):
        errno, node = self._xattrs(op.inode_id, op.name)
        if errno:
            return errno, b"", 0, []
        if len(op.value) > 65536:
            return 7, b"", 0, []
        if op.flag == 1 and op.name in node.xattrs:
            return 17, b"", 0, []
        if op.flag == 2 and op.name not in node.xattrs:
            return 61, b"", 0, []
        others = sum(len(name) + len(value) for name, value in node.xattrs.items() if name != op.name)
        if others + len(op.name) + len(op.value) > 1 << 20:
            return 28, b"", 0, []
        node.xattrs[op.name] = op.value
        return self._change(op.inode_id, stamp)

    def do_remove_xattr(self, op, stamp, new_id, chunks):
        errno, node = self._xattrs(op.inode_id, op.name)
        if errno:
            return errno, b"", 0, []
        if op.name not in node.xattrs:
            return 61, b"", 0, []
        del node.xattrs[op.name]
        return self._change(op.inode_id, stamp)

    def do_sync(self, op, stamp, new_id, chunks):
        node = self.nodes.get(op.inode_id)
        if node is None:
            return 2, b"", 0, []
        return (22, b"", 0, []) if node.kind == LINK else (0, op.inode_id, 0, [])
