"""What a workload process and the observer are told, as JSON on their command lines, checked field by field.

Owns: the reading of `LoadPlan` and `ObserverPlan`, their bounds, and the short name of a seed.
Never: defaults that differ from those of the records.
Invariants: an unknown field, a wrong type or a number out of its bounds is an error that names the field and the limit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, TypeVar

from chaos.seams import LoadPlan
from chaos.workloads import WORKLOADS

PLAN_BYTES_MAX = 1 << 16
WORKERS_MAX = 64
OPS_PER_S_MAX = 10_000.0
NODES_MAX = 64
DEADLINE_S_MAX = 3_600.0
TAG_DIGITS = 6
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

P = TypeVar("P")


class BadPlanError(ValueError):
    """A plan that can not be followed. Names the field."""


@dataclass(frozen=True, slots=True)
class ObserverPlan:
    """`directory`: the run's; final.json is put there. `nodes`: names of those that must be seen; all that are found
    where none are named. Their addresses come from the client file and from what nodes say of their peers.

    `workspaces` and `hub_prefix` narrow what is read, on a cluster that holds other things too.
    """

    client_file: str
    directory: str
    nodes: Sequence[str] = ()
    deadline_s: float = 120.0
    rest_s: float = 20.0  # for all nodes to have applied the same; a heartbeat is enough once no client is left
    workspaces: str = ""
    hub_prefix: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def read_load_plan(text: str) -> LoadPlan:
    """Raises BadPlanError."""
    plan = _decode(LoadPlan, text)
    if plan.workload not in WORKLOADS:
        raise BadPlanError(f"workload is {plan.workload!r}, must be one of {', '.join(WORKLOADS)}")
    _bounded("seed", plan.seed, 0, 2**64 - 1)
    _bounded("workers", plan.workers, 1, WORKERS_MAX)
    _bounded("ops_per_s", plan.ops_per_s, 0.001, OPS_PER_S_MAX)
    return plan


def read_observer_plan(text: str) -> ObserverPlan:
    """Raises BadPlanError."""
    plan = _decode(ObserverPlan, text)
    _bounded("nodes", len(plan.nodes), 0, NODES_MAX)
    _bounded("deadline_s", plan.deadline_s, 1, DEADLINE_S_MAX)
    _bounded("rest_s", plan.rest_s, 0.1, DEADLINE_S_MAX)
    for name in plan.nodes:
        if not isinstance(name, str):
            raise BadPlanError(f"nodes: {name!r} is no name")
    return replace(plan, nodes=tuple(plan.nodes))


def setting(plan: LoadPlan, name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number of `settings`."""
    value = plan.settings.get(name, default)
    if not isinstance(value, int):
        raise BadPlanError(f"settings.{name} is {value!r}, must be a whole number")
    _bounded(f"settings.{name}", value, lowest, highest)
    return value


def tag_of(seed: int) -> str:
    """A seed as it stands in names: itself while it is short, else six digits of it in base 36."""
    if seed < 10**TAG_DIGITS:
        return str(seed)
    digits = ""
    for _ in range(TAG_DIGITS):
        seed, digit = divmod(seed, len(DIGITS))
        digits = DIGITS[digit] + digits
    return digits


def _bounded(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise BadPlanError(f"{name} is {value}, must be {lowest} to {highest}")


def _decode(kind: type[P], text: str) -> P:
    if len(text) > PLAN_BYTES_MAX:
        raise BadPlanError(f"a plan of {len(text)} bytes, limit PLAN_BYTES_MAX is {PLAN_BYTES_MAX}")
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadPlanError(f"a plan must be JSON: {error}") from None
    if not isinstance(values, dict):
        raise BadPlanError("a plan must be a JSON object")
    known: dict[str, Any] = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            raise BadPlanError(f"{name}: no such field; there are {', '.join(known)}")
        _check_type(name, value, known[name].type)
    for name, known_field in known.items():
        if name not in values and known_field.default is MISSING and known_field.default_factory is MISSING:
            raise BadPlanError(f"{name} is missing")
    made: Any = kind
    plan: P = made(**values)
    return plan


def _check_type(name: str, value: object, wanted: str) -> None:
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "Sequence[str]": (list,)}
    allowed = kinds.get(wanted, (dict,))
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise BadPlanError(f"{name} is {value!r}, must be {allowed[-1].__name__}")
