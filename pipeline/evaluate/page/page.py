"""The page of an evaluation: one self-contained HTML file, to look at and to listen to."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from lipforge.datasets_manifest.display import visible
from lipforge.datasets_manifest.language_tags import UNKNOWN
from lipforge.pipeline.evaluate.page import sections, verdicts
from lipforge.pipeline.evaluate.page.compare import Difference, compare
from lipforge.pipeline.evaluate.page.gallery import make_gallery
from lipforge.pipeline.evaluate.page.listing import listed
from lipforge.pipeline.evaluate.page.words import (
    counts_by_reason,
    headline,
    metric_named,
    shown,
    title_of,
    why_not_judged,
)
from lipforge.pipeline.evaluate.result import PAGE, Evaluation

_HERE = Path(__file__).parent


def write_page(
    folder: Path,
    found: Evaluation,
    rows: Sequence[dict[str, Any]],
    against: tuple[Evaluation, Sequence[dict[str, Any]]] | None = None,
) -> Path:
    """Write REPORT/report.html, whole or not at all, and return its path.

    folder: REPORT; videos of REPORT/media are built into the page. rows: of clips.parquet. against: another report and
    its rows.
    """
    path = folder / PAGE
    temporary = path.with_name(f".tmp-{path.name}")
    text = _render(folder, found, rows, against)
    temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    temporary.replace(path)
    return path


def _render(
    folder: Path,
    found: Evaluation,
    rows: Sequence[dict[str, Any]],
    against: tuple[Evaluation, Sequence[dict[str, Any]]] | None,
) -> str:
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    clips, num_listed = listed(rows)
    differences: list[Difference] = [] if against is None else compare(found, rows, *against, found.seed)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(visible=visible, shown=shown, title=lambda name: title_of(metric_named(name)))
    num_judged = sum(why_not_judged(row) is None for row in rows)
    return environment.get_template("page.html").render(
        found=found,
        other=None if against is None else against[0],
        summary=verdicts.summary(differences),
        how_compared=verdicts.how(differences),
        compared=verdicts.compared(differences),
        headline=headline(found, num_judged),
        num_judged=num_judged,
        languages=sorted({row["language"] for row in rows if row.get("language") not in (None, UNKNOWN)}),
        num_speakers=len({row["speaker"] for row in rows if row.get("speaker")}),
        key=sections.key_lines(found, rows),
        table=sections.table(found, rows),
        trials=sections.trials(found),
        offsets=sections.offsets(rows),
        distributions=sections.distributions(found, rows),
        breakdowns=sections.breakdowns(found),
        unmeasured=sections.unmeasured(rows),
        gaps=counts_by_reason(found.numbers),
        gallery=make_gallery(folder, rows),
        clips=clips,
        num_listed=num_listed,
        num_rows=len(rows),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
