"""A tree of files as the specification has it, replayed from an op log (WS-13, WS-20, WS-21, WS-22).

Owns: which accepted operation can follow which, and what tree is there in the end: names, kinds, links, sizes and the
records of files that were written in whole records.
Never: paths while it replays: operations name directories and files by id.
Invariants: an operation that could not have been accepted where it stands in the log is told in `wrong`, and the
replay goes on with what the log says. What an operation leaves unsaid (the length of a truncation) is unknown from
then on, and not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ROOT: Final = "00" * 16
RECORD_BYTES: Final = 32
QUIET: Final = frozenset({"chmod", "chown", "utimens", "set_xattr", "remove_xattr", "sync"})

Place = tuple[str, str]  # directory, name


@dataclass(slots=True)
class Node:
    """`size` None: unknown. `records` by offset; None when some content is not known as records."""

    kind: str
    size: int | None = 0
    links: int = 0
    records: dict[int, str] | None = field(default_factory=dict)


class TreeModel:
    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {ROOT: Node("directory")}
        self.names: dict[str, dict[str, str]] = {ROOT: {}}
        self.wrong: list[str] = []
        self._at = 0

    def apply(self, line: Mapping[str, Any]) -> None:
        """One record of the log, as final.json has it."""
        self._at = line["log_index"]
        op, inode = str(line.get("op")), str(line.get("inode"))
        place = (str(line.get("directory")), str(line.get("name")))
        match op:
            case "create":
                self._create(place, inode)
            case "mkdir" | "symlink":
                self._make(place, inode, "directory" if op == "mkdir" else "symlink")
            case "link":
                if inode in self.nodes and self._free(place):
                    self._bind(place, inode)
            case "unlink" | "rmdir":
                self._remove(place, "directory" if op == "rmdir" else "")
            case "rename":
                self._rename(place, (str(line.get("target_directory")), str(line.get("target_name"))))
            case "write":
                self._write(inode, line)
            case "truncate":
                if inode in self.nodes:
                    self.nodes[inode].size = self.nodes[inode].records = None
            case _ if op not in QUIET:
                self._tell(f"an operation {op!r} that there is not")

    def _tell(self, words: str) -> None:
        self.wrong.append(f"log_index {self._at}: {words}")

    def _found(self, place: Place) -> str | None:
        names = self.names.get(place[0])
        if names is None:
            self._tell(f"{place[1]} in {place[0]}, which is no directory")
            return None
        return names.get(place[1])

    def _free(self, place: Place) -> bool:
        found = self._found(place)
        if found is not None:
            self._tell(f"{place[1]} is made though it is there")
        return found is None and place[0] in self.names

    def _bind(self, place: Place, inode: str) -> None:
        self.names[place[0]][place[1]] = inode
        self.nodes[inode].links += 1

    def _unbind(self, place: Place) -> None:
        """What has no name left stays: it may be open (WS-44)."""
        self.nodes[self.names[place[0]].pop(place[1])].links -= 1

    def _create(self, place: Place, inode: str) -> None:
        """Without O_EXCL an existing file is taken as it is."""
        found = self._found(place)
        if found is not None and found == inode and self.nodes[found].kind == "file":
            return
        self._make(place, inode, "file")

    def _make(self, place: Place, inode: str, kind: str) -> None:
        if not self._free(place):
            return
        if inode in self.nodes:
            self._tell(f"{place[1]} is made with the id of another, {inode}")
            return
        self.nodes[inode] = Node(kind)
        if kind == "directory":
            self.names[inode] = {}
        self._bind(place, inode)

    def _remove(self, place: Place, kind: str) -> None:
        found = self._found(place)
        if found is None:
            self._tell(f"{place[1]} is removed though it is not there")
            return
        is_directory = self.nodes[found].kind == "directory"
        if is_directory != (kind == "directory"):
            self._tell(f"{place[1]} is removed as something else than it is")
        elif is_directory and self.names[found]:
            self._tell(f"directory {place[1]} is removed with something in it")
        else:
            self._unbind(place)

    def _rename(self, source: Place, target: Place) -> None:
        moved, replaced = self._found(source), self._found(target)
        if moved is None or target[0] not in self.names:
            self._tell(f"{source[1]} is renamed though it is not there")
            return
        if moved == replaced:
            return
        if replaced is not None:
            both = (self.nodes[moved].kind == "directory", self.nodes[replaced].kind == "directory")
            if both[0] != both[1] or (both[0] and self.names[replaced]):
                self._tell(f"{source[1]} replaces {target[1]}, which it must not")
                return
            self._unbind(target)
        self._unbind(source)
        self._bind(target, moved)

    def _write(self, inode: str, line: Mapping[str, Any]) -> None:
        node = self.nodes.get(inode)
        if node is None or node.kind != "file":
            self._tell(f"a write to {inode}, which is no file")
            return
        length = int(line["length"])
        offset = int(line["applied_offset"]) if line.get("append") else int(line["offset"])
        if node.size is None:
            return
        if line.get("append") and offset != node.size:
            self._tell(f"an append at {offset} to a file of {node.size} bytes")
        node.size = max(node.size, offset + length)
        text = line.get("text")
        if not isinstance(text, str) or length != RECORD_BYTES or offset % RECORD_BYTES:
            node.records = None
        elif node.records is not None:
            node.records[offset] = text

    def paths(self) -> dict[str, tuple[str, Node]]:
        """(id, node) of everything that has a name, by path."""
        found: dict[str, tuple[str, Node]] = {}
        pending = [("", ROOT)]
        while pending:
            base, directory = pending.pop()
            for name, inode in self.names[directory].items():
                path = f"{base}/{name}" if base else name
                found[path] = (inode, self.nodes[inode])
                if self.nodes[inode].kind == "directory":
                    pending.append((path, inode))
        return found
