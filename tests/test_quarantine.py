"""Units that kill or hang their worker are given up after a set number of attempts, with the line of the trace."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.config import RunConfig
from lipforge.pipeline.ledger.quarantine import DEATHS, GivenUp, Quarantine, store_traces

ATTEMPT = """
import ctypes, os, signal, sys, time
from lipforge.pipeline.config import RunConfig
from lipforge.pipeline.ledger.quarantine import DEATHS, Quarantine
from lipforge.datasets_manifest.storage.store import Store

folder, run_id, what, deaths = sys.argv[1:]
DEATHS.set(int(deaths))
config = RunConfig(max_attempts=2, max_kills=3, unit_timeout_s=0.5)
with Quarantine(Store(folder), config, run_id).attempt("unit", "cut"):
    if what == "crash":
        ctypes.string_at(0)
    elif what == "hang":
        time.sleep(60)
    elif what == "vanish":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _deaths_of_this_test() -> Iterator[None]:
    token = DEATHS.set(0)
    yield
    DEATHS.reset(token)


def attempt(folder: Path, run_id: str, what: str) -> subprocess.CompletedProcess:
    """Counts as whoever hands out work does."""
    command = [sys.executable, "-c", ATTEMPT, str(folder), run_id, what, str(DEATHS.get())]
    DEATHS.set(DEATHS.get() + 1)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("what", "attempts", "reason", "word"),
    [
        ("crash", 2, Reason.WORKER_CRASHED, "Segmentation fault"),
        ("hang", 2, Reason.TIMEOUT, "not done within 0.5 s"),
        ("vanish", 3, Reason.WORKER_CRASHED, "without a trace"),
    ],
)
def test_a_unit_is_given_up_after_its_attempts(tmp_path, what, attempts, reason, word):
    run_id = f"{tmp_path.name}-{what}"
    config = RunConfig(max_attempts=2, max_kills=3, unit_timeout_s=0.5)
    quarantine = Quarantine(Store(str(tmp_path)), config, run_id)
    for number in range(1, attempts + 1):
        assert attempt(tmp_path, run_id, what).returncode != 0, f"attempt {number} should have died"
    with pytest.raises(GivenUp) as given_up, quarantine.attempt("unit", "cut"):
        pytest.fail("a hopeless attempt was begun")
    assert given_up.value.reason is reason
    assert word in given_up.value.detail


def test_the_attempt_before_the_last_is_still_tried(tmp_path):
    run_id = f"{tmp_path.name}-once"
    attempt(tmp_path, run_id, "crash")
    assert attempt(tmp_path, run_id, "finish").returncode == 0


def test_attempts_of_other_runs_do_not_count(tmp_path):
    for number in range(2):
        attempt(tmp_path, f"{tmp_path.name}-{number}", "crash")
    quarantine = Quarantine(Store(str(tmp_path)), RunConfig(max_attempts=2), f"{tmp_path.name}-new")
    with quarantine.attempt("unit", "cut") as number:  # the traces are of others
        assert number == 3


def test_an_error_in_python_is_not_a_crash(tmp_path):
    quarantine = Quarantine(Store(str(tmp_path)), RunConfig(), tmp_path.name)
    with pytest.raises(ZeroDivisionError), quarantine.attempt("unit", "cut"):
        _ = 1 / 0


def test_a_crash_on_another_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine has a temporary folder of its own; what died there is stored before the next attempt."""
    run_id, store = f"{tmp_path.name}-nodes", Store(str(tmp_path / "dataset"))
    for node in ("one", "two"):
        (tmp_path / node).mkdir()
        monkeypatch.setenv("TMPDIR", str(tmp_path / node))
        assert attempt(tmp_path / "dataset", run_id, "crash").returncode != 0
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / node))
        store_traces(store, run_id)
    (tmp_path / "three").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "three"))
    quarantine = Quarantine(store, RunConfig(max_attempts=2, max_kills=9), run_id)
    with pytest.raises(GivenUp, match="Segmentation fault in 2 attempts"), quarantine.attempt("unit", "cut"):
        pytest.fail("a hopeless attempt was begun")
