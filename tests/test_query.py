"""SQL over a manifest: it answers, reads only, and reaches no files and no network."""

import os
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lipforge.datasets_manifest.cli import app
from lipforge.datasets_manifest.languages import languages
from lipforge.datasets_manifest.manifest import ManifestError, read_manifest, write_manifest
from lipforge.datasets_manifest.query import connect, query
from lipforge.datasets_manifest.schema import COLUMNS
from lipforge.datasets_manifest.select.choose import select
from lipforge.datasets_manifest.select.where import parse_condition
from tests.manifests import clip, dataset, varied


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return dataset(tmp_path_factory.mktemp("mixed"), varied(200))


def test_answers_in_sql(mixed: str) -> None:
    rows = query(
        mixed, "SELECT language, count(*) AS clips, max(quality) AS best FROM manifest GROUP BY 1 ORDER BY 1"
    ).to_pylist()
    table = read_manifest(mixed).to_pylist()
    for row in rows:
        here = [clip["quality"] for clip in table if clip["language"] == row["language"]]
        assert row["clips"] == len(here) and row["best"] == pytest.approx(max(here))
    assert sum(row["clips"] for row in rows) == 200
    assert query(mixed, "WITH x AS (FROM manifest) SELECT count(*) AS n FROM x, range(2)").to_pylist() == [{"n": 400}]
    assert query(mixed, "DESCRIBE manifest").num_rows == len(table[0])


def test_a_dataset_at_a_url_is_read_there() -> None:
    url = "memory://bucket/data"
    write_manifest(url, varied(50))
    assert query(url, "SELECT count(*) AS n FROM manifest").to_pylist() == [{"n": 50}]
    assert set(select([url], hours=0.05, where="num_frames = 150")["dataset"].to_pylist()) == {url}
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_sql_matches_languages_as_select_does(tmp_path: Path) -> None:
    labels = ["en", "eng", "EN-us", "zh_CN", "cmn", "xx", None, ""] * 1000
    root = dataset(tmp_path, [clip(number, language=label) for number, label in enumerate(labels)])
    for wanted, count in {"en": 3000, "en-US": 1000, "zho": 2000, "und": 2000, "fr": 0}.items():
        sql = f"SELECT count(*) AS n FROM manifest WHERE in_language(language, '{wanted}')"
        assert query(root, sql).to_pylist() == [{"n": count}]
        if count:
            by_sql = select([root], where=f"in_language(language, '{wanted}')")["key"].to_pylist()
            assert by_sql == select([root], languages=[wanted])["key"].to_pylist()
    each = (
        "SELECT DISTINCT in_language(language, coalesce(language, NULL)) AS found FROM manifest WHERE language = 'eng'"
    )
    assert query(root, each).to_pylist() == [{"found": True}]
    assert query(root, "SELECT in_language('en', NULL) AS found").to_pylist() == [{"found": False}]
    with pytest.raises(ValueError, match=r"^SQL: 'english' is not a language code .*; did you mean en\?$"):
        query(root, "SELECT count(*) FROM manifest WHERE in_language(language, 'english')")


HOSTILE = (
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM '{file}'",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_parquet('{file}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM arrow_scan(1::POINTER, 2::POINTER, 3::POINTER)",
    "SELECT (SELECT count(*) FROM read_text('{file}')) FROM manifest",
    "SELECT getenv('HOME')",
    "SELECT * FROM outside",
    "COPY manifest TO '{folder}/stolen.csv'",
    "COPY (SELECT 1) TO '{folder}/stolen.csv'",
    "EXPORT DATABASE '{folder}/stolen'",
    "ATTACH '{folder}/stolen.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "PRAGMA database_list",
    "CREATE TABLE x AS SELECT 1",
    "DROP VIEW manifest",
    "INSERT INTO manifest VALUES (1)",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY manifest TO '{folder}/stolen.csv'",
    "",
    "nonsense",
    "SELECT no_such_column FROM manifest",
    "SELECT CAST(language AS INTEGER) FROM manifest",
)


@pytest.mark.parametrize("sql", HOSTILE)
def test_a_query_reaches_nothing_but_the_manifest(mixed: str, tmp_path: Path, sql: str) -> None:
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    outside = pa.table({"a": [1]})  # a Python variable, which DuckDB would find by its name
    before = read_manifest(mixed)
    with pytest.raises(ValueError):
        query(mixed, sql.format(file=tmp_path / "secret.csv", folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert read_manifest(mixed).equals(before) and outside.num_rows


REFUSED_BY_THE_DATABASE = (
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM '{file}'",
    "SELECT * FROM read_text('https://localhost/secret.csv')",
    "SELECT * FROM 's3://bucket/secret.parquet'",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM enable_logging(storage := 'file', storage_config := {{'path': '{folder}/log'}})",
    "COPY (SELECT 1) TO '{folder}/stolen.csv'",
    "EXPORT DATABASE '{folder}/stolen'",
    "ATTACH '{folder}/stolen.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
)


@pytest.mark.parametrize("sql", REFUSED_BY_THE_DATABASE)
def test_the_database_itself_reaches_no_file_and_no_network(tmp_path: Path, sql: str) -> None:
    """Not because of the statement's kind: SELECT can read and write files, too."""
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    with connect() as connection, pytest.raises(duckdb.Error, match=r"disabled (by|through)|has been locked"):
        connection.execute(sql.format(file=tmp_path / "secret.csv", folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_a_query_finds_no_python_variables() -> None:
    outside = pa.table({"a": [1]})
    with connect() as connection, pytest.raises(duckdb.CatalogException, match=r"outside does not exist"):
        connection.execute("SELECT * FROM outside")
    assert outside.num_rows


@pytest.mark.parametrize(
    "sql",
    [
        "1=1; COPY manifest TO 'x.csv'",
        "true) FROM read_csv('/etc/passwd') WHERE (true",
        "true), (true",
        "true) UNION SELECT (true",
        "true) ORDER BY (1",
        "true) LIMIT (3",
        "true) WHERE (true",
        "true) GROUP BY (true",
        "quality > (SELECT avg(quality) FROM manifest)",
        "key IN (SELECT content FROM read_text('/etc/passwd'))",
        "exists(SELECT 1)",
        "avg(quality) > 3",
        "row_number() OVER () < 10",
        "random() < 0.5",
        "current_timestamp::timestamp < timestamp '2030-01-01'",
        "current_date > date '2020-01-01'",
        "localtimestamp > timestamp '2020-01-01'",
        "user = 'x'",
        "manifest::varchar LIKE '%en%'",
        "hash(manifest) % 2 = 0",
        "struct_extract(manifest, 'status') = 'kept'",
        "now() > '2020-01-01'",
        "current_localtimestamp() > '2020-01-01'",
        "getenv('HOME') = '/root'",
        "current_setting('threads') = 1",
        "uuid()::varchar = key",
        "version() = 'x'",
        "true AS x",
        "read_text('/etc/passwd') IS NOT NULL",
        "COLUMNS(*) IS NOT NULL",
        "quality > ?",
        "quality > $1",
        "rowid < 10",
        "no_such_column = 1",
        "quality",
        "'zh'",
        "/* open",
        "",
        "language LIKE",
    ],
)
def test_a_condition_is_one_expression_of_one_row(sql: str) -> None:
    with pytest.raises(ValueError):
        parse_condition(sql)


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("manifest.Language = 'zh' OR \"quality\" > 3", ("quality", "language")),
        ("lower(language) LIKE 'z%' AND regexp_matches(key, '^0') -- comment", ("key", "language")),
        ("CASE WHEN speech_ratio IS NULL THEN true ELSE speech_ratio > 0.5 END", ("speech_ratio",)),
        ("abs(av_offset_frames) <= 2 and duration_s between 5 and 6.5", ("duration_s", "av_offset_frames")),
        ("md5(key) < '8' AND json_extract_string(detail, '$.a') IS NULL", ("key", "detail")),
        ("in_language(language, 'zh')", ("language",)),
        ("true", ()),
    ],
)
def test_a_condition_knows_what_it_reads(sql: str, columns: tuple[str, ...]) -> None:
    assert parse_condition(sql).columns == columns


def test_a_condition_that_fails_on_a_value_is_said(mixed: str) -> None:
    with pytest.raises(ValueError, match="Could not convert string"):
        select([mixed], where="cast(language as integer) = 1")
    assert select([mixed], where="true").num_rows == 200


# --- manifests that are not ours


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path, [clip(1), clip(2, schema_version=3)])
    for ask in (lambda: query(root, "SELECT 1"), lambda: select([root])):
        with pytest.raises(ManifestError, match="schema version 2, 3, this lipforge reads 2"):
            ask()


def test_missing_and_differing_columns_and_damage_are_named(tmp_path: Path) -> None:
    root = dataset(tmp_path, [clip(1)])
    (part,) = (tmp_path / "manifest").glob("rows-*.parquet")
    table = pq.read_table(part)
    pq.write_table(table.drop_columns(["shard"]), part)
    with pytest.raises(ManifestError, match="column shard is missing"):
        query(root, "SELECT 1")
    pq.write_table(table.set_column(2, "source_uri", pa.array([1])), part)
    with pytest.raises(ManifestError, match="column source_uri is int64, expected string"):
        query(root, "SELECT 1")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ManifestError, match="may be damaged"):
        query(root, "SELECT 1")


def test_damage_within_the_data_is_said(tmp_path: Path) -> None:
    root = dataset(tmp_path, varied(500))
    (part,) = (tmp_path / "manifest").glob("rows-*.parquet")
    data = bytearray(part.read_bytes())
    column = pq.ParquetFile(part).metadata.row_group(0).column(COLUMNS.get_field_index("duration_s"))
    first = column.data_page_offset
    data[first + 40 : first + column.total_compressed_size // 2] = bytes(column.total_compressed_size // 2 - 40)
    part.write_bytes(data)
    for ask in (select, languages, lambda roots: query(roots[0], "SELECT sum(duration_s) FROM manifest")):
        with pytest.raises(ManifestError, match="cannot be read, it may be damaged"):
            ask([root])


def test_one_wrong_bit_is_said_and_never_read_as_data(tmp_path: Path) -> None:
    root = dataset(tmp_path, varied(60))
    (part,) = (tmp_path / "manifest").glob("rows-*.parquet")
    whole, rows = part.read_bytes(), query(root, "FROM manifest")
    footer_bytes = int.from_bytes(whole[-8:-4], "little") + 8
    places = random.Random(0).sample(range(4, len(whole) - footer_bytes), 150)
    num_refused = 0
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        part.write_bytes(data)
        try:
            assert query(root, "FROM manifest").equals(rows)
        except ManifestError:
            num_refused += 1
    assert num_refused > 100


def test_a_query_may_name_subqueries_and_ask_for_a_summary(mixed: str) -> None:
    counts = query(mixed, "WITH kept AS (FROM manifest WHERE status = 'kept') SELECT count(*) AS n FROM kept")
    assert counts["n"][0].as_py() > 0
    assert query(mixed, "SUMMARIZE manifest").num_rows == len(COLUMNS)


def test_a_missing_dataset_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no manifest in"):
        query(str(tmp_path / "nowhere"), "SELECT 1")


# --- the command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["query", *arguments])
    return result.exit_code, result.output


def test_command_shows_a_table_and_says_when_it_is_cut(mixed: str) -> None:
    code, text = run(
        mixed, "SELECT language, count(*) AS clips, NULL AS nothing FROM manifest GROUP BY 1 ORDER BY 1 LIMIT 2"
    )
    assert code == 0 and "language" in text and "ZH_tw" in text and "first 50" not in text
    code, text = run(mixed, "SELECT key FROM manifest")
    assert code == 0 and "the first 50 rows" in text and len(text.splitlines()) == 52


def test_a_wide_table_is_whole_where_no_terminal_is(mixed: str) -> None:
    code, text = run(mixed, "SELECT * FROM manifest LIMIT 3")
    assert code == 0 and len(text.splitlines()) == 4 and "schema_version" in text.splitlines()[0]
    (source, *_) = query(mixed, "SELECT source_id FROM manifest LIMIT 3")["source_id"].to_pylist()
    assert source in text.splitlines()[1]


def csv_command(root: str, sql: str) -> list[str]:
    return [sys.executable, "-m", "datasets_manifest", "query", root, sql, "--csv"]


def test_reading_only_the_first_lines_is_no_error(mixed: str) -> None:
    command = csv_command(mixed, "SELECT k.key FROM manifest k, manifest")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b'"key"\n'
        process.stdout.close()
        assert process.stderr.read() == b""


def test_command_shows_hostile_text_written_out(tmp_path: Path) -> None:
    root = dataset(tmp_path, [clip(1, source_uri="a\x1b[2J[bold]\n\u202eb")])
    assert r"a\x1b[2J[bold]\n\u202eb" in run(root, "SELECT source_uri FROM manifest")[1]


def test_command_writes_csv_to_standard_output(mixed: str) -> None:
    command = csv_command(mixed, "SELECT key, quality FROM manifest ORDER BY key")
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "error"}
    )
    lines = done.stdout.splitlines()
    assert lines[0] == '"key","quality"' and len(lines) == 201 and not done.stderr


def test_command_writes_a_new_parquet_file(mixed: str, tmp_path: Path) -> None:
    path = tmp_path / "kept $(x).parquet"
    code, text = run(mixed, "SELECT key, [1, 2] AS list FROM manifest", "--parquet", str(path))
    assert code == 0 and "200 rows" in text and pq.read_table(path).column_names == ["key", "list"]
    code, text = run(mixed, "SELECT 1", "--parquet", str(path))
    assert code == 2 and "exists" in text and pq.read_table(path).num_rows == 200
    assert (
        run(mixed, "SELECT cast(language AS integer) FROM manifest", "--parquet", str(tmp_path / "b.parquet"))[0] == 2
    )
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("DROP VIEW manifest",), "a query is one SELECT statement"),
        (("SELECT x FROM manifest",), "SQL: Binder Error"),
        (("SELECT * FROM read_text('/etc/hosts')",), "file system operations are disabled by configuration"),
        (("SELECT 1", "--csv", "--parquet", "x.parquet"), "choose one"),
        (("SELECT [1] AS list", "--csv"), "cannot be CSV"),
    ],
)
def test_command_says_what_is_wrong(mixed: str, arguments: tuple[str, ...], words: str) -> None:
    code, text = run(mixed, *arguments)
    assert code == 2 and words in text


def test_the_front_has_the_commands_and_starts_without_the_heavy_imports() -> None:
    script = (
        "import sys\nfrom lipforge.__main__ import app\n"
        "names = {command.name or command.callback.__name__ for group in app.registered_groups "
        "for command in group.typer_instance.registered_commands}\n"
        "assert {'languages', 'select', 'query'} <= names, names\n"
        "assert not {'torch', 'ray', 'pyarrow', 'duckdb', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
