"""TAP devices in the namespaces of a run.

Owns: opening them, and the flags that make them quick.
Never: gives a device an address, or sets it up: that is the namespace's maker's.
Invariants: a device lives as long as its descriptor. Frames carry the kernel's own header (checksums not yet made,
segments up to 64 KiB), which goes along to the other side unread.
"""

from __future__ import annotations

import fcntl
import os
import struct

from chaos.cluster.entering import inside

TUN = "/dev/net/tun"
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4
HEADER_BYTES = 10  # struct virtio_net_hdr
FRAME_BYTES_MAX = 70_000


def open_tap(namespace: str, device: str) -> int:
    """A descriptor that does not block. Raises OSError."""
    return inside(namespace, lambda: _open(device))


def _open(device: str) -> int:
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
