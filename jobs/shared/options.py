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
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from songsight.errors import UserError


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


OptionsT = TypeVar("OptionsT", bound=Dataclass)

_KINDS = {int: "a whole number", float: "a number"}
_GIVEN = "_given"


def flag(field_name: str) -> str:
    """The option of a field: `hop_s` → `--hop-s`."""
    return "--" + field_name.replace("_", "-")


def parse(cls: type[OptionsT], args: Sequence[str], prog: str, description: str) -> OptionsT:
    """Reads a job's options from the command line and, with `--config`, from a YAML file.

    Args:
        cls: a frozen dataclass; its field docstrings are the help. A field is a bool, or a text, a number, a Literal of
            texts, a tuple of one of these, or None. An option that stands alone means its field's metadata `bare`.
        args: the words of the command line.
        prog: what the user typed, for usage and error lines.
        description: the text above the options in `--help`.

    Raises:
        UserError: an unknown option (with the nearest known one), a missing one, a value of the wrong type, or a
            `--config` file that cannot be read or names unknown fields.
        SystemExit: with 0, after `--help`.
    """
    words, names = ["--help"], frozenset[str]()
    if not {"-h", "--help"} & set(args):
        words, names = _checked(cls, args)

    # tyro takes a third of a second to import, and draws a box around what it finds wrong: we look for that before it.
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
        raise UserError(" ".join(said.getvalue().split())) from None
    return _with_given(made, names)


def given(options: Dataclass) -> frozenset[str]:
    """The fields that the user gave, with `--config` too; of options made in Python those that are not the default."""
    said = vars(options).get(_GIVEN)
    if said is not None:
        return said
    return frozenset(f.name for f in dataclasses.fields(options) if getattr(options, f.name) != f.default)


def replace(options: OptionsT, values: dict[str, Any]) -> OptionsT:
    """The options with other values that nobody gave."""
    return _with_given(dataclasses.replace(options, **values), given(options))


def _with_given(options: OptionsT, names: frozenset[str]) -> OptionsT:
    vars(options)[_GIVEN] = names  # beside the fields, so that it is no option itself
    return options


def in_0_1(options: Dataclass) -> dict[str, Any]:
    """What songsight 0.1 did where an option was not given: its default, or what was done before there was the option.

    A field that came since, or that has another default since, says so in its metadata:
    `field(default="masked", metadata={"in_0_1": "infonce"})`. Records of 0.1 are read by it, see
    `jobs.distilling.resume` and `jobs.annotating.identity`, so that the same command goes on with what is there.
    """
    fields = [f for f in dataclasses.fields(options) if f.default is not dataclasses.MISSING]
    return {f.name: f.metadata.get("in_0_1", f.default) for f in fields}


def as_dict(options: Dataclass) -> dict[str, Any]:
    """The options as plain values, for MLflow and `run.json`."""
    return dataclasses.asdict(options)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A job's options as a record keeps them, for a later command to be compared with.

    Attributes:
        values: each option's value.
        given: the options that the user gave.
        in_0_1: what songsight 0.1 did where an option was not given.
    """

    values: dict[str, Any]
    given: frozenset[str]
    in_0_1: dict[str, Any]

    @classmethod
    def of(cls, options: Dataclass) -> Chosen:
        """The options of a job."""
        return cls(as_dict(options), given(options), in_0_1(options))


def _checked(cls: type, args: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """The words for tyro, those of `--config` among them, once nothing is wrong with their names and types.

    Returns:
        them, and the fields that they give.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    known = {flag(name): name for name in fields}
    known |= {"--no-" + flag(name)[2:]: name for name in fields if hints[name] is bool}
    by_field = _by_field(args, known | {"--config": "config"}, hints)
    if "config" in by_field:
        _check("--config", str, by_field["config"][1:])
        by_field = _from_file(by_field.pop("config")[1], known, hints) | by_field
    needed = [field.name for field in fields.values() if field.default is field.default_factory is dataclasses.MISSING]
    if missing := [flag(name) for name in needed if name not in by_field]:
        raise UserError(f"missing {', '.join(missing)}")
    words = []
    for name, (option, *values) in by_field.items():
        values = values or [fields[name].metadata["bare"]] if "bare" in fields[name].metadata else values
        _check(option, hints[name], values)
        words += [f"{option}={values[0]}"] if len(values) == 1 else [option, *values]
    return words, frozenset(by_field)


def _by_field(args: Sequence[str], known: dict[str, str], hints: dict[str, Any]) -> dict[str, list[str]]:
    """Each field that is named on the command line, with its option and the values; those of a tuple's add up."""
    found: dict[str, list[str]] = {}
    last: list[str] = []
    for word in args:
        option, equals, value = word.partition("=")
        option = option.replace("_", "-")
        if not word.startswith("--") and last:
            last.append(word)
        elif option not in known:
            raise UserError(f"no option {option}{_nearest(option, known)}")
        else:
            name = known[option]
            before = found.get(name) if typing.get_origin(hints.get(name)) is tuple else None
            last = found[name] = before or [option]
            last += [value] if equals else []
    return found


def _from_file(path: str, known: dict[str, str], hints: dict[str, Any]) -> dict[str, list[str]]:
    """The same of a `--config` file."""
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
    found = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in hints:
            raise UserError(f"--config {path}: no option {key!r}{_nearest(flag(name), known)}")
        if value is True or (value is False and hints[name] is bool):
            found[name] = [flag(name) if value else f"--no-{flag(name)[2:]}"]
        elif value is not None:
            found[name] = [flag(name), *map(str, value if isinstance(value, list) else [value])]
    return found


def _nearest(name: str, known: dict[str, str]) -> str:
    bare = {each.removeprefix("--"): each for each in known}  # the dashes would make all alike
    wanted = name.removeprefix("--")
    begun = [each for each in bare if each.startswith(wanted)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(wanted, bare, n=1)
    return f"; did you mean {bare[near[0]]}?" if near else f" (options: {', '.join(known)})"


def _check(option: str, hint: Any, values: list[str]) -> None:
    """Refuses values that are not of an option's type, or too many or none."""
    if typing.get_origin(hint) is not tuple and len(values) != (hint is not bool):
        takes = "no value" if hint is bool else "one value"
        raise UserError(f"{option} takes {takes} (got {' '.join(values) or 'none'})")
    kinds = _leaves(hint)
    choices = [kind for kind in kinds if isinstance(kind, str)]
    for value in values:
        if value == "None" and type(None) in kinds:
            continue
        if choices and value not in choices:
            raise UserError(f"{option} should be one of {', '.join(choices)} (got {value})")
        for kind in _KINDS.keys() & set(kinds):
            try:
                kind(value)
            except ValueError:
                raise UserError(f"{option} should be {_KINDS[kind]} (got {value})") from None


def _leaves(hint: Any) -> list[Any]:
    """What a value may be: float and None of `float | None`, the choices of a Literal."""
    parts = typing.get_args(hint)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [hint]


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
