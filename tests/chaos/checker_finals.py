"""A small cluster that appends to a file and writes hub keys, for the tests of checkers over final states.

`World` keeps an op log, a tree and hub keys as the observer would write them down, and the history that goes with
them; tests spoil one of these.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from chaos.checkers.tree_model import RECORD_BYTES, ROOT
from chaos.seams import Finished
from tests.chaos.checker_histories import Book

NODES = ("n1", "n2", "n3")


@dataclass
class World:
    """Operations one after the other, 10 ms each, by one client a workload."""

    book: Book = field(default_factory=lambda: Book("files"))
    log: list[dict[str, Any]] = field(default_factory=list)
    hub: dict[str, dict[str, Any]] = field(default_factory=dict)
    tree: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    at_ms: int = 0
    seq: int = 0

    def _ids(self, path: str) -> tuple[str, str]:
        directory, _, name = path.rpartition("/")
        return (self.tree[directory]["inode"] if directory else ROOT), name

    def file(
        self,
        op: str,
        path: str,
        asked: Any = None,
        *,
        kind: str = "ok",
        error: str = "",
        applied: bool | None = None,
        keyed: bool = True,
        result: Any = None,
        **line: Any,
    ) -> World:
        """`applied` None: as `kind` says."""
        self.seq += 1
        self.at_ms += 20
        process = f"p{self.seq}" if kind == "info" else "p"
        extra: dict[str, Any] = {"client_id": "cc", "client_seq": self.seq} if keyed else {}
        if line.get("target_name"):
            extra["source"] = line.pop("source_path")
        if applied if applied is not None else kind == "ok":
            record = {
                "log_index": len(self.log) + 1,
                "raft_index": 10 + len(self.log),
                "client_id": "cc",
                "client_seq": self.seq,
                "root": f"{len(self.log) + 1:04x}",
                **line,
            }
            self.log.append(record)
            if kind == "ok":
                extra |= {name: record[name] for name in ("log_index", "raft_index", "root")}
                extra |= {"applied_offset": line["applied_offset"]} if "applied_offset" in line else {}
        self.book.note(
            op,
            self.at_ms,
            self.at_ms + 10,
            asked,
            result,
            kind=kind,
            error=error,
            key=path,
            process=process,
            extra=extra,
        )
        return self

    def make(self, path: str, op: str = "create", **more: Any) -> World:
        directory, name = self._ids(path)
        inode = f"{path}-id".encode().hex()
        kind = "directory" if op == "mkdir" else "file"
        self.tree[path] = {"kind": kind, "inode": inode, "size": 0, "nlink": 1}
        if kind == "file":
            self.files[path] = {"size": 0, "blake3": "", "records": []}
        return self.file(op, path, op_=op, directory=directory, name=name, inode=inode, **more)

    def append(self, path: str, token: str, **more: Any) -> World:
        records = self.files[path]["records"]
        offset = len(records) * RECORD_BYTES
        if more.get("applied", more.get("kind", "ok") == "ok"):
            records.append(token)
            self.files[path]["size"] = self.tree[path]["size"] = offset + RECORD_BYTES
        return self.file(
            "append",
            path,
            token,
            op_="write",
            inode=self.tree[path]["inode"],
            append=True,
            offset=0,
            applied_offset=offset,
            length=RECORD_BYTES,
            text=token,
            **more,
        )

    def rename(self, source: str, target: str, token: str, **more: Any) -> World:
        places = (*self._ids(source), *self._ids(target))
        names = ("directory", "name", "target_directory", "target_name")
        inode = self.tree[source]["inode"]
        if more.get("kind", "ok") == "ok":
            self.tree[target] = self.tree.pop(source)
            self.files[target] = self.files.pop(source)
        return self.file(
            "rename",
            target,
            token,
            op_="rename",
            inode=inode,
            source_path=source,
            **dict(zip(names, places, strict=True)),
            **more,
        )

    def remove(self, path: str, op: str, **more: Any) -> World:
        directory, name = self._ids(path)
        inode = self.tree.pop(path)["inode"] if more.get("kind", "ok") == "ok" else ""
        self.files.pop(path, None)
        return self.file(op, path, op_=op, directory=directory, name=name, inode=inode, **more)

    def final(self) -> dict[str, Any]:
        log = [{("op" if name == "op_" else name): value for name, value in line.items()} for line in self.log]
        digest = {"applied_index": 100, "digest": "d1"}
        root = log[-1]["root"] if log else ""
        return {
            "problems": [],
            "nodes": {node: dict(digest) for node in NODES},
            "workspaces": {
                "w": {
                    "log": log,
                    "root": dict.fromkeys(NODES, root),
                    "tree": {node: copy.deepcopy(self.tree) for node in NODES},
                    "files": copy.deepcopy(self.files),
                }
            },
            "hub": {"metadata": copy.deepcopy(self.hub)},
        }

    def run(self, final: dict[str, Any] | None = None) -> Finished:
        return self.book.run(self.final() if final is None else final)


def small_world() -> World:
    """Two directories, a file with three records, one with another name than it was made with, one removed."""
    world = World().make("append", "mkdir").make("target", "mkdir").make("append/0")
    world.append("append/0", "p:1").append("append/0", "p:2")
    world.make("mine").rename("mine", "target/0", "p:9").make("gone").remove("gone", "unlink")
    return world.append("append/0", "p:3")


def hub_key(*values: Any, complete: bool = True, first: int = 3) -> dict[str, Any]:
    """Newest first, as the observer lists them; versions `first`, `first` + 2, …"""
    history = [
        {"value": value, "version": first + 2 * n, "raft_index": 10 + n, "ordinal": 0, "deleted": False}
        for n, value in enumerate(values)
    ]
    newest = history[-1]
    return {
        "value": newest["value"],
        "version": newest["version"],
        "complete": complete,
        "history": list(reversed(history)),
    }
