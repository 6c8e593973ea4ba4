"""Hosts of nodes: what they break is broken for the node's processes, and for nobody else; healing is measured."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.cluster import host as hosts
from chaos.cluster import image
from chaos.cluster.host import FILL, POWER, SHIM, HostRig, hosts_for
from chaos.cluster.image import DiskError
from chaos.shim.control import NoShimError

KIB = 1024


def started(rig: HostRig) -> HostRig:
    try:
        rig.start()
    except NoShimError as error:
        pytest.skip(f"not run: {error}")
    return rig


@pytest.fixture
def shim_rig(tmp_path: Path) -> Iterator[HostRig]:
    rig = hosts_for(tmp_path, ["n1"], {SHIM})["n1"]
    yield started(rig)
    rig.close()


@pytest.fixture
def disk_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostRig]:
    reason = image.why_not()
    if reason:
        pytest.skip(reason)
    monkeypatch.setattr(hosts, "DISK_BYTES", 64 << 20)
    rig = hosts_for(tmp_path, ["n1"], {SHIM, POWER, FILL})["n1"]
    yield started(rig)
    rig.close()


def in_node(rig: HostRig, script: str) -> subprocess.CompletedProcess[str]:
    """As a process of the node runs, in its data directory."""
    return subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=rig.data_directory,
        env={**os.environ, **rig.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def mounts_below(directory: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {directory}" in line]


def loops_below(directory: Path) -> list[str]:
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found += [name for name in [backing.read_text().strip()] if name.startswith(str(directory))]
    return found


def test_a_host_without_features_refuses_every_fault(tmp_path: Path) -> None:
    rig = hosts_for(tmp_path, ["n1", "n2"], set())["n2"]
    rig.start()
    assert rig.host.features == frozenset()
    assert rig.environment == {}
    for fault in (
        lambda: rig.host.sync_delay(1),
        lambda: rig.host.sync_error(errno.EIO),
        lambda: rig.host.clock(1),
        lambda: rig.host.fill(0),
        rig.host.power_cut,
        rig.host.restore,
    ):
        with pytest.raises(NotImplementedError, match="n2 has no"):
            fault()
    rig.host.heal()
    assert rig.host.probe() == ""
    rig.close()
    with pytest.raises(ValueError, match="wings"):
        HostRig("n1", tmp_path, {"wings"})


def test_what_a_machine_can_do_decides_the_features(tmp_path: Path) -> None:
    for abilities, expected in (
        ({"compiler", "preload", "tun"}, {SHIM}),
        ({"root", "loop", "compiler"}, {POWER, FILL}),
        ({"root", "loop", "compiler", "preload"}, {SHIM, POWER, FILL}),
        ({SHIM}, {SHIM}),
        ({"preload", "root"}, set()),
    ):
        assert hosts_for(tmp_path, ["n1"], abilities)["n1"].host.features == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.req("CH-4")
def test_one_part_is_healed_while_the_other_is_still_broken(shim_rig: HostRig) -> None:
    host = shim_rig.host
    host.clock(60_000)
    host.sync_delay(60)
    host.heal(clock=False)
    assert host.probe(clock=False) == ""
    assert "clock" in host.probe()
    host.sync_error(errno.EIO)
    host.heal(disk=False)
    assert host.probe(disk=False) == "", "what the disk does meanwhile is not asked"
    assert "sync" in host.probe()


@pytest.mark.req("CH-4")
def test_the_shim_of_a_host_is_felt_and_its_healing_is_measured(shim_rig: HostRig) -> None:
    host = shim_rig.host
    assert host.probe() == ""
    for begin, words in (
        (lambda: host.sync_delay(60), "rules: sync"),
        (lambda: host.sync_error(errno.EIO, 0.5), "rules: sync"),
        (lambda: host.clock(120_000), "rules: clock"),
        (lambda: host.clock(0, 0.95), "rules: clock"),
    ):
        begin()
        assert words in host.probe()
        host.heal()
        host.heal()
        assert host.probe() == ""


@pytest.mark.req("CH-4")
def test_a_probe_measures_and_does_not_only_look_at_the_page(
    shim_rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that lies about its rules: what a process of the node meets tells."""
    page = shim_rig._page
    assert page is not None
    monkeypatch.setattr(type(page), "active", lambda _, **__: "")
    host = shim_rig.host
    for begin, words in (
        (lambda: host.sync_delay(40), "a synced write takes"),
        (lambda: host.sync_error(errno.EIO), "a process on this host fails: OSError"),
        (lambda: host.clock(-90_000), "the clock is -9"),
    ):
        begin()
        assert words in host.probe()
        host.heal()
        assert host.probe() == ""


@pytest.mark.root
@pytest.mark.req("CH-4")
def test_a_power_cut_takes_what_was_not_synced(disk_rig: HostRig) -> None:
    write = """
import os, sys
def put(name, synced):
    file = os.open(name, os.O_RDWR | os.O_CREAT)
    os.write(file, b"content")
    if synced:
        os.fsync(file)
put("synced", True)
directory = os.open(".", os.O_RDONLY)
os.fsync(directory)
put("not", False)
"""
    assert in_node(disk_rig, write).returncode == 0
    disk_rig.host.power_cut()
    assert in_node(disk_rig, "open('more', 'w').write('x')").returncode != 0
    assert "not mounted" in disk_rig.host.probe()
    disk_rig.host.restore()
    disk_rig.host.restore()
    assert disk_rig.host.probe() == ""
    assert (disk_rig.data_directory / "synced").read_bytes() == b"content"
    left = disk_rig.data_directory / "not"
    assert not left.exists() or left.read_bytes() == b""


@pytest.mark.root
@pytest.mark.req("CH-4")
def test_healing_after_a_power_cut_brings_the_disk_back(disk_rig: HostRig) -> None:
    disk_rig.host.power_cut()
    disk_rig.host.heal()
    assert disk_rig.host.probe() == ""
    assert len(loops_below(disk_rig.data_directory.parent.parent)) == 1, "mounted once"


@pytest.mark.root
@pytest.mark.req("CH-4")
def test_a_full_disk_is_full_and_gets_its_room_back(disk_rig: HostRig) -> None:
    write = "open('large', 'wb').write(bytes(1 << 20))"
    disk_rig.host.fill(300 * KIB)
    refused = in_node(disk_rig, write)
    assert "No space left" in refused.stderr
    assert "still filled" in disk_rig.host.probe()
    disk_rig.host.heal()
    assert in_node(disk_rig, write).returncode == 0
    assert disk_rig.host.probe() == ""


@pytest.mark.root
def test_an_image_held_by_another_mount_namespace_is_let_go(disk_rig: HostRig) -> None:
    """A process that began while the disk was mounted, with mounts of its own, as `ip netns exec` gives it."""
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo ready; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        disk_rig.host.power_cut()
        disk_rig.host.restore()
        assert len(loops_below(disk_rig.data_directory.parent.parent)) == 1
        holder.communicate("\n")


@pytest.mark.root
def test_nothing_is_left_behind(disk_rig: HostRig, tmp_path: Path) -> None:
    assert mounts_below(tmp_path)
    assert loops_below(tmp_path)
    with (disk_rig.data_directory / "held").open("w"):  # also with something open
        disk_rig.close()
    disk_rig.close()
    assert mounts_below(tmp_path) == []
    assert loops_below(tmp_path) == []
    assert not (disk_rig.data_directory.parent.parent / "disk.image").exists()


@pytest.mark.root
def test_a_start_that_fails_leaves_nothing_behind(
    disk_rig: HostRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = hosts_for(tmp_path / "other", ["n2"], {SHIM, POWER})["n2"]

    def no_library(_: Path) -> Path:
        raise NoShimError("there is no gcc")

    monkeypatch.setattr(hosts.control, "build", no_library)
    with pytest.raises(NoShimError):
        other.start()
    assert mounts_below(tmp_path / "other") == []
    assert loops_below(tmp_path / "other") == []


def test_a_command_that_fails_says_which(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"mkfs\.ext4"):
        image.PowerDisk(tmp_path / "image", tmp_path / "nowhere", 1 << 20)


OWNER = """
import sys
from pathlib import Path
from chaos.cluster.image import PowerDisk
place = Path(sys.argv[1]) / "disk"
place.mkdir()
disk = PowerDisk(Path(sys.argv[1]) / "image", place, 8 << 20)
disk.mount()
print("mounted", flush=True)
sys.stdin.read()
"""


def loop_devices_of(directory: Path) -> list[str]:
    found = subprocess.run(
        ["losetup", "-l", "-n", "-O", "BACK-FILE"], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in found.splitlines() if str(directory) in line]


@pytest.mark.root
def test_the_disk_of_a_killed_process_is_unmounted_at_the_next_start(
    tmp_path: Path, disk_rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    command = [sys.executable, "-c", OWNER, str(theirs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            assert owner.stdout.readline() == "mounted\n"
            assert str(theirs / "disk") not in image.sweep(), "its owner lives"
            assert os.path.ismount(theirs / "disk")
        finally:
            owner.kill()
    assert os.path.ismount(theirs / "disk"), "a killed process leaves everything"
    assert loop_devices_of(theirs) == [f"{theirs}/image"]
    rig = hosts_for(tmp_path / "next", ["n1"], {POWER})["n1"]
    rig.start()
    try:
        assert not os.path.ismount(theirs / "disk")
        assert loop_devices_of(theirs) == []
        assert (theirs / "image").exists()
        assert os.path.ismount(rig.data_directory.parent), "the disks of those who live stay"
        assert os.path.ismount(disk_rig.data_directory.parent)
    finally:
        rig.close()
    assert image.sweep() == [], "once"
