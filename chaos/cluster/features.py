"""What this machine can do for a run, tried rather than guessed.

Owns: one probe for each ability of the machine, with words for what is missing, and what each kind of cluster needs.
Never: leaves anything behind: what a probe makes has a name of its own and is removed at once.
Invariants: a probe does in small what a run does: '' means it worked a moment ago.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from chaos.cluster import image
from chaos.cluster.bridge import RULES

TUN = Path("/dev/net/tun")
TUNSETIFF = 0x400454CA
IFF_TAP_NO_PACKET_INFO = 0x0002 | 0x1000
PROBE_S = 20.0

# What a kind of cluster can not do without, and what a feature of a host can not.
KIND_NEEDS: Mapping[str, tuple[str, ...]] = {
    "local": (),
    "namespaces": ("root", "namespaces", "nftables"),
    "switch": ("root", "namespaces", "tun"),
}
HOST_NEEDS: Mapping[str, tuple[str, ...]] = {
    "shim": ("compiler", "preload"),
    "power": ("root", "loop"),
    "fill": ("root", "loop"),
}


def probe() -> dict[str, str]:
    """Ability -> '' or what is missing."""
    return {name: tried() for name, tried in PROBES.items()}


def why_not(kind: str) -> str:
    """'' where this machine can run such a cluster; else what is missing. Raises ValueError for an unknown kind."""
    if kind not in KIND_NEEDS:
        raise ValueError(f"kind: {kind!r}, must be one of {', '.join(KIND_NEEDS)}")
    missing = [words for need in KIND_NEEDS[kind] if (words := PROBES[need]())]
    return "; ".join(missing)


def host_features() -> dict[str, str]:
    """Feature of a host -> '' where this machine can have it, or what is missing."""
    found = probe()
    return {name: "; ".join(found[need] for need in needs if found[need]) for name, needs in HOST_NEEDS.items()}


def _root() -> str:
    return "" if os.geteuid() == 0 else "root: this process is not run by root"


def _namespaces() -> str:
    if wrong := _needs_root_and("namespaces", "ip", "nsenter"):
        return wrong
    name = f"hcprobe-{secrets.token_hex(3)}"
    if wrong := _run("namespaces", "ip", "netns", "add", name):
        return wrong
    try:
        return _run("namespaces", "ip", "-n", name, "link", "set", "lo", "up")
    finally:
        _run("namespaces", "ip", "netns", "del", name)


def _nftables() -> str:
    if wrong := _needs_root_and("nftables", "nft", "unshare"):
        return wrong
    return _run("nftables of family bridge", "unshare", "--net", "nft", "-f", "-", said=RULES)


def _tun() -> str:
    if os.geteuid() != 0:
        return "tun: needs root"
    try:
        descriptor = os.open(TUN, os.O_RDWR)
    except OSError as error:
        return f"tun: {TUN}: {error.strerror}"
    try:
        name = f"hcp{secrets.token_hex(4)}".encode()
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name, IFF_TAP_NO_PACKET_INFO))
    except OSError as error:
        return f"tun: no TAP device: {error.strerror}"
    finally:
        os.close(descriptor)  # and with it the device
    return ""


def _loop() -> str:
    """A disk is made, mounted and shut down, as a power cut does it."""
    return image.why_not().removeprefix("not run: ")


def _compiler() -> str:
    if shutil.which("gcc") is None:
        return "compiler: there is no gcc"
    with tempfile.TemporaryDirectory() as directory:
        target = str(Path(directory) / "probe.so")
        said = "#include <dlfcn.h>\nint probe(void) { return 1; }\n"
        return _run("compiler", "gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", target, said=said)


def _preload() -> str:
    """The loader of this interpreter heeds LD_PRELOAD where it complains about a library that is not there."""
    missing = "/hypercluster-no-such-library.so"
    done = subprocess.run(
        [sys.executable, "-c", ""],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROBE_S,
        env={**os.environ, "LD_PRELOAD": missing},
    )
    return "" if missing in done.stderr else "preload: the loader of this interpreter does not heed LD_PRELOAD"


PROBES: Mapping[str, Callable[[], str]] = {
    "root": _root,
    "namespaces": _namespaces,
    "nftables": _nftables,
    "tun": _tun,
    "loop": _loop,
    "compiler": _compiler,
    "preload": _preload,
}


def _needs_root_and(what: str, *commands: str) -> str:
    if os.geteuid() != 0:
        return f"{what}: needs root"
    missing = [command for command in commands if shutil.which(command) is None]
    return f"{what}: there is no {' and no '.join(missing)} (package nftables, iproute2, util-linux)" if missing else ""


def _run(what: str, *command: str, said: str = "") -> str:
    try:
        done = subprocess.run(command, input=said, capture_output=True, text=True, check=False, timeout=PROBE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{what}: {command[0]}: {error}"
    return "" if done.returncode == 0 else f"{what}: {command[0]}: {done.stderr.strip()}"
