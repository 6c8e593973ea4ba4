"""Keys whose byte order is the order of the tuples they stand for.

Owns: `escaped`, `number`, `prefix_end` and the scope's prefix. Each kind of record fixes the types of its positions
(in its own module), so a key needs no type tags: numbers are eight bytes, most significant first; text and bytes
are escaped and ended, except in the last position, where they may stand as they are.
Invariants: two tuples compare as their keys do; no escaped part is a prefix of another.
"""

from __future__ import annotations

import struct

from hypercluster.values import Scope

_U64 = struct.Struct(">Q")
# 0x00 ends a part and sorts below every byte that could continue it; a 0x00 inside is followed by 0xFF.
_ZERO, _ESCAPED_ZERO, _END = b"\0", b"\0\xff", b"\0\x01"


def number(value: int) -> bytes:
    """0 to 2^64 - 1."""
    return _U64.pack(value)


def read_number(key: bytes, position: int) -> int:
    return int(_U64.unpack_from(key, position)[0])


def escaped(part: bytes) -> bytes:
    return part.replace(_ZERO, _ESCAPED_ZERO) + _END


def read_escaped(key: bytes, position: int) -> tuple[bytes, int]:
    """The part that begins at `position`, and where the next one begins. Raises ValueError when it does not end."""
    end = position
    while True:
        end = key.index(_ZERO, end)
        if key[end : end + 2] == _END:
            return key[position:end].replace(_ESCAPED_ZERO, _ZERO), end + 2
        end += 2


def scope_prefix(scope: Scope) -> bytes:
    return escaped(scope.org.encode()) + escaped(scope.project.encode())


def prefix_end(prefix: bytes) -> bytes:
    """The least key above every key that begins with `prefix`, which must hold a byte below 0xFF."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,))
