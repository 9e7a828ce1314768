"""Photographs of any species from iNaturalist's open data (https://github.com/inaturalist/inaturalist-open-data).

    s3://inaturalist-open-data/{photos,observations,taxa,observers}.csv.gz   tab-separated, without quoting
    s3://inaturalist-open-data/photos/{photo_id}/medium.{extension}          500 px along the longer side

The bucket is public, and read without credentials where there are none. The root may also be a folder into which the
four files were copied; the photographs' paths lead to the bucket either way. The files hold hundreds of millions of
rows: DuckDB streams each of them once, and keeps only what belongs to the species that are asked for.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing

import duckdb
import pyarrow as pa

from songsight.datasets import files
from songsight.errors import UserError
from songsight.store import sheets, tables, urls

_BUCKET = "s3://inaturalist-open-data"

_COLUMNS = {
    "taxa": ("taxon_id", "ancestry", "rank", "name"),
    "observations": ("observation_uuid", "taxon_id", "quality_grade"),
    "photos": ("photo_id", "observation_uuid", "observer_id", "extension", "license", "position"),
    "observers": ("observer_id", "login", "name"),
}

# A subspecies' observations are its species' too: whatever lies below a wanted species is a member of it.
_MEMBERS = """
    CREATE TABLE taxa AS SELECT taxon_id, ancestry, rank, name FROM {taxa};
    CREATE TABLE species AS SELECT taxon_id, ancestry, name FROM taxa WHERE rank = 'species' AND name IN (FROM wanted);
    CREATE TABLE member AS
        SELECT taxon_id, taxon_id AS species_id, name AS scientific_name FROM species
        UNION
        SELECT below.taxon_id, species.taxon_id, species.name
        FROM (SELECT taxon_id, unnest(string_split(ancestry, '/')) AS above FROM taxa) AS below
        JOIN species ON below.above = species.taxon_id
"""

_OBSERVATIONS = """
    CREATE TABLE observation AS
        SELECT observation_uuid, species_id, scientific_name FROM {observations} JOIN member USING (taxon_id)
        WHERE $quality = 'any' OR quality_grade = $quality
"""

# Each observation's first photograph comes before any second one, so that a species is seen in many individuals; among
# equals a hash decides, for the files' order is not random. Two observations may share a photograph.
_PHOTOS = """
    CREATE TABLE photo AS
        WITH each AS (
            SELECT photo_id, observation_uuid, observer_id, extension, license, species_id, scientific_name,
                coalesce(try_cast(position AS INTEGER), 0) AS position
            FROM {photos} JOIN observation USING (observation_uuid)
            WHERE len($licenses) = 0 OR list_contains($licenses, upper(license))
            QUALIFY row_number() OVER (PARTITION BY photo_id ORDER BY observation_uuid) = 1
        )
        SELECT *, row_number() OVER (PARTITION BY scientific_name ORDER BY position, md5(photo_id), photo_id) AS place
        FROM each QUALIFY place <= $per_species
"""

_CREDITED = """
    SELECT photo_id, extension, license, species_id, scientific_name, observation_uuid,
        coalesce(nullif(observer.name, ''), observer.login) AS rights_holder
    FROM photo LEFT JOIN {observers} AS observer USING (observer_id) ORDER BY scientific_name, place
"""

_LINEAGES = """
    SELECT lineage.species_id, taxa.rank, taxa.name
    FROM (SELECT taxon_id AS species_id, unnest(string_split(ancestry, '/')) AS above FROM species) AS lineage
    JOIN taxa ON lineage.above = taxa.taxon_id
"""


def read(
    folder: files.Folder,
    species_list: Sequence[str] = (),
    licenses: Sequence[str] = (),
    quality_grade: str = "research",
    per_species: int = 20,
) -> pa.Table:
    """Chooses photographs of the species that are asked for.

    Args:
        folder: the bucket, or a folder with its four files.
        species_list: scientific names.
        licenses: such as CC0 and CC-BY, in either case; none means any.
        quality_grade: research, needs_id, casual or any.
        per_species: the most photographs a species gets.

    Raises:
        UserError: no species are asked for, one of the four files is missing or lacks columns, or nothing fits.
    """
    if not species_list:
        raise UserError("inat-photos holds every species: name some with --species-list")
    scans = {name: _scan(folder, name) for name in _COLUMNS}
    with closing(duckdb.connect()) as db, tempfile.TemporaryDirectory() as spill:
        db.execute("SET preserve_insertion_order = false")
        db.execute("SET temp_directory = $spill", {"spill": spill})
        if urls.is_remote(folder.url):
            db.register_filesystem(folder.fs)
        db.execute("CREATE TABLE wanted AS SELECT DISTINCT unnest($names) AS name", {"names": list(species_list)})
        try:
            db.execute(_MEMBERS.format(**scans))
            db.execute(_OBSERVATIONS.format(**scans), {"quality": quality_grade})
            chosen = {"licenses": [license.upper() for license in licenses], "per_species": per_species}
            db.execute(_PHOTOS.format(**scans), chosen)
            photos: pa.Table = db.sql(_CREDITED.format(**scans)).to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"{folder.root}: {str(error).splitlines()[0]}") from None
        lineages: dict[str, dict[str, str]] = defaultdict(dict)
        for species_id, rank, name in db.execute(_LINEAGES).fetchall():
            lineages[species_id][rank] = name
    if len(photos) == 0:
        raise UserError(f"{folder.root} has no photographs of these species with these licenses and quality grade")
    return _table(photos, lineages)


def _scan(folder: files.Folder, name: str) -> str:
    """The SQL that reads one of the four files, every column as text."""
    url = folder.open(f"{name}.csv.gz")
    path = urls.filesystem(url)[1]
    if not folder.fs.exists(path):
        raise UserError(f"{folder.root} has no {name}.csv.gz, as iNaturalist's open data has")
    try:
        with folder.fs.open(path, "rb", block_size=1 << 20) as raw, gzip.open(raw) as handle:
            header = handle.readline().decode().rstrip("\r\n").split("\t")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{url} is not a gzipped table: {error}") from None
    sheets.require(url, header, _COLUMNS[name])
    columns = ", ".join(f"'{column}': 'VARCHAR'" for column in header)
    quoted_url = url.replace("'", "''")
    return (
        f"read_csv('{quoted_url}', delim = '\t', quote = '', escape = '', header = true, auto_detect = false, "
        f"compression = 'gzip', columns = {{{columns}}})"
    )


def _table(photos: pa.Table, lineages: dict[str, dict[str, str]]) -> pa.Table:
    rows = photos.to_pylist()
    columns = {
        "image_id": [row["photo_id"] for row in rows],
        "path": [f"{_BUCKET}/photos/{row['photo_id']}/medium.{row['extension']}" for row in rows],
        "scientific_name": [row["scientific_name"] for row in rows],
        # The species' own name gives genus and epithet.
        **{rank: [lineages[row["species_id"]].get(rank) for row in rows] for rank in tables.RANKS[:-1]},
        "license": [row["license"] for row in rows],
        "rights_holder": [row["rights_holder"] for row in rows],
        "source": [f"https://www.inaturalist.org/observations/{row['observation_uuid']}" for row in rows],
    }
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
