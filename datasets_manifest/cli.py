"""Commands over manifests: `lipforge languages|select|query`, also as `python -m datasets_manifest`."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lipforge.datasets_manifest.display import counted, visible

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Show what is in datasets, and choose clips from them.",
)
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)

MAX_ROWS_SHOWN = 50

Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="The folder that `lipforge prepare --out` made, or its URL.")
]
Datasets = Annotated[
    list[str], typer.Argument(metavar="DATASET", help="Folders that `lipforge prepare --out` made, or URLs.")
]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Expected errors become one message and exit code 1 (2 for wrong usage); bugs keep their traceback."""
    from lipforge.datasets_manifest.manifest import ManifestError
    from lipforge.datasets_manifest.select.request import NotEnoughDataError
    from lipforge.datasets_manifest.selection import SelectionError
    from lipforge.datasets_manifest.storage.trouble import system_words

    try:
        yield
    except (NotEnoughDataError, ManifestError, SelectionError) as error:
        _fail(str(error), 1, error)
    except ValueError as error:
        _fail(str(error), 2, error)
    except BrokenPipeError:  # `| head` has read enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or Python complains when it flushes the old one at the end
        raise typer.Exit(1) from None
    except OSError as error:
        _fail(system_words(error), 1, error)
    except KeyboardInterrupt as error:
        _fail("stopped", 130, error)


def _fail(message: str, code: int, error: BaseException) -> None:
    lines = "\n".join(visible(line) for line in message.splitlines())
    errors.print(f"lipforge: {lines}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code) from error


@app.command()
def languages(datasets: Datasets) -> None:
    """Hours, clips and speakers by language, their median scores, what was kept, and why the rest was lost.

    Medians are over all measured clips, kept or not. Yield is kept over measured hours. Warnings name languages of
    which nothing is kept, or that lose far more to the sync threshold than others: a scorer is weaker on languages it
    was not trained on.
    """
    from lipforge.datasets_manifest.durations import human_time
    from lipforge.datasets_manifest.languages import languages as by_language
    from lipforge.datasets_manifest.languages import why_lost

    with plain_errors():
        rows, warnings = by_language(datasets)
        if not rows.num_rows:
            console.print("no clips yet")
        table = _table("language", "kept", "clips", "speakers", "sync median", "quality median", "measured", "yield")
        for row in rows.to_pylist():
            table.add_row(
                visible(row["language"]),
                human_time(3600 * row["hours"]),
                f"{row['clips']:,}",
                f"{row['speakers']:,}",
                _number(row["sync_confidence"], ".2f"),
                _number(row["quality"], ".1f"),
                human_time(3600 * row["measured_hours"]),
                _number(row["yield"], ".0%"),
            )
        console.print(table)
        for row in rows.to_pylist():
            if row["clips"] and row["lost"]:
                console.print(
                    f"{visible(row['language'])} lost {why_lost(row)}", markup=False, highlight=False, soft_wrap=True
                )
        _print_notes(warnings)


@app.command()
def select(
    datasets: Datasets,
    out: Annotated[str, typer.Option(help="Selection to write, *.parquet; a chart of it is written beside it.")],
    language: Annotated[
        list[str] | None,
        typer.Option(help="`zh` also takes zh-CN and cmn, `und` is unknown. Can be repeated. Default: all languages."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Hours for training, within 1 % or one clip. Default: everything.")
    ] = None,
    val_hours: Annotated[
        float, typer.Option(help="Additional hours for validation, of speakers who are not in training.")
    ] = 0.0,
    val_share: Annotated[
        float | None,
        typer.Option(
            help="Share of speakers, by hash of the name, reserved for validation with --val-hours. Default: 0.1."
        ),
    ] = None,
    min_sync: Annotated[float | None, typer.Option(help="Lowest sync confidence.")] = None,
    min_quality: Annotated[float | None, typer.Option(help="Lowest image quality, 0..100.")] = None,
    min_face_px: Annotated[float | None, typer.Option(help="Lowest face height in the source, pixels.")] = None,
    max_outside: Annotated[
        float | None, typer.Option(help="Largest share of the crop outside the picture, in any frame, 0..1.")
    ] = None,
    min_clip_s: Annotated[float | None, typer.Option(help="Shortest clip, seconds.")] = None,
    window_frames: Annotated[
        int,
        typer.Option(
            help="Frames of a training window (a trainer's `num_frames`). Clips that cannot hold two are not taken."
        ),
    ] = 16,
    max_hours_per_speaker: Annotated[float | None, typer.Option(help="Most hours of one speaker.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help='A condition over the manifest\'s columns: "source_fps = 25".')
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PARQUET", help="Take no clip of this selection. Can be repeated."),
    ] = None,
    order: Annotated[
        str, typer.Option(help="Which clips first: `random`, `sync` or `quality` (best first).")
    ] = "random",
    seed: Annotated[int, typer.Option(help="Seed of the random order.")] = 0,
    allow_less: Annotated[bool, typer.Option("--allow-less", help="Accept fewer hours than asked for.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out if it is a selection, and its chart.")
    ] = False,
) -> None:
    """Choose clips for training by language, hours, scores and speaker. The same request always gives the same clips.

    Thresholds cut the stored measures: nothing is measured again, nothing is copied. The selection is a Parquet file
    whose rows say which bytes of which shard to read.

    Examples:

        lipforge select dataset --language hi --hours 20 --min-sync 4 --max-hours-per-speaker 0.5 --out hi20.parquet

        lipforge select ds1 ds2 --language zh --hours 20 --val-hours 1 --order quality --out zh20.parquet

        lipforge select dataset --where "speech_ratio > 0.8" --exclude zh20.parquet --out more.parquet
    """
    from lipforge.datasets_manifest.report.selection_chart import refuse_foreign_chart, write_chart
    from lipforge.datasets_manifest.select.again import note_on_shards
    from lipforge.datasets_manifest.select.choose import choose
    from lipforge.datasets_manifest.select.request import Request
    from lipforge.datasets_manifest.selection import write_selection
    from lipforge.datasets_manifest.storage.files import open_place

    with plain_errors():
        if not out.endswith(".parquet"):
            raise ValueError(f"--out is {out}: expected a name that ends in .parquet")
        if val_share is not None and not val_hours:
            raise ValueError("--val-share needs --val-hours, the hours of validation")
        if overwrite and open_place(out)[1] in {open_place(path)[1] for path in exclude or ()}:
            raise ValueError(f"--overwrite would replace {out}, which --exclude names: give another --out")
        request = Request(
            datasets=tuple(datasets),
            languages=tuple(language or ()),
            hours=hours,
            val_hours=val_hours,
            **({} if val_share is None else {"val_share": val_share}),
            min_sync=min_sync,
            min_quality=min_quality,
            min_face_px=min_face_px,
            max_outside=max_outside,
            min_clip_s=min_clip_s,
            window_frames=window_frames,
            max_hours_per_speaker=max_hours_per_speaker,
            where=where,
            exclude=tuple(exclude or ()),
            order=order,
            seed=seed,
            allow_less=allow_less,
        )
        selection = choose(request)
        refuse_foreign_chart(out, overwrite)
        write_selection(out, selection.table, request.as_json(), overwrite)
        chart = write_chart(out, selection.table, min_sync, min_quality)
        _print_selection(selection.table, selection.about["gave"])
        _print_notes([*selection.notes, *note_on_shards(selection.table)])
        console.print(f"selection: {visible(out)}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"chart: {visible(chart)}", markup=False, highlight=False, soft_wrap=True)


def _print_selection(rows: Any, gave: dict[str, dict[str, float]]) -> None:
    import pyarrow.compute as pc

    from lipforge.datasets_manifest.durations import human_time

    table = _table("", "length", "clips", "speakers", "sync median", "quality median")
    for split, given in gave.items():
        if given["clips"]:
            here = rows.select(["split", "sync_confidence", "sync_model", "quality", "quality_model"])
            here = here.filter(pc.field("split") == split)
            sync = _median(here, "sync_confidence", "sync_model", ".2f")
            quality = _median(here, "quality", "quality_model", ".1f")
            table.add_row(
                split, human_time(3600 * given["hours"]), f"{given['clips']:,}", f"{given['speakers']:,}", sync, quality
            )
    console.print(table)
    spoken = rows["language"].fill_null("und").value_counts().to_pylist()
    listed = ", ".join(f"{x['values']} {x['counts']:,}" for x in sorted(spoken, key=lambda x: -x["counts"])[:12])
    console.print(f"clips by language: {visible(listed)}", markup=False, highlight=False, soft_wrap=True)


def _median(rows: Any, column: str, model_column: str, form: str) -> str:
    import numpy as np

    if len(rows[model_column].unique()) > 1:
        return "(models differ)"
    values = rows[column].drop_null().to_numpy()
    return _number(float(np.median(values)) if len(values) else None, form)


@app.command()
def query(
    dataset: Dataset,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over the view `manifest`.")],
    csv: Annotated[bool, typer.Option("--csv", help="All rows as CSV, to standard output.")] = False,
    parquet: Annotated[Path | None, typer.Option(help="All rows into this new file.")] = None,
) -> None:
    """Query the manifest in SQL (DuckDB). Read-only: a query reaches the view `manifest`, no files and no network.

    `in_language(language, 'zh')` is true where `select --language zh` would take the clip. docs/queries.md has the SQL
    of questions that people ask: why did this source go, what is nearest to the threshold, hours by speaker.

    Examples:

        lipforge query dataset "SELECT reason, sum(accounted_s) / 3600 AS hours FROM manifest GROUP BY reason"

        lipforge query dataset "SELECT detail, key FROM manifest WHERE reason = 'low_quality' ORDER BY quality DESC"

        lipforge query dataset "SELECT key, sync_confidence FROM manifest WHERE status = 'kept'" --csv > kept.csv
    """
    from lipforge.datasets_manifest.query import open_query

    with plain_errors():
        if csv and parquet is not None:
            raise ValueError("--csv or --parquet: choose one")
        if parquet is not None and parquet.exists():
            raise ValueError(f"{parquet} exists: give another name, or delete it first")
        with open_query(dataset, sql) as reader:
            if csv:
                _write_csv(reader)
            elif parquet is not None:
                _write_parquet(reader, parquet)
            else:
                _print_rows(reader)


def _write_csv(reader: Any) -> None:
    import pyarrow as pa
    from pyarrow import csv

    try:
        with csv.CSVWriter(sys.stdout.buffer, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    except pa.ArrowException as error:
        raise ValueError(f"this cannot be CSV: {error}") from error


def _write_parquet(reader: Any, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fsspec.implementations.local import LocalFileSystem

    from lipforge.datasets_manifest.storage.files import writing

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        num_rows = 0
        with (
            writing(LocalFileSystem(), str(path.absolute())) as file,
            pq.ParquetWriter(file, reader.schema, compression="zstd") as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
                num_rows += len(batch)
    except pa.ArrowException as error:
        raise ValueError(f"this cannot be Parquet: {error}") from error
    console.print(f"{counted(num_rows, 'row')}: {visible(str(path))}", markup=False, highlight=False, soft_wrap=True)


def _print_rows(reader: Any) -> None:
    """A table; or one line per value where the terminal is too narrow, because cut cells cannot be read or copied."""
    from itertools import chain, islice

    values = list(islice(chain.from_iterable(zip(*batch.columns, strict=True) for batch in reader), MAX_ROWS_SHOWN + 1))
    names = [visible(field.name) for field in reader.schema]
    rows = [[_cell(value.as_py()) for value in row] for row in values[:MAX_ROWS_SHOWN]]
    table = Table(box=None, pad_edge=False)
    for name, field in zip(names, reader.schema, strict=True):
        number = str(field.type).startswith(("int", "uint", "float", "double", "decimal"))
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    width = console.measure(table, options=console.options.update(max_width=10**6)).maximum
    if width > console.width and console.is_terminal:
        for number, row in enumerate(rows, start=1):
            console.print(f"--- row {number}", style="dim", highlight=False)
            for name, cell in zip(names, row, strict=True):
                console.print(f"{name}: {cell}", markup=False, highlight=False, soft_wrap=True)
    else:
        Console(width=max(width, 1), emoji=False).print(table)
    if len(values) > MAX_ROWS_SHOWN:
        errors.print(f"the first {MAX_ROWS_SHOWN} rows; --csv or --parquet FILE gives all", style="yellow")


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else visible(str(value))


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left")
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, form)


def _print_notes(notes: Any) -> None:
    for note in notes:
        console.print(f"note: {visible(note)}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    # A path may hold any bytes: print what cannot be encoded as escapes instead of failing on it.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app(prog_name="lipforge")
