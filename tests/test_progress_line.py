"""The line that shows how far a command is, where nobody watches a terminal."""

import io

from rich.console import Console

from lipforge.pipeline.running import progress_line
from lipforge.pipeline.running.progress_line import ProgressLine


def test_a_log_gets_a_line_now_and_then_and_no_bar(monkeypatch):
    out = io.StringIO()
    with ProgressLine(Console(file=out)) as line:
        line.show("a.mp4", 1, 4, "1 of 4", 90.0)  # too early to say anything
        monkeypatch.setattr(progress_line, "SAY_EVERY_S", -1.0)
        line.show("[b].mp4", 2, 4, "2 of 4", 60.0)
        line.show("c.mp4", 3, 4, "3 of 4", None)
    assert out.getvalue() == "[b].mp4: 2 of 4, 60.0 s left\nc.mp4: 3 of 4\n"
