from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from jobs import cli
from jobs.shared import options
from songsight.errors import UserError
from tests.conftest import World

HEAVY = {"torch", "ray", "transformers", "mlflow", "pyarrow", "open_clip", "matplotlib", "pandas"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a job."""

    archive: str
    """where"""
    hop_s: float = 10.0
    """how far"""
    top_k: int = 3
    """how many"""
    loud: bool = False
    """whether"""
    head: Literal["linear", "mlp"] | None = None
    """what kind"""
    threads: int | None = None
    """how many threads"""
    alphas: tuple[float, ...] = ()
    """which"""


@dataclasses.dataclass(frozen=True)
class Words:
    """Options of another job."""

    words: tuple[str, ...] = ()


def parse(*words: str) -> Options:
    return options.parse(Options, words, "songsight job", "A job.")


def test_words_become_options() -> None:
    given = parse("--archive", "x", "--hop_s=2.5", "--loud", "--alphas", "0", "1")
    assert given == Options("x", 2.5, loud=True, alphas=(0.0, 1.0))


def test_a_config_file_sets_the_same_fields_and_the_line_wins(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("archive: from-file\nhop-s: 4\nloud: true\nalphas: [0.5, 1]\ntop_k: 9\n")
    given = parse("--config", str(config), "--top-k", "2", "--no-loud")
    assert given == Options("from-file", 4.0, top_k=2, loud=False, alphas=(0.5, 1.0))
    assert parse(f"--config={config}").top_k == 9


@dataclasses.dataclass(frozen=True)
class Bare:
    """Options of which one may stand alone."""

    kept: str = dataclasses.field(default="none", metadata={"bare": "float16"})
    out: str = "x"


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ([], "none"),
        (["--kept"], "float16"),
        (["--kept", "--out", "y"], "float16"),
        (["--out", "y", "--kept"], "float16"),
        (["--kept", "binary", "--out", "y"], "binary"),
        (["--kept=binary"], "binary"),
    ],
)
def test_an_option_that_stands_alone_has_a_meaning(words: list[str], kept: str) -> None:
    assert options.parse(Bare, words, "songsight test", "").kept == kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--archiv", "x"], "no option --archiv; did you mean --archive?"),
        ([], "missing --archive"),
        (["--archive", "x", "--hop-s", "far"], "--hop-s should be a number (got far)"),
        (["--archive", "x", "--top-k", "1.5"], "--top-k should be a whole number (got 1.5)"),
        (["--archive", "x", "--threads", "all"], "--threads should be a whole number (got all)"),
        (["--archive", "x", "--head", "lin"], "--head should be one of linear, mlp (got lin)"),
        (["--archive", "x", "--alphas", "0", "half"], "--alphas should be a number (got half)"),
        (["--archive", "x", "y"], "--archive takes one value (got x y)"),
        (["--archive", "--top-k", "1"], "--archive takes one value (got none)"),
        (["--archive", "x", "--loud=yes"], "--loud takes no value (got yes)"),
        (["--archive", "x", "--config"], "--config takes one value (got none)"),
        (["--archive", "x", "--config", "/no/such.yaml"], "--config /no/such.yaml: No such file or directory"),
    ],
)
def test_errors_are_one_line_that_names_the_option(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(*words)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hopp_s: 4", "no option 'hopp_s'; did you mean --hop-s?"),
        ("- a\n- b", "should be a mapping of options"),
        ("a: [", "is not YAML"),
    ],
)
def test_errors_in_a_config_file_name_it(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(UserError) as error:
        parse("--archive", "x", "--config", str(config))
    assert str(config) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("job", list(cli.JOBS))
def test_help_and_wrong_options_import_nothing_heavy(job: str) -> None:
    code = f"""
import sys
from jobs import cli
for words in (["{job}", "--help"], ["{job}", "--nonsense"]):
    try:
        cli.main(words)
    except SystemExit as stop:
        print("exit", stop.code)
print("heavy", sorted({HEAVY!r} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert [line for line in lines if line.startswith("exit")] == ["exit 0", "exit 2"]
    assert lines[-1] == "heavy []"
    assert run.stderr.startswith(f"songsight {job}: error: no option --nonsense")
    assert len(run.stderr.splitlines()) == 1


def test_what_tyro_finds_wrong_is_one_line_too() -> None:
    with pytest.raises(UserError, match=r"Unrecognized options: -x") as error:
        options.parse(Words, ["--words", "a", "-x"], "songsight job", "A job.")
    assert "\n" not in str(error.value)


def test_list_options_may_be_repeated() -> None:
    given = parse("--alphas", "0", "--archive", "x", "--alphas=1", "--top-k", "2", "--alphas", "3", "4")
    assert given == Options("x", top_k=2, alphas=(0.0, 1.0, 3.0, 4.0))


def test_the_command_lists_its_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(job in said for job in cli.JOBS)


def test_a_wrong_job_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["anotate"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "songsight: error: no job 'anotate'; did you mean annotate?\n"


def test_every_job_is_a_module_of_its_own() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "jobs.annotate", "--hop-s"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr == "songsight annotate: error: missing --gallery, --out\n"


@pytest.mark.parametrize(("text", "expected"), [("4", (4, 4)), ("1:8", (1, 8)), (None, None)])
def test_ranges(text: str | None, expected: tuple[int, int] | None) -> None:
    assert options.parse_range(text, "--actors") == expected


@pytest.mark.parametrize("text", ["0", "8:1", "x", "1:", "-2"])
def test_bad_ranges(text: str) -> None:
    with pytest.raises(UserError, match="--actors should be a number"):
        options.parse_range(text, "--actors")


@pytest.mark.parametrize(
    ("job", "options"),
    [
        ("manifest", ["--source", "folder", "--root", "{there}", "--out", "{there}"]),
        ("gallery", ["--images", "{world}/images.parquet", "--teacher", "{teacher}", "--out", "{file}"]),
        ("distill", ["--recordings", "{world}/recordings.parquet", "--teacher", "{teacher}", "--student", "{clap}"]),
        ("sweep", ["--recordings", "{world}/recordings.parquet", "--teacher", "{teacher}", "--preset", "text-types"]),
        ("evaluate", ["--compare", "{there}", "{there}", "--out", "{file}"]),
    ],
)
def test_results_that_cannot_be_written_are_said_at_once(
    job: str, options: list[str], world: World, teacher_dir: Path, clap: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("somebody's")
    places = {"there": tmp_path, "file": tmp_path / "file", "world": world.folder, "teacher": teacher_dir, "clap": clap}
    words = [word.format_map({name: str(place) for name, place in places.items()}) for word in options]
    words += [] if job not in ("distill", "sweep") else ["--batch-size", "8"]
    words += [] if "--out" in words else ["--out", str(tmp_path / "file")]
    run = subprocess.run([sys.executable, "-m", "jobs.cli", job, *words], capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1].startswith(f"songsight {job}: error: --out ")
    assert "give a f" in run.stderr
    assert (tmp_path / "file").read_text() == "somebody's"
