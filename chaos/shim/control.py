"""Steering the shim from outside: building it, and writing its page.

Owns: `ShimPage`, `build`, and the mirror of page.h in Python (a test compares the two by what the compiler says).
Never: starts or ends a process; decides what is broken when.
Invariants: a page that was never steered, or was healed, has no effect; a rule is one word and so is never seen half
written; the sequence number of the clock is odd while its three words change. A library is built once for its source:
its name holds the hash of what it was made of, and it appears by rename.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
SOURCES: Final = ("page.h", "shim.c", "layout.c")
PAGE_BYTES: Final = 4096
PAGE_MAGIC: Final = 0x314D4948534F4143
PREFIX_BYTES: Final = 1024
DELAY_US_MAX: Final = (1 << 32) - 1
ERRNO_MAX: Final = (1 << 12) - 1
PPM: Final = 1_000_000
NANOS_PER_S: Final = 1_000_000_000
RATE_MIN, RATE_MAX = 0.1, 10.0
BUILD_S: Final = 60.0
FLAGS: Final = ("-std=c11", "-O2", "-Wall", "-Wextra")


class NoShimError(RuntimeError):
    """It can not be built or loaded here; says why."""


class Op(ctypes.Structure):
    """`struct op` of page.h."""

    rule: int
    calls: int
    hits: int
    _fields_ = (("rule", ctypes.c_uint64), ("calls", ctypes.c_uint64), ("hits", ctypes.c_uint64))


class Page(ctypes.Structure):
    """`struct page` of page.h."""

    magic: int
    attached: int
    seed: int
    sync: Op
    write: Op
    rename: Op
    clock_sequence: int
    clock_offset_ns: int
    clock_drift_ppb: int
    clock_base_ns: int
    prefix: bytes
    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("attached", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("sync", Op),
        ("write", Op),
        ("rename", Op),
        ("clock_sequence", ctypes.c_uint64),
        ("clock_offset_ns", ctypes.c_int64),
        ("clock_drift_ppb", ctypes.c_int64),
        ("clock_base_ns", ctypes.c_int64),
        ("prefix", ctypes.c_char * PREFIX_BYTES),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to a share of the calls of one kind. Both at once: late, and then failing."""

    delay_ms: float = 0.0
    errno: int = 0
    share: float = 1.0

    def word(self) -> int:
        """As page.h has it; 0 when nothing happens. Raises ValueError."""
        delay_us, share_ppm = round(self.delay_ms * 1000), round(self.share * PPM)
        if not 0 <= delay_us <= DELAY_US_MAX:
            raise ValueError(f"delay_ms: {self.delay_ms}, must be in 0..{DELAY_US_MAX / 1000}")
        if not 0 <= self.errno <= ERRNO_MAX:
            raise ValueError(f"errno: {self.errno}, must be in 0..{ERRNO_MAX}")
        if not 0 <= share_ppm <= PPM:
            raise ValueError(f"share: {self.share}, must be in 0..1")
        if share_ppm == 0 or (delay_us == 0 and self.errno == 0):
            return 0
        return delay_us | self.errno << 32 | share_ppm << 44


NO_RULE: Final = Rule()


class ShimPage:
    """The page of one node, for all lives of its process."""

    def __init__(self, path: Path, prefix: Path, seed: int = 1) -> None:
        """Makes the file anew. `prefix`: the directory below which the disk is steered; links in it are resolved."""
        resolved = os.fsencode(os.path.realpath(prefix)).rstrip(b"/") + b"/"
        if len(resolved) >= PREFIX_BYTES:
            raise ValueError(f"prefix: {len(resolved)} bytes, at most {PREFIX_BYTES - 1} are allowed")
        self.path = path
        path.write_bytes(bytes(PAGE_BYTES))
        with path.open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), PAGE_BYTES)
        self._page = Page.from_buffer(self._mapped)
        self._page.seed = seed
        self._page.prefix = resolved
        self._page.magic = PAGE_MAGIC  # last: what is mapped by then is whole

    def close(self) -> None:
        """Idempotent. Processes that have the page mapped keep it as it is."""
        if not self._mapped.closed:
            del self._page
            self._mapped.close()

    # --- the disk ----------------------------------------------------------------------------------

    def sync(self, rule: Rule) -> None:
        """fsync and fdatasync."""
        self._page.sync.rule = rule.word()

    def write(self, rule: Rule) -> None:
        """write and pwrite."""
        self._page.write.rule = rule.word()

    def rename(self, rule: Rule) -> None:
        """By the new name."""
        self._page.rename.rule = rule.word()

    def hits(self) -> dict[str, int]:
        """How often each kind of rule has struck so far."""
        page = self._page
        return {"sync": page.sync.hits, "write": page.write.hits, "rename": page.rename.hits}

    @property
    def attached(self) -> int:
        """How many processes have loaded the shim with this page so far."""
        return self._page.attached

    def is_mapped(self) -> bool:
        """By a process other than this one that runs now."""
        own, mapped = str(os.getpid()), f" {self.path.resolve()}\n"
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and process.name != own:
                with contextlib.suppress(OSError):  # gone since it was listed
                    if mapped in (process / "maps").read_text(errors="replace"):
                        return True
        return False

    # --- the clock ---------------------------------------------------------------------------------

    def clock(self, offset_ms: float, rate: float = 1.0) -> None:
        """From now on the wall clock is so far off, and gains or loses by `rate` on top. Raises ValueError."""
        if not RATE_MIN <= rate <= RATE_MAX:
            raise ValueError(f"rate: {rate}, must be in {RATE_MIN}..{RATE_MAX}")
        page = self._page
        page.clock_sequence += 1
        page.clock_offset_ns = round(offset_ms * 1e6)
        page.clock_drift_ppb = round((rate - 1.0) * NANOS_PER_S)
        page.clock_base_ns = time.time_ns()
        page.clock_sequence += 1

    def offset_ms(self) -> float:
        """How far off the clock is now, drift included."""
        page = self._page
        drifted_ns = (time.time_ns() - page.clock_base_ns) * page.clock_drift_ppb // NANOS_PER_S
        return (page.clock_offset_ns + drifted_ns) / 1e6

    # --- all of it ---------------------------------------------------------------------------------

    def heal(self, *, disk: bool = True, clock: bool = True) -> None:
        if disk:
            for operation in (self._page.sync, self._page.write, self._page.rename):
                operation.rule = 0
        if clock and self._clock_is_off():
            self.clock(0.0)

    def active(self, *, disk: bool = True, clock: bool = True) -> str:
        """'' when the page does nothing; else what it does."""
        page = self._page
        found = [name for name in ("sync", "write", "rename") if disk and getattr(page, name).rule]
        if clock and self._clock_is_off():
            found.append(f"clock ({self.offset_ms():+.0f} ms)")
        return f"the shim still has rules: {', '.join(found)}" if found else ""

    def _clock_is_off(self) -> bool:
        return bool(self._page.clock_offset_ns or self._page.clock_drift_ppb)


def build(cache: Path) -> Path:
    """The library, built into `cache` unless it is there. Raises NoShimError."""
    return _compile(cache, "libchaosshim", "shim.c", ".so", ("-shared", "-fPIC", "-pthread"))


def build_layout(cache: Path) -> Path:
    """The program that prints the layout of page.h. Raises NoShimError."""
    return _compile(cache, "shim-layout", "layout.c", "", ())


def environment(library: Path, page: ShimPage) -> dict[str, str]:
    """What a process is started with."""
    return {"LD_PRELOAD": str(library), "CHAOS_PAGE": str(page.path)}


def _compile(cache: Path, name: str, source: str, suffix: str, flags: tuple[str, ...]) -> Path:
    content = b"".join((HERE / one).read_bytes() for one in SOURCES)
    target = cache / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    if target.exists():
        return target
    compiler = shutil.which("gcc")
    if compiler is None:
        raise NoShimError("there is no gcc")
    cache.mkdir(parents=True, exist_ok=True)
    fresh = cache / f"{target.name}.{os.getpid()}"
    command = [compiler, *FLAGS, *flags, "-o", str(fresh), str(HERE / source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_S)
    if done.returncode != 0:
        raise NoShimError(f"gcc does not build the shim: {done.stderr.strip()[-500:]}")
    fresh.rename(target)
    return target
