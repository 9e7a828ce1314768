"""A job's options: one frozen dataclass gives the command line, its help, its types and what MLflow logs.

`--config run.yaml` sets the same fields from a mapping (`hop_s: 5` is `--hop-s 5`); the command line wins over it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import math
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from songsight.errors import UserError

OptionsT = TypeVar("OptionsT")

_OPTIONAL = re.compile(r"no type matching \{None\}\|(\w+) could be instantiated from \[(.*?)\]")
_KINDS = {"FLOAT": "a number", "INT": "a whole number", "STR": "a text"}
_GIVEN = "_given"
_BOX = re.compile(r"[╭╮╰╯│─]+|^\s*-{3,}\s*$")  # where the terminal's encoding has no box, rules of dashes


def flag(field_name: str) -> str:
    """The option of a field: `hop_s` → `--hop-s`."""
    return "--" + field_name.replace("_", "-")


def parse(cls: type[OptionsT], args: Sequence[str], prog: str, description: str) -> OptionsT:
    """Reads a job's options from the command line and, with `--config`, from a YAML file.

    Args:
        cls: a frozen dataclass; its field docstrings are the help.
        args: the words of the command line.
        prog: what the user typed, for usage and error lines.
        description: the text above the options in `--help`.

    Raises:
        UserError: an unknown option (with the nearest known one), a missing one, a value of the wrong type, or a
            `--config` file that cannot be read or names unknown fields.
        SystemExit: with 0, after `--help`.
    """
    words = [_underscores_to_dashes(word) for word in args]
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not {"-h", "--help"} & set(words):
        words = _gathered(_filled(_with_config(words, fields), fields), fields)
        _check_names(words, fields)
        _check_required(words, fields)

    # tyro takes a third of a second to import: errors that need no types are answered before it.
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            made = tyro.cli(
                cls,
                prog=prog,
                description=description + "\n\n--config FILE reads the same options from a YAML mapping.",
                args=words,
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UserError(_one_line(said.getvalue())) from None
    known = _known_flags(fields)
    return _with_given(made, frozenset(known[word] for word in _flags_in(words)))


def given(options: Any) -> frozenset[str]:
    """The fields that the user gave, with `--config` too; of options made in Python those that are not the default."""
    said = vars(options).get(_GIVEN)
    if said is not None:
        return said
    return frozenset(f.name for f in dataclasses.fields(options) if getattr(options, f.name) != f.default)


def replace(options: OptionsT, values: dict[str, Any]) -> OptionsT:
    """The options with other values that nobody gave."""
    return _with_given(dataclasses.replace(options, **values), given(options))  # type: ignore[type-var]


def _with_given(options: OptionsT, names: frozenset[str]) -> OptionsT:
    vars(options)[_GIVEN] = names  # beside the fields, so that it is no option itself
    return options


def in_0_1(options: Any) -> dict[str, Any]:
    """What songsight 0.1 did where an option was not given: its default, or what was done before there was the option.

    A field that came since, or that has another default since, says so in its metadata:
    `field(default="masked", metadata={"in_0_1": "infonce"})`. Records of 0.1 are read by it, see
    `jobs.distilling.resume` and `jobs.annotating.identity`, so that the same command goes on with what is there.
    """
    fields = [f for f in dataclasses.fields(options) if f.default is not dataclasses.MISSING]
    return {f.name: f.metadata.get("in_0_1", f.default) for f in fields}


def as_dict(options: Any) -> dict[str, Any]:
    """The options as plain values, for MLflow and `run.json`."""
    return dataclasses.asdict(options)


def _underscores_to_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("_", "-") + equals + value


def _flags_in(words: Sequence[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--") and len(word) > 2]


def _known_flags(fields: dict[str, dataclasses.Field]) -> dict[str, str]:
    """Every accepted option, and the field it sets."""
    known = {flag(name): name for name in fields}
    return known | {"--no-" + name.replace("_", "-"): name for name in fields if fields[name].type in ("bool", bool)}


def _with_config(words: list[str], fields: dict[str, dataclasses.Field]) -> list[str]:
    """Replaces `--config FILE` by the options that the file holds, less those that are given on the line itself."""
    path, rest = None, []
    remaining = iter(words)
    for word in remaining:
        if word == "--config":
            path = next(remaining, None)
            if path is None:
                raise UserError("--config needs the path of a YAML file")
        elif word.startswith("--config="):
            path = word.partition("=")[2]
        else:
            rest.append(word)
    if path is None:
        return rest
    import yaml

    try:
        with open(path, encoding="utf-8") as handle:
            values = yaml.safe_load(handle) or {}
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path} should be a mapping of options, such as `hop_s: 5`")

    known = _known_flags(fields)
    given = {known[name] for name in _flags_in(rest) if name in known}
    from_file: list[str] = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise UserError(f"--config {path}: no option {key!r}{_nearest(flag(name), known)}")
        if name in given or value is None:
            continue
        if isinstance(value, bool):
            from_file.append(flag(name) if value else "--no-" + name.replace("_", "-"))
        elif isinstance(value, list):
            from_file += [flag(name), *map(str, value)]
        else:
            from_file += [flag(name), str(value)]
    return from_file + rest


def _gathered(words: list[str], fields: dict[str, dataclasses.Field]) -> list[str]:
    """Puts the values of a repeated list option behind its first place: `--set a --set b` is `--set a b`."""
    lists = {flag(name) for name, field in fields.items() if str(field.type).startswith("tuple")}
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    into = rest
    for word in words:
        name, equals, value = word.partition("=")
        if name in lists:
            into = values.setdefault(name, [])
            into += [value] if equals else []
        else:
            if word.startswith("--"):
                into = rest
            into.append(word)
    return rest + [word for name, some in values.items() for word in (name, *some)]


def _filled(words: list[str], fields: dict[str, dataclasses.Field]) -> list[str]:
    """Gives options that stand alone the value that they then mean, their field's `bare`: `--embeddings --out x`."""
    bare = {flag(name): field.metadata["bare"] for name, field in fields.items() if "bare" in field.metadata}
    filled: list[str] = []
    for word, following in zip(words, [*words[1:], "--"], strict=False):
        filled.append(word)
        if word in bare and following.startswith("--"):
            filled.append(bare[word])
    return filled


def _check_names(words: Sequence[str], fields: dict[str, dataclasses.Field]) -> None:
    known = _known_flags(fields)
    for name in _flags_in(words):
        if name not in known:
            raise UserError(f"no option {name}{_nearest(name, known)}")


def _nearest(name: str, known: dict[str, str]) -> str:
    bare = {each.removeprefix("--"): each for each in known}  # the dashes would make all alike
    wanted = name.removeprefix("--")
    begun = [each for each in bare if each.startswith(wanted)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(wanted, bare, n=1)
    return f"; did you mean {bare[near[0]]}?" if near else f" (options: {', '.join(known)})"


def _check_required(words: Sequence[str], fields: dict[str, dataclasses.Field]) -> None:
    given = set(_flags_in(words))
    missing = [
        flag(name)
        for name, field in fields.items()
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and flag(name) not in given
    ]
    if missing:
        raise UserError(f"missing {', '.join(missing)}")


def _one_line(box: str) -> str:
    """tyro draws its errors as a box with the help of the option below the message: keep the message."""
    lines = [_BOX.sub(" ", line).strip() for line in box.splitlines()]
    text: list[str] = []
    for line in lines[1:]:
        if not line and text:
            break
        if line:
            text.append(line)
    message = " ".join(text) or " ".join(box.split())
    message = _OPTIONAL.sub(lambda found: f"should be {_KINDS.get(found[1], found[1])} (got {found[2]})", message)
    return message.removeprefix("Error parsing ").rstrip(".")


def require_positive(**values: float | None) -> None:
    """Checks that the named options are above zero and finite; None passes.

    Raises:
        UserError: naming the option and its value.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UserError(f"{flag(name)} should be greater than 0 (got {value:g})")
        if value is not None and value == math.inf:
            raise UserError(f"{flag(name)} should be finite")


def require_at_least(least: float, **values: float | None) -> None:
    """Checks that the named options are no smaller than `least`; None passes.

    Raises:
        UserError: naming the option and its value.
    """
    for name, value in values.items():
        if value is not None and not value >= least:
            raise UserError(f"{flag(name)} should be at least {least:g} (got {value:g})")


def require_files(**values: str | None) -> None:
    """Checks that the named options are files, wherever they lie; None passes.

    Raises:
        UserError: naming the first option that is not.
    """
    from songsight.store import urls

    for name, url in values.items():
        if url is None:
            continue
        if not urls.exists(url):
            raise UserError(f"{flag(name)}: no such file: {url}")
        fs, path = urls.filesystem(url)
        if fs.isdir(path):
            raise UserError(f"{flag(name)}: {url} is a folder; give the file")


def parse_range(text: str | None, option: str) -> tuple[int, int] | None:
    """Reads `4` as (4, 4) and `1:8` as (1, 8); None passes.

    Raises:
        UserError: something else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*))?", text)
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise UserError(f"{option} should be a number such as 4, or a range such as 1:8 (got {text!r})")
    return int(found[1]), int(found[2] or found[1])


def note(line: str) -> None:
    """One plain line of progress on stderr; stdout is kept for results."""
    print(line, file=sys.stderr, flush=True)
