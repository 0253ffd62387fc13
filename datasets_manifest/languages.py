"""Hours and scores of datasets by language, and warnings where the sync threshold is unfair to a language."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.language_tags import with_canonical_languages
from lipforge.datasets_manifest.manifest import DICTIONARIES, open_manifest, plain_arrow_errors
from lipforge.datasets_manifest.query import connect, plain_sql_errors
from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.datasets_manifest.storage.files import open_place

NEEDED = (*DICTIONARIES, "duration_s", "sync_confidence", "quality")

LANGUAGE_COLUMNS = pa.schema(
    [
        ("language", pa.string()),  # canonical; `und` when unknown
        ("hours", pa.float64()),  # of kept clips
        ("clips", pa.int64()),  # kept
        ("speakers", pa.int64()),  # of kept clips; a clip without a speaker counts its source
        ("sync_confidence", pa.float64()),  # median over measured clips, kept or not, of the most frequent sync_model
        ("quality", pa.float64()),  # likewise
        ("measured_hours", pa.float64()),  # of clips that have a sync_confidence
        ("yield", pa.float64()),  # kept over measured hours, 0..1; null when nothing was measured
        ("sync_loss", pa.float64()),  # share of measured hours that low_sync_confidence refused, 0..1
    ]
)

_SQL = f"""
WITH clips AS (
    SELECT * REPLACE (coalesce(language, 'und') AS language),
           status = '{Status.KEPT}' AS kept,
           coalesce(NOT isnan(sync_confidence), false) AS measured
    FROM rows
)
SELECT language,
       coalesce(sum(duration_s) FILTER (kept), 0) / 3600 AS hours,
       count(*) FILTER (kept) AS clips,
       count(DISTINCT CASE WHEN speaker IS NULL THEN 'source:' || source_id ELSE 'speaker:' || speaker END)
           FILTER (kept) AS speakers,
       median(sync_confidence) FILTER (measured AND sync_model IS NOT DISTINCT FROM $sync_model)::DOUBLE
           AS sync_confidence,
       median(quality) FILTER (NOT isnan(quality) AND quality_model IS NOT DISTINCT FROM $quality_model)::DOUBLE
           AS quality,
       coalesce(sum(duration_s) FILTER (measured), 0) / 3600 AS measured_hours,
       sum(duration_s) FILTER (measured AND kept) / sum(duration_s) FILTER (measured) AS "yield",
       coalesce(sum(duration_s) FILTER (measured AND reason = '{Reason.LOW_SYNC_CONFIDENCE}'), 0)
           / sum(duration_s) FILTER (measured) AS sync_loss
FROM clips
GROUP BY language
ORDER BY hours DESC, language
"""  # noqa: S608 - our own constants only


def languages(datasets: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """(LANGUAGE_COLUMNS by language, most hours first, also where nothing was kept; warnings).

    datasets: folders or fsspec URLs; a clip that several hold counts once. All spellings of a language are one.
    Raises FileNotFoundError, ManifestError as open_manifest does, ValueError when no dataset is named.
    """
    if not datasets:
        raise ValueError("no dataset given: name at least one")
    roots = sorted({place if "://" in place else open_place(place)[1] for place in datasets})
    wanted = NEEDED if len(roots) == 1 else (*NEEDED, "key")
    with connect() as connection, plain_sql_errors():
        for index, root in enumerate(roots):
            scanner = open_manifest(root, DICTIONARIES).scanner(columns=list(wanted))
            with plain_arrow_errors(root):
                connection.register(f"rows_{index}", with_canonical_languages(scanner.to_table()))
        all_rows = " UNION ALL ".join(f"SELECT *, {index} AS place FROM rows_{index}" for index in range(len(roots)))  # noqa: S608
        once = f"QUALIFY row_number() OVER (PARTITION BY key ORDER BY status <> '{Status.KEPT}', place) = 1"
        connection.execute(
            f"CREATE VIEW rows AS SELECT * FROM ({all_rows}) {'' if len(roots) == 1 else once}"  # noqa: S608
        )
        models = {
            column: connection.execute(
                f"SELECT {column} FROM rows WHERE {measure} IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1"  # noqa: S608
            ).fetchall()
            for column, measure in (("sync_model", "sync_confidence"), ("quality_model", "quality"))
        }
        shown = {column: names[0][0] if names else None for column, names in models.items()}
        table = connection.sql(_SQL, params=shown).to_arrow_table().cast(LANGUAGE_COLUMNS)
    return table, [*_mixed(models), *unfair_thresholds(table)]


def _mixed(models: dict[str, list[tuple[str | None]]]) -> list[str]:
    return [
        f"{column} differs between clips ({', '.join(str(name) for (name,) in names)}): scores of different "
        f"models do not compare, so medians are those of {names[0][0]}"
        for column, names in models.items()
        if len(names) > 1
    ]


def unfair_thresholds(table: pa.Table) -> list[str]:
    """A warning for each language that loses far more to the sync threshold than others.

    That is: its sync_loss exceeds the median language's by more than half of the median yield. A scorer is weaker on
    languages it was not trained on, so one threshold for all throws away good clips of these. table: LANGUAGE_COLUMNS.
    """
    rows = table.filter(table["yield"].is_valid())
    if rows.num_rows < 2:
        return []
    usual_yield = np.median(rows["yield"])
    usual_loss = np.median(rows["sync_loss"])
    return [
        f"{row['language']}: the sync threshold refuses {row['sync_loss']:.0%} of what was measured "
        f"(median of all languages: {usual_loss:.0%}), and {row['yield']:.0%} are kept (median: {usual_yield:.0%}). "
        "The scorer may not know this language: watch some of the clips, and see "
        "`lipforge pack --set min_sync_confidence=...`"
        for row in rows.to_pylist()
        if row["sync_loss"] - usual_loss > usual_yield / 2
    ]
