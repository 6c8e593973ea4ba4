"""Disk and clock of the nodes of one machine: the preloaded shim, and a disk image a node.

Owns: `LocalHost` (a `seams.Host`), and `hosts_for`, which makes a `HostRig` for every node.
Never: starts or ends a node; touches a clock other than through the shim, or a mount other than its own.
Invariants: `close` undoes what `start` did, also half of it, and may be called twice. Without a shim and a disk a host
has no features and refuses each fault. `probe` measures: a process that is steered as the node is writes and syncs
below the data directory and says what its clock shows.
Where things lie, for node n1 of DIR: a disk is mounted at DIR/n1/disk, with the data in DIR/n1/disk/data, so that the
directory can be renamed as `node rejoin` does; without one the data are in DIR/n1/data. The page is DIR/n1/shim.page.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from chaos.cluster.image import DiskError, PowerDisk, cut_all, sweep
from chaos.shim import control
from chaos.shim.control import Rule, ShimPage

SHIM, POWER, FILL = "shim", "power", "fill"
# Each feature, and what the machine must be able to do for it.
NEEDS: Final[Mapping[str, frozenset[str]]] = {
    SHIM: frozenset({"compiler", "preload"}),
    POWER: frozenset({"root", "loop"}),
    FILL: frozenset({"root", "loop"}),
}
DISK_BYTES: Final = 2 << 30  # sparse; a node's log, two checkpoints and what it keeps free fit in it
FILL_SLACK_BYTES: Final = 1 << 20
PROBE_S: Final = 20.0
PROBE_SYNCS: Final = 8
PROBE_ATTEMPTS: Final = 3
PACE_TIMES: Final = 4.0  # a disk is at its usual pace within so many times of it,
PACE_MS: Final = 15.0  # or so much above it: less than the smallest delay that a nemesis draws
CLOCK_MS: Final = 5.0

# Runs under the shim: the quickest of some synced writes in milliseconds, then its clock beside true time. With a
# number of 0 the disk is left alone.
_MEASURE: Final = """
import os, sys, time
path, count = sys.argv[1], int(sys.argv[2])
best = 0.0
if count:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    took = []
    for number in range(count):
        began = time.monotonic()
        os.pwrite(file, bytes([number]) * 4096, 0)
        os.fdatasync(file)
        took.append(time.monotonic() - began)
    best = min(took)
    os.close(file)
    os.rename(path, path + ".renamed")
    os.unlink(path + ".renamed")
print(best * 1e3, time.monotonic_ns(), time.time_ns())
"""


class LocalHost:
    """Made with its features, usable once it is equipped. Without features it refuses every fault: a node on the
    machine's own disk and clock."""

    def __init__(self, node: str, data_directory: Path, features: AbstractSet[str] = frozenset()) -> None:
        self.features = frozenset(features)
        self._node = node
        self._data = data_directory
        self._page: ShimPage | None = None
        self._disk: PowerDisk | None = None
        self._environment: dict[str, str] = {}
        self._cut = False
        self._usual_ms = 0.0

    def equip(self, page: ShimPage | None, disk: PowerDisk | None, environment: Mapping[str, str]) -> None:
        """With what the features promise; from now on it can be used. Raises DiskError."""
        self._page, self._disk, self._environment = page, disk, dict(environment)
        self._usual_ms, _ = self._measure(PROBE_SYNCS)

    def unequip(self) -> None:
        self._page = self._disk = None

    # --- the shim ----------------------------------------------------------------------------------

    def sync_delay(self, delay_ms: float, share: float = 1.0) -> None:
        self._shim().sync(Rule(delay_ms=delay_ms, share=share))

    def sync_error(self, errno: int, share: float = 1.0) -> None:
        self._shim().sync(Rule(errno=errno, share=share))

    def clock(self, offset_ms: float, rate: float = 1.0) -> None:
        self._shim().clock(offset_ms, rate)

    def steers(self) -> bool:
        return self._shim().is_mapped()

    # --- the disk ----------------------------------------------------------------------------------

    def fill(self, free_bytes: int) -> None:
        disk = self._own_disk()
        disk.fill(free_bytes)
        if (left := disk.free_bytes()) > free_bytes + FILL_SLACK_BYTES:
            raise DiskError(f"{self._node}: {left} bytes are still free, {free_bytes} were to be")

    def power_cut(self) -> None:
        """The node's process must be killed now: it meets errors that no power cut leaves anybody to see."""
        cut_all([self._own_disk()])
        self._cut = True

    def restore(self) -> None:
        """The node's process is gone. Nothing happens to a disk that is mounted and was not cut."""
        disk = self._own_disk()
        if self._cut:
            disk.unmount()
        if not disk.is_mounted():
            disk.mount()
        self._cut = False

    # --- both --------------------------------------------------------------------------------------

    def heal(self, *, disk: bool = True, clock: bool = True) -> None:
        if self._page is not None:
            self._page.heal(disk=disk, clock=clock)
        if disk and self._disk is not None:
            self.restore()
            self._disk.clear()

    def probe(self, *, disk: bool = True, clock: bool = True) -> str:
        if self._page is not None and (active := self._page.active(disk=disk, clock=clock)):
            return f"{self._node}: {active}"
        if self._disk is not None:
            if self._cut or not self._disk.is_mounted():
                return f"{self._node}: its disk is not mounted"
            if disk and self._disk.ballast.exists():
                return f"{self._node}: its disk is still filled"
        problem = ""
        for _ in range(PROBE_ATTEMPTS):  # another load of the machine passes, a rule does not
            problem = self._measured_problem(disk, clock)
            if not problem:
                break
        return f"{self._node}: {problem}" if problem else ""

    def _measured_problem(self, disk: bool, clock: bool) -> str:
        try:
            sync_ms, clock_ms = self._measure(PROBE_SYNCS if disk else 0)
        except DiskError as error:
            return str(error)
        if disk and sync_ms > max(PACE_TIMES * self._usual_ms, self._usual_ms + PACE_MS):
            return f"a synced write takes {sync_ms:.1f} ms, usually {self._usual_ms:.1f}"
        if clock and abs(clock_ms) > CLOCK_MS:
            return f"the clock is {clock_ms:+.0f} ms off"
        return ""

    def _measure(self, syncs: int) -> tuple[float, float]:
        """Milliseconds: the quickest synced write below the data directory, and how far off the clock is there."""
        command = [sys.executable, "-I", "-S", "-c", _MEASURE, str(self._data / "chaos-probe"), str(syncs)]
        apart_ns = _wall_minus_monotonic_ns()
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **self._environment},
                capture_output=True,
                text=True,
                check=False,
                timeout=PROBE_S,
            )
        except subprocess.TimeoutExpired:
            raise DiskError(f"{syncs} synced writes take more than {PROBE_S} s") from None
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise DiskError(f"a process on this host fails: {said[-1]}")
        sync_ms, monotonic_ns, wall_ns = done.stdout.split()
        return float(sync_ms), (int(wall_ns) - int(monotonic_ns) - apart_ns) / 1e6

    def _shim(self) -> ShimPage:
        if self._page is None:
            raise NotImplementedError(f"{self._node} has no shim now")
        return self._page

    def _own_disk(self) -> PowerDisk:
        if self._disk is None:
            raise NotImplementedError(f"{self._node} has no disk of its own now")
        return self._disk


def _wall_minus_monotonic_ns() -> int:
    return time.time_ns() - time.monotonic_ns()


class HostRig:
    """A `seams.HostRig`: what one node stands on."""

    def __init__(self, node: str, directory: Path, features: AbstractSet[str], seed: int = 1) -> None:
        """`directory` is of this run alone. Makes nothing yet. Raises ValueError."""
        if unknown := sorted(features - NEEDS.keys()):
            raise ValueError(f"features: {', '.join(unknown)} not known to a host")
        self.node = node
        self.environment: dict[str, str] = {}
        self._started = False
        self._home = directory.resolve() / node
        self._libraries = directory.resolve() / "shim"
        self._features = frozenset(features)
        self._seed = seed
        self._page: ShimPage | None = None
        self._disk: PowerDisk | None = None
        self.host = LocalHost(node, self.data_directory, self._features)

    @property
    def has_disk(self) -> bool:
        return bool(self._features & {POWER, FILL})

    @property
    def data_directory(self) -> Path:
        return self._home / "disk" / "data" if self.has_disk else self._home / "data"

    def __enter__(self) -> HostRig:
        """Starts nothing: that is for the cluster to do."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """The data directory is there, and empty unless there was something in it. Nothing happens to one that was
        started. Raises DiskError or NoShimError, with nothing left behind."""
        if self._started:
            return
        self._started = True
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self.data_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.has_disk:
            sweep()
            self._disk = PowerDisk(self._home / "disk.image", self._home / "disk", DISK_BYTES)
            self._disk.mount()
        if SHIM in self._features:
            library = control.build(self._libraries)
            self._page = ShimPage(self._home / "shim.page", self.data_directory, self._seed)
            self.environment = control.environment(library, self._page)
        self.host.equip(self._page, self._disk, self.environment)
        if self._page is not None and self._page.attached == 0:
            raise control.NoShimError("a process started with LD_PRELOAD did not load the shim")

    def close(self) -> None:
        """The node's process is gone. Rules off, disk away: what was written to it is, too. Idempotent."""
        self.host.unequip()
        self._started = False
        self.environment = {}
        if self._page is not None:
            self._page.heal()
            self._page.close()
            self._page = None
        if self._disk is not None:
            self._disk.remove()
            self._disk = None


def hosts_for(
    directory: Path, nodes: Sequence[str], features: AbstractSet[str], seed: int = 1
) -> Mapping[str, HostRig]:
    """One for each node, with all that `features` allow: those of a host, or abilities of the machine (features.py).
    Other names say nothing to a host. Makes nothing yet."""
    wanted = frozenset(one for one, needs in NEEDS.items() if one in features or needs <= features)
    return {node: HostRig(node, directory, wanted, seed + number) for number, node in enumerate(nodes)}
