"""Names in a directory, each on its own: made once among rivals, replaced whole, removed once (WS-21, WS-22).

Owns: the model `Name` and the projection of file operations onto paths; the verdict `paths`.
Every operation of the workload is judged as one command on one name, or on two for a rename: gone at its source, there
at its target with the content of the source. A history of names is linearizable only if each name's is.
EEXIST and ENOENT are answers from apply: they say that the name was there, or was not, at some moment of the call.
Changes stand in the order of their log_index, as far as they were told one (WS-31).
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

MOVED: Final = "moved"  # what a rename is to its source
ANY: Final = "*"  # content that is not followed
MAKE, REMOVE, REPLACE, FILL = "make", "remove", "replace", "fill"
KINDS: Final = {
    "create": MAKE,
    "mkdir": MAKE,
    "unlink": REMOVE,
    "rmdir": REMOVE,
    MOVED: REMOVE,
    "rename": REPLACE,
    "overwrite": FILL,
}


class Name(NamedTuple):
    """`log_index`: the highest that an operation on it was told so far."""

    there: bool
    content: Hashable
    log_index: int


class Change(NamedTuple):
    """MAKE (O_EXCL, as mkdir is), REMOVE, REPLACE (a rename onto the name) or FILL (an overwrite of what is there).
    `log_index` None: nobody was told."""

    kind: str
    content: Hashable
    log_index: int | None


class Look(NamedTuple):
    """`content` ANY: it was there, holding whatever."""

    there: bool
    content: Hashable


class Names:
    start: Hashable = Name(False, "", 0)

    def action(self, operation: Operation) -> Hashable | None:
        if operation.outcome == FAIL:
            return _refusal(operation)
        if operation.op in KINDS:
            kind = KINDS[operation.op]
            content = frozen(operation.asked) if kind in (REPLACE, FILL) else ""
            return Change(kind, content, operation.number("log_index") if operation.outcome == OK else None)
        match operation.op:
            case "append":
                return Look(True, ANY) if operation.outcome == OK else None
            case "read_file":
                return _look(operation)
        raise BadOperationError(f"a name has no such operation: {operation.describe()}")

    def step(self, state: Hashable, action: Hashable) -> Hashable | None:
        assert isinstance(state, Name)
        match action:
            case Change(kind, content, log_index):
                if kind != REPLACE and state.there == (kind == MAKE):
                    return None
                if log_index is not None and log_index <= state.log_index:
                    return None
                return Name(kind != REMOVE, content, state.log_index if log_index is None else log_index)
            case Look(there, content):
                fits = there == state.there and (not there or content in (ANY, state.content))
                return state if fits else None
        raise BadOperationError(f"no action on a name: {action!r}")

    def observes(self, action: Hashable) -> bool:
        return isinstance(action, Look)


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
