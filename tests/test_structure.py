"""What holds of the whole tree: which way imports go, how large its parts are, that files for others are valid."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sysconfig
from functools import cache
from importlib import metadata
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "songsight": {"songsight"},
    "distill": {"distill", "songsight"},
    "inference": {"inference", "songsight"},
    "jobs": {"jobs", "inference", "distill", "songsight", "demoworld"},
    "demoworld": {"demoworld", "songsight"},
}
MOST_FILES = 14
MOST_LINES = 80
ENGINE = ("inference/annotate/",)
"""What is to be designed anew: its functions may be longer until then."""


def files_of(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(file): file for package in MAY_IMPORT for file in files_of(package)}


@cache
def imports(file: Path) -> frozenset[str]:
    """The modules that a file imports, anywhere in it: ours by their full names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names} & modules().keys()
            found |= deeper
            if len(deeper) < len(node.names):
                found.add(node.module)
    return frozenset(found)


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_go_one_way(package: str) -> None:
    wrong = {
        f"{file.relative_to(ROOT)} → {name}"
        for file in files_of(package)
        for name in imports(file)
        if (top := name.split(".")[0]) in MAY_IMPORT and top not in MAY_IMPORT[package]
    }
    assert not wrong


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Names that lead to each other in a circle; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for following in sorted(arrows.get(name, ())):
                if found := visit(following, [*way, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := visit(name, []))), [])


def test_no_file_imports_itself_by_way_of_others() -> None:
    arrows = {name: set(imports(file)) & modules().keys() - {name} for name, file in modules().items()}
    for name in arrows:  # a package is its `__init__`: to import what lies in it is no arrow from outside
        arrows[name] = {other for other in arrows[name] if not name.startswith(other + ".")}
    assert circle(arrows) == []


def room_of(name: str) -> str:
    """The folder that a module lies in, at most two deep: `songsight.audio`, `jobs`."""
    file = modules()[name]
    return ".".join(file.relative_to(ROOT).parent.parts[:2])


def test_no_room_imports_itself_by_way_of_others() -> None:
    arrows: dict[str, set[str]] = {}
    for name, file in modules().items():
        rooms = {room_of(other) for other in set(imports(file)) & modules().keys()}
        arrows.setdefault(room_of(name), set()).update(rooms - {room_of(name)})
    for package in MAY_IMPORT:  # a package's own files are its front door, which its rooms are behind
        arrows[package] = set()
    assert circle(arrows) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_only_the_demo_knows_the_demo_world() -> None:
    knowing = [file.name for file in files_of("jobs") if any(name.startswith("demoworld") for name in imports(file))]
    assert knowing == ["demo.py"]


def test_a_folder_holds_a_dozen_files() -> None:
    folders = [folder for package in MAY_IMPORT for folder in [ROOT / package, *(ROOT / package).rglob("*/")]]
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name for name, size in sizes.items() if size > MOST_FILES} <= {"jobs"}


def test_a_function_fits_on_a_screen() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}, {node.end_lineno - node.lineno + 1} lines"
        for file in modules().values()
        if not (path := str(file.relative_to(ROOT))).startswith(ENGINE)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= MOST_LINES
    ]
    assert long == []


PRIVATE = re.compile(
    r"\b(ray|torch|mlflow|pyarrow|openvino|transformers)(\.\w+)*\._(?!_)\w+|_internal\b|\b_private\b"
    r"|torch\.ops\b|threading\._|atexit\._|/proc/|gc\.set_threshold|sched_setscheduler"
)


def test_nothing_reaches_into_private_modules() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number} {line.strip()}"
        for file in modules().values()
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert found == []
    assert PRIVATE.search("from ray._private.node import Node")
    assert PRIVATE.search("torch.ops.mkldnn._linear_pointwise")


def test_no_helper_takes_all_options_of_a_job() -> None:
    """What a command parses stays with it: others are given what they need."""
    found = []
    for file in files_of("jobs"):
        path = file.relative_to(ROOT)
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            for argument in [*node.args.args, *node.args.kwonlyargs]:
                kind = ast.unparse(argument.annotation) if argument.annotation else ""
                if argument.arg == "options" and kind == "Any":
                    found.append(f"{path}:{node.lineno} {node.name}")
    assert found == []


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


def test_no_lock_file_is_kept() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in tracked if name.endswith((".lock", "package-lock.json"))]
