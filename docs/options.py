"""Writes `docs/options.md`: each command's options, from the dataclass that the command itself parses.

    make docs

`tests/test_docs.py` fails where the page is another one, or where an option has no help.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import types
import typing
from pathlib import Path
from typing import Any

from jobs.cli import JOBS
from jobs.shared.options import flag

PAGE = Path(__file__).with_suffix(".md")
KINDS = {str: "text", int: "whole number", float: "number"}
TOP = """\
<!-- Written by `make docs` from the options in jobs/: change them there. -->
# Options

What `songsight COMMAND --help` lists. A default that is not given here is nothing. `--config run.yaml` sets the same
options from a YAML mapping, `hop_s: 5` for `--hop-s 5`; those of the command line win. Lists take their items one
behind the other or by giving the option again. A switch that is on by default or by the file is turned off by `--no-…`.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([TOP, *(section(command, what) for command, what in JOBS.items())])


def section(command: str, what: str) -> str:
    """A command's heading and table; options that it shares with another command are listed there alone."""
    options = importlib.import_module(f"jobs.{command}").Options
    texts, hints = helps(options), typing.get_type_hints(options)
    own = dataclasses.fields(options)
    lines = [f"## {command}", "", what[0].upper() + what[1:] + ".", ""]
    for base in filter(dataclasses.is_dataclass, options.__mro__[1:]):
        parent = base.__module__.removeprefix("jobs.")
        lines += [f"All options of [{parent}](#{parent}), and:", ""]
        own = tuple(field for field in own if field.name not in base.__dataclass_fields__)
    lines += ["| option | value | default | |", "|---|---|---|---|"]
    for field in own:
        cells = (f"`{flag(field.name)}`", value(hints[field.name]), default(field), texts[field.name])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def helps(options: type) -> dict[str, str]:
    """The text below each field of an options class and of those that it extends; empty where there is none."""
    found = {}
    for cls in filter(dataclasses.is_dataclass, reversed(options.__mro__)):
        (definition,) = ast.parse(inspect.getsource(cls)).body
        assert isinstance(definition, ast.ClassDef)
        for node, below in zip(definition.body, [*definition.body[1:], None], strict=True):
            match node, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
                case ast.AnnAssign(target=ast.Name(id=name)), _:
                    found[name] = ""
    return found


def value(hint: Any) -> str:
    """What an option takes: `number` of `float | None`, the choices of a Literal, nothing of a switch."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in parts)
    if origin is tuple:
        return f"list of {value(parts[0])}s"
    if origin in (types.UnionType, typing.Union):
        return value(parts[0])
    return "" if hint is bool else KINDS[hint]


def default(field: dataclasses.Field[Any]) -> str:
    """What it is unless given, `needed` where it has to be."""
    if field.default is dataclasses.MISSING:
        return "needed"
    return f"`{field.default}`" if field.default or type(field.default) in (int, float) else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
