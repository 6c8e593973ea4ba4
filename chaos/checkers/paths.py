"""Names in a directory, each on its own: made once among rivals, replaced whole, removed once (WS-21, WS-22).

Owns: the model `Name` and the projection of file operations onto paths; the verdict `paths`.
Every operation of the workload is judged as one command on one name, or on two for a rename: gone at its source, there
at its target with the content of the source. A history of names is linearizable only if each name's is.
EEXIST and ENOENT are answers from apply: they say that the name was there, or was not, at some moment of the call.
Invariants: paths below `append/` are judged here for being there only; what they hold is append_order's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from chaos.checkers.keyed import Linearizable
from chaos.checkers.models import LINEARIZABLE, BadOperationError, frozen
from chaos.checkers.operations import Operation, by_key
from chaos.records import FAIL, OK

APPENDED: Final = "append/"
MOVED: Final = "moved"  # what a rename is to its source
ANY: Final = "*"  # content that is not followed


class Name(NamedTuple):
    there: bool
    content: Hashable


class Make(NamedTuple):
    """O_EXCL, as mkdir is."""


class Remove(NamedTuple):
    pass


class Replace(NamedTuple):
    """A rename onto the name."""

    content: Hashable


class Fill(NamedTuple):
    """An overwrite of what is there."""

    content: Hashable


class Look(NamedTuple):
    """`content` ANY: it was there, holding whatever."""

    there: bool
    content: Hashable


class Names:
    start: Hashable = Name(False, "")

    def action(self, operation: Operation) -> Hashable | None:
        if operation.outcome == FAIL:
            return _refusal(operation)
        match operation.op:
            case "create" | "mkdir":
                return Make()
            case "unlink" | "rmdir" | "moved":
                return Remove()
            case "rename":
                return Replace(frozen(operation.asked))
            case "overwrite":
                return Fill(frozen(operation.asked))
            case "append":
                return Look(True, ANY) if operation.outcome == OK else None
            case "read_file":
                return _look(operation)
        raise BadOperationError(f"a name has no such operation: {operation.describe()}")

    def step(self, state: Hashable, action: Hashable) -> Hashable | None:
        assert isinstance(state, Name)
        match action:
            case Make():
                return None if state.there else Name(True, "")
            case Remove():
                return Name(False, "") if state.there else None
            case Replace(content):
                return Name(True, content)
            case Fill(content):
                return Name(True, content) if state.there else None
            case Look(there, content):
                fits = there == state.there and (not there or content in (ANY, state.content))
                return state if fits else None
        raise BadOperationError(f"no action on a name: {action!r}")


def _refusal(operation: Operation) -> Hashable | None:
    if operation.op in ("create", "mkdir") and operation.error == "EEXIST":
        return Look(True, ANY)
    if operation.op in ("unlink", "rmdir", MOVED, "overwrite", "append") and operation.error == "ENOENT":
        return Look(False, "")
    return None


def _look(operation: Operation) -> Hashable | None:
    if operation.outcome != OK or operation.level not in LINEARIZABLE:
        return None
    if operation.result is None or operation.extra.get("absent"):
        return Look(False, "")
    return Look(True, ANY if isinstance(operation.result, list) else frozen(operation.result))


def by_path(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """A rename stands at its target and, as MOVED, at its source."""
    projected: list[Operation] = []
    for operation in operations:
        projected.append(operation)
        if operation.op == "rename":
            source = operation.text("source")
            if not source:
                raise BadOperationError(f"a rename that does not say from where: {operation.describe()}")
            projected.append(replace(operation, op=MOVED, key=source))
    return by_key(projected)


PATHS = Linearizable("paths", ("files",), lambda operations: Names(), partition=by_path)
