"""Prepare at a real terminal, on Ray: nobody in the background may want to read from it."""

import os
import pty
import re
import sys
import time

import pytest

TIMEOUT_S = 240


@pytest.mark.skipif(sys.platform != "linux", reason="job control of a pseudo-terminal")
def test_prepare_on_ray_finishes_at_a_terminal(talking_clip, tmp_path):
    command = [sys.executable, "-m", "pipeline", "prepare", str(talking_clip), "--out", str(tmp_path / "out")]
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], [*command, "--workers", "1"])
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
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))
    assert os.waitstatus_to_exitcode(status) == 0, text[-2000:]
    assert "1 units of work" in text and "kept" in text and "report:" in text
    assert "INFO" not in text and "logging.cc" not in text
