"""What holds of the whole tree: which way imports go, and that the cluster file is one that Ray accepts."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sysconfig
from importlib import metadata
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "distill": {"distill"},
    "inference": {"inference", "distill"},
    "jobs": {"jobs", "inference", "distill", "demoworld"},
    "demoworld": {"demoworld", "distill"},
}


def imports(file: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_go_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} → {name}"
        for file in files
        for name in imports(file) & set(MAY_IMPORT)
        if name not in MAY_IMPORT[package]
    }
    assert not wrong


def test_only_the_demo_knows_the_demo_world() -> None:
    knowing = [file.name for file in (ROOT / "jobs").glob("*.py") if "demoworld" in imports(file)]
    assert knowing == ["demo.py"]


def test_ray_accepts_the_cluster_file() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    validate_config(prepare_config(cluster))
    importlib.import_module("ray.autoscaler._private.aws.node_provider")  # what `ray up` starts nodes by
    workers = cluster["available_node_types"]
    assert cluster["head_node_type"] in workers
    assert workers["gpu_worker"]["max_workers"] <= cluster["max_workers"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"no_such_key": 1}, schema)
    for commands, host in (("head", "$(hostname -I | cut -d' ' -f1)"), ("worker", "$RAY_HEAD_IP")):
        # A job gets the environment that Ray was started in.
        assert f"MLFLOW_TRACKING_URI=http://{host}:5000 ray start" in cluster[f"{commands}_start_ray_commands"][-1]


def test_every_version_is_pinned_and_no_address_is_named() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    pinned = dict(line.split("==") for line in lines)
    installed = {
        re.sub(r"[-_.]+", "-", each.name).lower(): each.version
        for each in metadata.distributions(path=[sysconfig.get_path("purelib")])
    }
    named = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    assert {name: version for name, version in installed.items() if named.get(name) != version}.keys() <= {"songsight"}
    text = (ROOT / "constraints.txt").read_text() + (ROOT / "pyproject.toml").read_text()
    assert "://" not in text
