"""README.md and docs/: what they say to type works, and what they name is there."""

from __future__ import annotations

import importlib
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import cli
from jobs.shared import options
from tests.conftest import SPECIES, World
from tests.doc_blocks import PAGES, ROOT, Block, blocks, code_spans, job, parsed
from tests.songsight.datasets import layouts

NEEDS = {"AWS", "GPUs", "R", "Spark", "a server that stays"}
"""What a block may need that CI lacks."""
LANGUAGES = {"sh", "python", "r", ""}
PROGRAMS = re.compile(r"\s*(songsight|make|python|pytest|ray|mlflow|uv|source|export|import|from) ")
STAND_INS = {
    "hf-hub:imageomics/bioclip-2": "teacher",
    "davidrrobinson/BioLingual": "base",
    "models:/songsight@champion": "models:/songsight-of-docs@champion",
}
INSTEAD = {
    "gallery": {"teacher": "teacher"},
    "distill": {
        "teacher": "teacher",
        "student": "base",
        "epochs": "1",
        "batch_size": "8",
        "workers": "1",
        "gpus_per_worker": "0",
        "register_as": "songsight-of-docs",
        "promote_if": "val_text_mAP>0",
    },
    "evaluate": {"resamples": "20"},
}
"""Options of the small world that the pages are tried on: its models, and what two cores do in seconds."""
EVERY = {"--help", "--config"}
FLAG = re.compile(r"(?<!\S)--[a-z]+(?:-[a-z]+)*(?![\w-])")


def every_block() -> list[Block]:
    return [block for page in PAGES for block in blocks(page)]


def named(block: Block) -> str:
    return str(block)


def parser_of(command: str) -> Any:
    assert command in cli.JOBS
    return importlib.import_module(f"jobs.{command}").Options


# What the pages hold


def test_blocks_are_found() -> None:
    text = "a\n\n    ls\n\n    cd\nb\n<!-- needs: R -->\n```r\nx\n\ny\n```\n    no block\n\n<!-- a: b -->\n\n    z"
    found = [(block.line, block.language, block.marker, block.text) for block in parsed(text, "page")]
    assert found == [(3, "", None, "ls\n\ncd"), (9, "r", ("needs", "R"), "x\n\ny"), (17, "", ("a", "b"), "z")]
    (one,) = parsed("```sh\nsongsight a --b 'c d' \\\n  e  # f\n\n# g\nls\n```", "page")
    assert one.commands == [["songsight", "a", "--b", "c d", "e"], ["ls"]]
    assert job(one.commands[0]) == ("a", ["--b", "c d", "e"])
    assert job(["ray", "submit", "--", "python", "-m", "jobs.x", "--y"]) == ("x", ["--y"])
    assert job(["ls", "-l"]) is None


@pytest.mark.parametrize("block", every_block(), ids=named)
def test_a_block_is_known_to_run_here_or_there_or_says_what_it_needs(block: Block) -> None:
    assert block.language in LANGUAGES
    if not block.language:
        typed = [line for line in block.text.splitlines() if PROGRAMS.match(line)]
        assert not typed, f"{block}: commands stand between ```sh, code between ```python, so that they are tried"
        return
    kind, what = block.marker or ("runs in", "this test")
    assert kind in ("runs in", "needs")
    if kind == "needs":
        assert what in NEEDS
    elif block.marker:
        test = (ROOT / what).read_text()
        for words in block.commands if block.language == "sh" else []:
            found = job(words)
            assert (found[0] if found else words[0]) in test
            if found:
                flags = [word for word in found[1] if word.startswith("--")]
                assert [flag for flag in flags if flag not in test and flag[2:].replace("-", "_") not in test] == []


@pytest.mark.parametrize("block", [block for block in every_block() if block.language == "sh"], ids=named)
def test_commands_have_the_options_that_they_are_given(block: Block) -> None:
    for command, words in filter(None, map(job, block.commands)):
        options.parse(parser_of(command), words, f"songsight {command}", "")


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_are_some_commands(page: str) -> None:
    of = {command: {options.flag(name) for name in parser_of(command).__dataclass_fields__} for command in cli.JOBS}
    for span in filter(FLAG.search, code_spans(page)):
        program, what, *_ = [*span.split(), ""]
        if program == "songsight" and what in of:
            known = of[what] | EVERY
        elif what.startswith("bench/"):
            known = set(re.findall(r'"(--[a-z-]+)"', (ROOT / what).read_text()))
        else:
            known = EVERY.union(*of.values())
        assert set(FLAG.findall(span)) <= known, span


@pytest.mark.parametrize("page", PAGES)
def test_files_and_pages_that_are_named_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M) if heading else []
        assert not heading or heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    ours = r"(?<![\w./])(?:songsight|distill|inference|jobs|demoworld|tests|bench|docs)(?:/\w+)+(?:\.\w+|/)"
    for name in re.findall(ours, text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m (jobs\.\w+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_page_of_options_is_as_the_commands_have_them() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "options.py"))
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == made["page"](), "`make docs` writes it anew"
    without = [
        f"{command} {options.flag(name)}"
        for command in cli.JOBS
        for name, text in made["helps"](parser_of(command)).items()
        if not text
    ]
    assert without == []
    assert all(f"\n## {command}\n" in made["page"]() for command in cli.JOBS)


# What they say to type


@pytest.fixture(scope="module")
def desk(
    world: World,
    clap: Path,
    teacher_dir: Path,
    gallery_dir: Path,
    model_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder where what the pages take for given has the names that they give it, and what README.md makes of it."""
    desk = tmp_path_factory.mktemp("desk")
    for number, (name, _) in enumerate(SPECIES):
        for kind, ending in (("sounds", "wav"), ("photographs", "jpg")):
            (desk / kind / name).mkdir(parents=True)
            for file in world.folder.glob(f"{number}-*.{ending}"):
                shutil.copy(file, desk / kind / name)
    shutil.copytree(world.archive, desk / "forest")
    shutil.copy(world.folder / "0-0.wav", desk / "a.wav")
    for name, folder in (
        ("base", clap),
        ("teacher", teacher_dir),
        ("other-gallery", gallery_dir),
        ("base-model", model_dir),
    ):
        (desk / name).symlink_to(folder)
    labels = "Selection\tBegin Time (s)\tEnd Time (s)\tSpecies\n1\t0\t30\tStrix aluco\n2\t40\t50\tParus major\n"
    (desk / "selections" / "site-a").mkdir(parents=True)
    for heard in ("20240514_053000", "half"):
        (desk / "selections" / "site-a" / f"{heard}.Table.1.selections.txt").write_text(labels)
    layouts.inatsounds(desk / "inatsounds")
    layouts.ssw60(desk / "ssw60")
    layouts.ebird(desk / "ebird.csv")
    (desk / "birds.csv").write_text("path,species\nsounds/Parus major/2-0.wav,Parus major\n")
    with pytest.MonkeyPatch.context() as patch:
        type_in("README.md", desk, patch)
    return desk


@pytest.fixture
def page_desk(desk: Path, tmp_path: Path) -> Path:
    """Where a page is tried: the desk with all that README.md begins with and makes, but for its results."""
    results = shutil.ignore_patterns("annotated", "evaluation", "report.html")
    return Path(shutil.copytree(desk, tmp_path / "desk", symlinks=True, ignore=results))


def type_in(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives a page's commands and code in a folder, in order, but for those with a marker."""
    monkeypatch.chdir(folder)
    for block in blocks(page):
        if block.marker or block.language not in ("sh", "python"):
            continue
        print(f"== {block}")
        text = block.text
        for name, stand_in in STAND_INS.items():
            text = text.replace(name, stand_in)
        if block.language == "python":
            exec(compile(text, str(block), "exec"), {})
            continue
        for words in block.commands:
            give([STAND_INS.get(word, word) for word in words])


def give(words: list[str]) -> None:
    """Runs one command: ours in this process, a `make` without what it would do."""
    if words[0] == "make":
        subprocess.run([*words, "-n"], cwd=ROOT, check=True, capture_output=True)
        return
    found = job(words)
    assert found, f"not known how to try {' '.join(words)}: give its block a marker"
    try:
        cli.main([found[0], *instead(*found)])
    except SystemExit as stop:
        pytest.fail(f"{' '.join(words)} ended with exit code {stop.code}")


def instead(command: str, words: list[str]) -> list[str]:
    """The words with the small world's options in place of the page's own."""
    kept: list[str] = []
    own = {options.flag(name): value for name, value in INSTEAD.get(command, {}).items()}
    skip = False
    for word in words:
        skip = word in own or (skip and not word.startswith("--"))
        kept += [] if skip else [word]
    return kept + [word for pair in own.items() for word in pair]


def test_the_readme_leads_from_sounds_to_a_page(desk: Path) -> None:
    hits = pq.read_table(desk / "annotated" / "hits").to_pylist()
    assert {hit["scientific_name"] for hit in hits} <= {name for name, _ in SPECIES}
    assert hits
    assert "20240514_053000.wav" in (desk / "report.html").read_text()
    assert (desk / "calibration.json").stat().st_size
    assert (desk / "evaluation" / "table.json").stat().st_size


QUICK = {"docs/demo.md", "docs/distill.md", "docs/experiments.md"}
TRIED = {block.page for block in every_block() if block.language in ("sh", "python") and not block.marker}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page in QUICK else pytest.mark.slow) for page in sorted(TRIED - {"README.md"})],
)
def test_what_a_page_says_to_type_works(page: str, page_desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(page, page_desk, monkeypatch)
