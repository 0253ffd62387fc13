"""Hours and scores of datasets by language, and warnings where the sync threshold is unfair to a language."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.display import counted, human_share
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.language_tags import with_canonical_languages
from lipforge.datasets_manifest.manifest import DICTIONARIES, open_manifest, plain_arrow_errors
from lipforge.datasets_manifest.query import connect, plain_sql_errors
from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.datasets_manifest.storage.files import open_place

NEEDED = (*DICTIONARIES, "duration_s", "accounted_s", "sync_confidence", "quality")
MOST_REASONS = 3
"""Named where a sentence says why a language lost what it lost."""

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
        ("hours_in", pa.float64()),  # of sources, each second once
        ("lost", pa.list_(pa.struct([("reason", pa.string()), ("hours", pa.float64())]))),  # of hours_in; most first
    ]
)

_SQL = f"""
WITH clips AS (
    SELECT * REPLACE (coalesce(language, 'und') AS language),
           status = '{Status.KEPT}' AS kept,
           coalesce(NOT isnan(sync_confidence), false) AS measured
    FROM rows
), losses AS (
    SELECT language, list({{'reason': reason, 'hours': hours}} ORDER BY hours DESC, reason) AS lost
    FROM (SELECT language, coalesce(reason, 'unknown') AS reason, sum(accounted_s) / 3600 AS hours
          FROM clips WHERE NOT kept GROUP BY ALL)
    WHERE hours > 0
    GROUP BY language
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
       coalesce(sum(duration_s) FILTER (measured AND kept), 0) / sum(duration_s) FILTER (measured) AS "yield",
       coalesce(sum(duration_s) FILTER (measured AND reason = '{Reason.LOW_SYNC_CONFIDENCE}'), 0)
           / sum(duration_s) FILTER (measured) AS sync_loss,
       coalesce(sum(accounted_s), 0) / 3600 AS hours_in,
       coalesce(any_value(lost), []) AS lost
FROM clips LEFT JOIN losses USING (language)
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
    return table, [*_mixed(models), *_nothing_kept(table), *unfair_thresholds(table)]


def _mixed(models: dict[str, list[tuple[str | None]]]) -> list[str]:
    return [
        f"{column} differs between clips ({', '.join(str(name) for (name,) in names)}): scores of different "
        f"models do not compare, so medians are those of {names[0][0]}"
        for column, names in models.items()
        if len(names) > 1
    ]


def why_lost(row: Mapping[str, Any]) -> str:
    """For a row of LANGUAGE_COLUMNS: `9 min 3 s of 20 min 0 s: no_face 6 min 1 s (30.1 %), ...`; empty if none."""
    lost, hours_in = row["lost"], row["hours_in"]
    if not lost:
        return ""
    named = [
        f"{one['reason']} {human_time(3600 * one['hours'])} ({human_share(one['hours'], hours_in)})"
        for one in lost[:MOST_REASONS]
    ]
    others = lost[MOST_REASONS:]
    if others:
        rest = sum(one["hours"] for one in others)
        named.append(
            f"{counted(len(others), 'other reason')} {human_time(3600 * rest)} ({human_share(rest, hours_in)})"
        )
    total = human_time(3600 * sum(one["hours"] for one in lost))
    return f"{total} of {human_time(3600 * hours_in)}: {', '.join(named)}"


def _nothing_kept(table: pa.Table) -> list[str]:
    return [
        f"{row['language']}: nothing is kept; lost {why_lost(row)}. {_advice(row)}"
        for row in table.to_pylist()
        if not row["clips"] and row["lost"]
    ]


def _advice(row: Mapping[str, Any]) -> str:
    if row["lost"][0]["reason"] == Reason.LOW_SYNC_CONFIDENCE:
        return _WEAK_SCORER
    return "`lipforge report` says what each reason means, and shows some of the clips"


_WEAK_SCORER = (
    "The scorer may not know this language: watch some of the clips, and see "
    "`lipforge pack --set min_sync_confidence=...`"
)


def unfair_thresholds(table: pa.Table) -> list[str]:
    """A warning for each language that loses far more to the sync threshold than others.

    That is: its sync_loss exceeds the median language's by more than half of the median yield. A scorer is weaker on
    languages it was not trained on, so one threshold for all throws away good clips of these. table: LANGUAGE_COLUMNS.
    Of a language of which nothing is kept another warning says all.
    """
    rows = table.filter(table["yield"].is_valid())
    if rows.num_rows < 2:
        return []
    usual_yield = np.median(rows["yield"])
    usual_loss = np.median(rows["sync_loss"])
    return [
        f"{row['language']}: the sync threshold refuses {row['sync_loss']:.0%} of what was measured "
        f"(median of all languages: {usual_loss:.0%}), and {row['yield']:.0%} are kept (median: {usual_yield:.0%}). "
        f"{_WEAK_SCORER}"
        for row in rows.to_pylist()
        if row["clips"] and row["sync_loss"] - usual_loss > usual_yield / 2
    ]
