"""One cluster of two nodes with two GPUs each, and one copy of the project, for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import prepare_project
from cluster import Cluster, Unavailable


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm") / "cluster", nodes=2, gpus=2)
    try:
        cluster.start()
    except Unavailable as reason:
        pytest.skip(f"no Slurm cluster: {reason}")
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    return prepare_project(tmp_path_factory.mktemp("project"))
