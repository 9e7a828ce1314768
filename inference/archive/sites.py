"""Which site a recording belongs to, by its path, and how sites and dates become the folders of a Hive table.

Readers guess the type of a partition column from the names of its folders: pyarrow, R and Spark read `site=007` as
the number 7, and DuckDB a site `2024-05-14` as a date. A missing value is worse: pyarrow cannot read a table whose
every date is Hive's `__HIVE_DEFAULT_PARTITION__`, and pandas none in which some are (pyarrow 25, pandas 3.1). So a site
that looks like a number or a date is written with `site-` before it, in all tables alike, and what is not known is the
word `unknown`.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass
from datetime import datetime

from songsight.errors import UserError

UNKNOWN = "unknown"
_MOST_BYTES = 200  # of a folder's name; file systems take 255
# What cannot stand in a folder's name somewhere, or means something there. Other signs stay: Spark decodes %XX byte by
# byte, so that letters beyond ASCII would come back wrong.
_ESCAPED = re.compile(r"[\x00-\x1f\x7f\"#%'*/:<=>?\\\[\]^{|}]")


@dataclass(frozen=True)
class SiteRule:
    """What `--site` says.

    Attributes:
        level: the folder of that number below the archive, 1 for the topmost; None for another rule.
        pattern: found in the path; its group `site`, else its first group, else all of it. With neither, the site is
            the recording's folder.
        top: the site of files that lie in no folder.
    """

    level: int | None = None
    pattern: str | None = None
    top: str = UNKNOWN

    @staticmethod
    def parse(text: str | None, archive: str) -> SiteRule:
        """Reads `--site`: a number, or a regular expression.

        Raises:
            UserError: neither.
        """
        top = archive.rstrip("/").rsplit("/", 1)[-1] or UNKNOWN
        if text is None:
            return SiteRule(top=top)
        if re.fullmatch(r"[1-9]\d?", text):
            return SiteRule(level=int(text), top=top)
        try:
            re.compile(text)
        except re.error as error:
            raise UserError(
                "--site should be a folder level such as 1, or a regular expression such as '(SM\\d+)_' "
                f"(got {text!r}: {error})"
            ) from None
        return SiteRule(pattern=text, top=top)

    def of(self, path: str) -> str:
        """The site of a path below the archive; `unknown` where the rule does not fit."""
        if self.pattern is not None:
            match = re.search(self.pattern, path)
            return site_name(_group(match) if match else "")
        folder = posixpath.dirname(path).strip("/")
        if self.level is not None:
            levels = [name for name in folder.split("/") if name]
            return site_name(levels[self.level - 1] if len(levels) >= self.level else "")
        return site_name(folder or self.top)


def _group(match: re.Match[str]) -> str:
    groups = match.groupdict()
    if "site" in groups:
        return groups["site"] or ""
    return (match[1] or "") if match.groups() else match[0]


def site_name(text: str) -> str:
    """A site as all tables have it: never empty, never taken for a number or a date, short enough for a folder."""
    name = text.strip() or UNKNOWN
    if _looks_otherwise(name):
        name = f"site-{name}"
    if len(folder_name(name).encode()) > _MOST_BYTES:
        kept = name
        while len(folder_name(kept).encode()) > _MOST_BYTES - 9:
            kept = kept[:-1]
        name = f"{kept}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def _looks_otherwise(name: str) -> bool:
    """Whether a reader could take a name for a number, a date, a truth value or nothing."""
    if not any(character.isalpha() for character in name):
        return True
    if name.lower() in ("true", "false", "null", "none", "na") or name.startswith("__HIVE"):
        return True
    for read in (float, datetime.fromisoformat):
        try:
            read(re.sub(r"(?<=[\d.])[dDfFlL]$", "", name))  # Java reads 1.5d and 2f as numbers
        except ValueError:
            continue
        return True
    return False


def folder_name(value: str) -> str:
    """A partition's value as it stands behind `site=` in a path."""
    return _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", value)


def partition(site: str, date: str) -> str:
    """The folder of a site's hits on a date, below the table: `site=north/date=2024-05-14`."""
    return f"site={folder_name(site)}/date={folder_name(date)}"
