"""What mountinfo says, and where a mount may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypercluster.errors import TurnedAwayError
from hypercluster.mount import mounting

MOUNTINFO = (
    "22 1 259:1 / / rw,relatime - ext4 /dev/root rw\n"
    r"41 22 0:40 / /srv/a\040b\134c rw,nosuid - fuse.hypercluster hypercluster:demo rw,user_id=0" + "\n"
    "42 22 0:41 / /srv/x rw shared:3 master:2 - fuse.hypercluster hypercluster:one rw\n"
    "43 42 0:52 / /srv/x rw - fuse.hypercluster hypercluster:two rw\n"
    "44 22 0:53 / /srv/y rw - fuse.sshfs host:/ rw\n"
    "46 22 0:55 / /srv/v rw - fuse hypercluster:plain rw\n"
    "47 22 0:56 / /srv/u rw - fuse other:plain rw\n"
    "45 22 0:54 / /srv/z ro - tmpfs hypercluster-floor ro\n"
    "a line of something newer\n"
)


def test_mounts_are_found_in_mountinfo() -> None:
    found = mounting.parse_mountinfo(MOUNTINFO)
    assert [(m.directory, m.source, m.connection) for m in found] == [
        ("/srv/a b\\c", "hypercluster:demo", 40),
        ("/srv/x", "hypercluster:one", 41),
        ("/srv/x", "hypercluster:two", 52),
        ("/srv/v", "hypercluster:plain", 55),
    ]
    floors = mounting.parse_mountinfo(MOUNTINFO, ("tmpfs",), mounting.FLOOR)
    assert [m.directory for m in floors] == ["/srv/z"]


def test_a_directory_that_can_not_be_mounted_on(tmp_path: Path) -> None:
    with pytest.raises(TurnedAwayError, match="is not a directory: make it with"):
        mounting.check_free(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TurnedAwayError, match="is not empty"):
        mounting.check_free(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    assert mounting.check_free(tmp_path / "link" / "d") == str(tmp_path.resolve() / "d")


def test_what_is_missing_comes_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mounting, "DEVICE", tmp_path / "fuse")
    words = mounting.missing()
    assert any("modprobe fuse" in line for line in words)
