"""One cluster and two mounts of one workspace for the ordinary tests; each test gets a directory of its own in both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mounts import LocalCluster, Mount, within

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("mounts")) as running:
        running.make_workspace("demo")
        yield running


@pytest.fixture(scope="session")
def mounts(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mount, Mount]]:
    base = tmp_path_factory.mktemp("hosts")
    with Mount(cluster, base, "demo", "a") as a, Mount(cluster, base, "demo", "b") as b:
        yield a, b


@pytest.fixture
def places(mounts: tuple[Mount, Mount]) -> tuple[Path, Path]:
    """The same new directory, as both mounts have it."""
    name = f"test-{next(_numbers)}"
    a, b = (mount.path / name for mount in mounts)
    a.mkdir()
    within(b.is_dir, "the second mount has the directory")
    return a, b


@pytest.fixture
def place(places: tuple[Path, Path]) -> Path:
    return places[0]
