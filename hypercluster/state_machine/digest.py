"""The running digest of everything apply ever did (CL-17).

Owns: digest_k = BLAKE3(digest_{k-1} ‖ place ‖ changes), where place is index, term and last stamp, and changes is our
own encoding of the ordered key changes: a column of (family, key length, value length), then all keys and values.
Never: an encoding of a library, or of Python. The bytes hashed here are the same in every release (OPS-5).
Invariants: two lists of changes have the same encoding only if they are equal.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from blake3 import blake3

from hypercluster.state_machine.store import Change
from hypercluster.values import Digest, Index, Nanos, Term

_PLACE = struct.Struct(">QQQI")
_DELETED = 0xFFFF_FFFF  # no value is this long


def next_digest(previous: Digest, index: Index, term: Term, stamp_ns: Nanos, changes: Sequence[Change]) -> Digest:
    lengths: list[int] = []
    blobs = [previous, _PLACE.pack(index, term, stamp_ns, len(changes)), b""]
    for family, key, value in changes:
        if value is None:
            lengths += (family, len(key), _DELETED)
            blobs.append(key)
        else:
            lengths += (family, len(key), len(value))
            blobs += (key, value)
    blobs[2] = struct.pack(f">{len(lengths)}I", *lengths)
    return Digest(blake3(b"".join(blobs)).digest())
