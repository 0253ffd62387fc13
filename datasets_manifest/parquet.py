"""Parquet with checksums: how every table of a dataset is written and read."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq


def checked_format(dictionaries: Sequence[str] = ()) -> pyarrow.dataset.ParquetFileFormat:
    """Read with checksums verified, and these text columns as dictionaries."""
    options = pyarrow.dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
    return pyarrow.dataset.ParquetFileFormat(
        dictionary_columns=set(dictionaries), default_fragment_scan_options=options
    )


def parquet_bytes(table: pa.Table) -> bytes:
    """A Parquet file whose pages have checksums. The same rows give the same bytes."""
    encoded = io.BytesIO()
    # One chunk per column: page and dictionary borders must not depend on how the rows arrived.
    pq.write_table(table.combine_chunks(), encoded, compression="zstd", write_page_checksum=True)
    return encoded.getvalue()


def arrow_reader(data: bytes) -> pa.BufferReader:
    """Bytes as a file for Arrow's threads, in a copy that is Arrow's own.

    A thread that drops the last reference to memory of Python waits for the interpreter's lock. On a busy machine that
    may be when the interpreter ends: then the process aborts ("terminate called without an active exception").
    """
    copy = pa.BufferOutputStream()
    copy.write(data)
    return pa.BufferReader(copy.getvalue())


def parse_parquet(
    data: bytes, columns: Sequence[str] | None = None, dictionaries: Sequence[str] | None = None
) -> pa.Table:
    """The table in a Parquet file, or those of these columns that it has. dictionaries: its text columns
    to read as such.

    Raises ValueError when it is not one, or its checksums show damage.
    """
    try:
        file = pq.ParquetFile(arrow_reader(data), page_checksum_verification=True, read_dictionary=dictionaries)
        wanted = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        return file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a Parquet file, or damaged: {error}") from error
