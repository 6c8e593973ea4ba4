"""The lock on the library's door: the exact version, the exact source, no pickle, no clock of its own.

Owns: the check that pysyncobj is byte for byte the one this package was written against, the loader that always
raises where its pickle was, and `library_seams`, the one place where its module globals are replaced.
Never: imported from outside this package.
Invariants: importing this module either seals the library or raises; outside `library_seams` the library's
journal, poller and clock refuse to be used, so several engines live in one process, each with its own.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import pysyncobj.syncobj as library
from pysyncobj.version import VERSION

from hypercluster.errors import InvariantError
from hypercluster.raft.library_digests import SOURCE_DIGESTS, VERSION_PINNED

PICKLE_NAMES: Final = ("load", "loads", "dump", "dumps")


def source_digest(name: str) -> str:
    """Hash of the source of one of SyncObj's methods, by its mangled name."""
    source = inspect.getsource(getattr(library.SyncObj, name))
    return hashlib.sha256(source.encode()).hexdigest()[:24]


def verify_library(version: str = VERSION, digest: Callable[[str], str] = source_digest) -> None:
    """Raises InvariantError when the library is not the one the overrides were written for."""
    if version != VERSION_PINNED:
        raise InvariantError(f"pysyncobj is {version}; this build needs exactly {VERSION_PINNED}")
    for name, wanted in SOURCE_DIGESTS.items():
        if digest(name) != wanted:
            raise InvariantError(f"pysyncobj {version}: the source of SyncObj.{name} is not the one this build knows")


def _no_pickle(*_: object, **__: object) -> NoReturn:
    raise InvariantError("pickle is sealed: no pickle may reach a wire or a disk (CL-1)")


class SealedPickle:
    """Stands where the library imported pickle: whatever is asked of it, it raises."""

    def __getattr__(self, name: str) -> NoReturn:
        _no_pickle(name)


def _outside(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise InvariantError(f"pysyncobj reached for its own {what}")

    return refuse


def seal_library() -> None:
    """Puts the refusing loader and the refusing seams in place. Idempotent."""
    for name, module in sorted(sys.modules.items()):
        if name != "pysyncobj" and not name.startswith("pysyncobj."):
            continue
        for bound in PICKLE_NAMES:
            if callable(getattr(module, bound, None)):
                setattr(module, bound, _no_pickle)
        if name == "pysyncobj.pickle":
            module.pickle = SealedPickle()  # type: ignore[attr-defined]
    library.createJournal = _outside("journal")
    library.createPoller = _outside("poller")
    library.monotonicTime = _outside("clock")


class IdlePoller:
    """The library's poller interface, with nothing to poll: sockets belong to the peer transport."""

    def subscribe(self, *_: object) -> None: ...

    def unsubscribe(self, *_: object) -> None: ...

    def poll(self, timeout: float) -> None: ...


@contextmanager
def library_seams(journal: object, monotonic: Callable[[], float]) -> Iterator[None]:
    """While it lasts, and on this thread, the library gets this engine's journal and clock."""
    before = library.createJournal, library.createPoller, library.monotonicTime
    library.createJournal = lambda _name: journal
    library.createPoller = lambda _kind: IdlePoller()
    library.monotonicTime = monotonic
    try:
        yield
    finally:
        library.createJournal, library.createPoller, library.monotonicTime = before


verify_library()
seal_library()
