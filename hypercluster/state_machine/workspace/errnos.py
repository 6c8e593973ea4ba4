"""Linux errno numbers of the workspace's own model (WS-21 to WS-24).

Owns: the numbers, written out: they are replicated and stored, so they may never follow the platform they run on.
Never: `os` or the `errno` module, whose values vary.
"""

from __future__ import annotations

from typing import Final

from hypercluster.state_machine.outcome import ERRNO, FileOutcome

EPERM: Final = 1
ENOENT: Final = 2
EWOULDBLOCK: Final = 11
EACCES: Final = 13
EEXIST: Final = 17
ENOTDIR: Final = 20
EISDIR: Final = 21
EINVAL: Final = 22
EFBIG: Final = 27
ENOSPC: Final = 28
EMLINK: Final = 31
ERANGE: Final = 34
EDEADLK: Final = 35
ENAMETOOLONG: Final = 36
ENOTEMPTY: Final = 39
ELOOP: Final = 40
ENODATA: Final = 61
EOPNOTSUPP: Final = 95
EDQUOT: Final = 122
E2BIG: Final = 7

_KNOWN: Final = (
    *(
        EPERM,
        ENOENT,
        EWOULDBLOCK,
        EDEADLK,
        E2BIG,
        EACCES,
        EEXIST,
        ENOTDIR,
        EISDIR,
        EINVAL,
        EFBIG,
        ENOSPC,
        EMLINK,
        ERANGE,
    ),
    *(ENAMETOOLONG, ENOTEMPTY, ELOOP, ENODATA, EOPNOTSUPP, EDQUOT),
)

REFUSALS: Final = {number: FileOutcome(reason=ERRNO, errno=number) for number in _KNOWN}


def refused(number: int) -> FileOutcome:
    """The refusal with this errno; one shared object each, as outcomes are immutable."""
    return REFUSALS[number]
