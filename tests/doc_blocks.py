"""The blocks of commands and code in README.md and docs/, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
_MARKER = re.compile(r"<!-- ([a-z ]+): (.+) -->")


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        page: below the repository.
        line: of its first line, counted from 1.
        language: behind the fence's ticks; empty for one that is indented instead.
        marker: (kind, what) of a comment right above, such as ("needs", "AWS").
        text: its lines.
    """

    page: str
    line: int
    language: str
    marker: tuple[str, str] | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell's block; comments are left out, continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: str) -> list[Block]:
    """A page's blocks, fenced and indented, in order."""
    return list(parsed((ROOT / page).read_text(encoding="utf-8"), page))


def parsed(text: str, page: str) -> Iterator[Block]:
    """The same of a page's text."""
    lines = [*text.splitlines(), ""]
    at, marker = 0, None
    while at < len(lines):
        begin, language, found = at, "", []
        if lines[at].startswith("```"):
            language, begin = lines[at].removeprefix("```").strip() or "text", at + 1
            end = lines.index("```", begin)
            found, at = lines[begin:end], end
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip() or marker):
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                found.append(lines[at].removeprefix("    "))
                at += 1
            at -= 1
        if found:
            yield Block(page, begin + 1, language, marker, "\n".join(found).strip("\n"))
        if lines[at].strip():
            said = _MARKER.fullmatch(lines[at])
            marker = (said[1], said[2]) if said else None
        at += 1


def job(words: list[str]) -> tuple[str, list[str]] | None:
    """(command, options) of `songsight …` or `python -m jobs.… …`, which may stand behind `ray job submit … --`."""
    if words[0] == "songsight" and len(words) > 1:
        return words[1], words[2:]
    modules = [word for word in words if re.fullmatch(r"jobs\.\w+", word)]
    return (modules[0].removeprefix("jobs."), words[words.index(modules[0]) + 1 :]) if modules else None


def code_spans(page: str) -> list[str]:
    """What stands between ticks in a page's text, outside its blocks."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
