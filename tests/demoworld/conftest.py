"""One tiny world for all tests of this folder: 12 species, 5 recordings and photographs of each, 2 sites."""

from pathlib import Path

import pytest

from demoworld import world

SMALL = {"species": 12, "train": 3, "val": 1, "test": 1, "sites": 2, "files_per_site": 2, "file_seconds": 12.0}


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    world.build(str(out), seed=5, processes=1, **SMALL)
    return out
