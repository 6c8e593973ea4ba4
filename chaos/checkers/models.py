"""What a hub key, a counter and a name in a directory may do, one operation at a time; from the specification.

Owns: sequential models for linear.py. A key of namespace `metadata` holds a value and a version; the version is the
server_seq of the operation that wrote it, so it rises with every write and is 0 while there is none (HUB-2, HUB-3). A
write with a precondition passes only at exactly that version, and a refusal says that the version was another (HUB-7;
an answer that shows state, a refusal included, is as good as a linearizable read, CL-10).
Never: imports the product; keeps more of an operation than what it asked for and was told.
A write of unknown outcome has an unknown version, above the one it replaced, until somebody reads it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from chaos.checkers.operations import Operation
from chaos.records import FAIL, INFO, OK

REFUSED: Final = "PRECONDITION_FAILED"
LINEARIZABLE: Final = ("", "linearizable")


class Held(NamedTuple):
    """A key's state. When not `exact`, its version is some higher one than `version`."""

    value: Hashable
    version: int
    exact: bool


class Put(NamedTuple):
    """A write; with `expected`, of that version alone. `version` is what it was told, None when nobody knows."""

    value: Hashable
    version: int | None
    expected: int | None


class Saw(NamedTuple):
    value: Hashable
    version: int | None


class Differed(NamedTuple):
    """A refused precondition: the version was not `expected`, but `present`, if that was told."""

    expected: int
    present: int | None


class BadOperationError(ValueError):
    """An operation lacks what its workload has to record."""


def frozen(value: Any) -> Hashable:
    """JSON as something hashable."""
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), frozen(item)) for name, item in value.items()))
    hashable: Hashable = value
    return hashable


def cas_parts(operation: Operation) -> tuple[int, Hashable]:
    """(expected version, new value) of a compare-and-set."""
    asked = operation.asked
    if not isinstance(asked, list) or len(asked) != 2 or not isinstance(asked[0], int):
        raise BadOperationError(f"the value of a cas must be [expected version, new value]: {operation.describe()}")
    return asked[0], frozen(asked[1])


class Register:
    """write, read, cas. `told` gives versions of values that somebody read, for writes that never heard theirs."""

    start: Hashable = Held(None, 0, True)

    def __init__(self, told: Mapping[Hashable, int] | None = None) -> None:
        self._told = told or {}

    def action(self, operation: Operation) -> Hashable | None:
        version = operation.number("version")
        match operation.op:
            case "read":
                if operation.outcome != OK or operation.level not in LINEARIZABLE:
                    return None
                return Saw(frozen(operation.result), version)
            case "write":
                return self._put(operation, frozen(operation.asked), None)
            case "cas":
                expected, value = cas_parts(operation)
                if operation.outcome == FAIL:
                    return Differed(expected, version) if operation.error == REFUSED else None
                return self._put(operation, value, expected)
        raise BadOperationError(f"a register has no such operation: {operation.describe()}")

    def _put(self, operation: Operation, value: Hashable, expected: int | None) -> Hashable | None:
        if operation.outcome == FAIL:
            return None
        version = operation.number("version") if operation.outcome == OK else None
        return Put(value, self._told.get(value) if version is None else version, expected)

    def step(self, state: Hashable, action: Hashable) -> Hashable | None:
        assert isinstance(state, Held)
        match action:
            case Put():
                return _after_put(state, action)
            case Saw(value, version):
                if value != state.value:
                    return None
                if version is None:
                    return state
                return Held(value, version, True) if _may_be(state, version) else None
            case Differed():
                return _after_refusal(state, action)
        raise BadOperationError(f"no action of a register: {action!r}")

    def observes(self, action: Hashable) -> bool:
        return isinstance(action, (Saw, Differed))


def _may_be(state: Held, version: int) -> bool:
    return version == state.version if state.exact else version > state.version


def _after_put(state: Held, put: Put) -> Held | None:
    present = state.version
    if put.expected is not None:
        if not _may_be(state, put.expected):
            return None
        present = put.expected
    if put.version is None:
        return Held(put.value, present, False)
    return Held(put.value, put.version, True) if put.version > present else None


def _after_refusal(state: Held, refusal: Differed) -> Held | None:
    if refusal.present is None:
        return None if state.exact and state.version == refusal.expected else state
    if refusal.present == refusal.expected or not _may_be(state, refusal.present):
        return None
    return Held(state.value, refusal.present, True)


def versions_told(operations: Iterable[Operation]) -> dict[Hashable, int]:
    """Versions of values, by what reads of any level and acknowledged writes were told. Values are written once."""
    told: dict[Hashable, int] = {}
    for operation in operations:
        version = operation.number("version")
        if operation.outcome != OK or version is None:
            continue
        if operation.op == "read":
            told.setdefault(frozen(operation.result), version)
        elif operation.op == "write":
            told.setdefault(frozen(operation.asked), version)
        elif operation.op == "cas":
            told.setdefault(cas_parts(operation)[1], version)
    return told


@dataclass(frozen=True, slots=True)
class _Made:
    """An increment; `number` is what it made, None when nobody was told."""

    number: int | None


class Counter:
    """increment, which answers the number it made, and read. An absent counter reads as null or 0."""

    start: Hashable = 0

    def action(self, operation: Operation) -> Hashable | None:
        match operation.op:
            case "increment":
                if operation.outcome == FAIL:
                    return None
                return _Made(None if operation.outcome == INFO else _integer(operation))
            case "read":
                if operation.outcome != OK or operation.level not in LINEARIZABLE:
                    return None
                return Saw(0 if operation.result is None else _integer(operation), None)
        raise BadOperationError(f"a counter has no such operation: {operation.describe()}")

    def step(self, state: Hashable, action: Hashable) -> Hashable | None:
        assert isinstance(state, int)
        match action:
            case _Made(number):
                return state + 1 if number is None or number == state + 1 else None
            case Saw(value, _):
                return state if value == state else None
        raise BadOperationError(f"no action of a counter: {action!r}")

    def observes(self, action: Hashable) -> bool:
        return isinstance(action, Saw)


def _integer(operation: Operation) -> int:
    if not isinstance(operation.result, int) or isinstance(operation.result, bool):
        raise BadOperationError(f"not an integer: {operation.describe()}")
    return operation.result
