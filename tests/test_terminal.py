"""Commands at a real terminal: no background process reads from it, and no text is cut at its edge."""

import os
import pty
import re
import sys
import time

import pytest

from tests.manifests import clip, dataset

TIMEOUT_S = 240


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="job control of a pseudo-terminal")


def run_at_terminal(*command: str) -> tuple[int, str]:
    """(exit code, output without colours) of a Python command in a terminal of 80 columns."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["COLUMNS"] = "80"
        os.execvp(sys.executable, [sys.executable, *command])
    shown = b""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other end is closed: the command has ended
            break
        shown += piece
    else:
        os.kill(child, 9)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))


def test_prepare_on_ray_finishes_at_a_terminal(talking_clip, tmp_path):
    code, text = run_at_terminal(
        "-m", "pipeline", "prepare", str(talking_clip), "--out", str(tmp_path / "out"), "--workers", "1"
    )
    assert code == 0, text[-2000:]
    assert "1 source found, 1 to probe" in text and "1 worker started" in text and "kept" in text and "report:" in text
    assert "INFO" not in text and "logging.cc" not in text


def test_a_query_is_a_table_where_that_fits_and_a_list_where_it_does_not(tmp_path):
    root = dataset(tmp_path, [clip(1), clip(2)])
    code, text = run_at_terminal("-m", "datasets_manifest", "query", root, "SELECT key, quality FROM manifest")
    assert code == 0 and [line.split() for line in text.splitlines()][:2] == [["key", "quality"], [f"{1:032x}", "60"]]
    code, text = run_at_terminal("-m", "datasets_manifest", "query", root, "SELECT key, shard, key FROM manifest")
    assert code == 0 and text.splitlines()[:2] == ["--- row 1", f"key: {1:032x}"]
    assert f"key: {2:032x}" in text.splitlines()
