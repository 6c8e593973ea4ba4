"""Checks of one field of a message as it was received.

Owns: the sizes of ids, hashes and numbers, and the wording of a refusal.
Never: a look at replicated state (D-3).
Invariants: the only errors are MalformedError and TooLargeError, and each names the field and the limit.
"""

from __future__ import annotations

from typing import Final

from hypercluster.errors import MalformedError, TooLargeError

ID_BYTES: Final = 16
HASH_BYTES: Final = 32
NUMBER_MAX: Final = (1 << 63) - 1


def exactly(field: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise MalformedError(f"{field} is {len(value)} bytes, must be {size}")


def sized(field: str, size: int, limit_name: str, limit: int, *, unit: str = "bytes") -> None:
    if size > limit:
        raise TooLargeError(f"{field} is {size} {unit}, limit {limit_name} is {limit}")


def between(field: str, value: int, least: int, limit_name: str, limit: int) -> None:
    if not least <= value <= limit:
        raise MalformedError(f"{field} is {value}, must be {least} to {limit_name} {limit}")
