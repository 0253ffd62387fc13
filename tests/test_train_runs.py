"""Runs of the trainers: they resume to the bit, ranks stay in step, and what goes wrong is said in words."""

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lipforge.train.loop import checkpoint
from tests.ranks import Ranks, run_ranks
from tests.train_runs import (
    coded_selection,
    largest_difference,
    losses,
    model_hash,
    model_tensors,
    settings,
)

pytest.importorskip("accelerate", reason="the package accelerate is not installed")


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return coded_selection(tmp_path_factory.mktemp("clips"))


@dataclass(frozen=True)
class KilledAfter:
    """Rank 0 dies as by `kill -9` when it has logged this step."""

    step: int

    def __call__(self, rank: int) -> None:
        from lipforge.train.loop.metrics import MetricsLog

        log = MetricsLog.log

        def log_and_die(self: MetricsLog, step: int, *values: object, **more: object) -> None:
            log(self, step, *values, **more)
            if step == self_step and rank == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        self_step = self.step
        MetricsLog.log = log_and_die


CASES = [(1, 0, 1), (1, 0, 4), (1, 2, 1), (1, 2, 4), (2, 0, 1), (2, 0, 4), (2, 2, 1), (2, 2, 4)]
FAST = {(1, 0, 4), (2, 2, 1)}


@pytest.mark.parametrize(
    ("ranks", "workers", "accumulation"),
    [case if case in FAST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_killed_run_goes_on_to_the_same_bits(
    selection: str, tmp_path: Path, ranks: int, workers: int, accumulation: int
):
    more = [f"num_workers={workers}", f"gradient_accumulation_steps={accumulation}", "ema.decay=0.9"]
    straight = settings(selection, tmp_path / "straight", *more)
    assert run_ranks("stage1", straight, tmp_path, ranks).exit_codes == [0] * ranks
    killed = settings(selection, tmp_path / "killed", *more)
    ended = run_ranks("stage1", killed, tmp_path, ranks, before=KilledAfter(3))
    assert ended.exit_codes[0] == -signal.SIGKILL
    assert None not in ended.exit_codes
    again = run_ranks("stage1", killed, tmp_path, ranks)
    assert again.exit_codes == [0] * ranks, again.words
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")
    assert model_hash(tmp_path / "killed") == model_hash(tmp_path / "straight")


def test_two_ranks_accumulation_and_one_large_batch_train_alike(selection: str, tmp_path: Path):
    smooth = "optimizer.eps=0.001"  # AdamW takes the sign of gradients that are 0 but for rounding
    runs = {"batch": (1, "batch_size=2"), "ranks": (2,), "accumulated": (1, "gradient_accumulation_steps=2")}
    for name, (ranks, *more) in runs.items():
        ended = run_ranks("stage1", settings(selection, tmp_path / name, smooth, *more), tmp_path, ranks)
        assert ended.exit_codes == [0] * ranks, ended.words
    whole = model_tensors(tmp_path / "batch")
    for name in ("ranks", "accumulated"):
        assert largest_difference(model_tensors(tmp_path / name), whole) < 1e-5
        for step, values in losses(tmp_path / name).items():
            assert values == pytest.approx(losses(tmp_path / "batch")[step], abs=1e-5)


def test_another_number_of_ranks_goes_on_with_the_right_samples(selection: str, tmp_path: Path):
    straight = settings(selection, tmp_path / "straight", "batch_size=2")
    assert run_ranks("stage1", straight, tmp_path).exit_codes == [0]
    moved = tmp_path / "moved"
    first = run_ranks("stage1", settings(selection, moved, "num_steps=2"), tmp_path, 2)
    assert first.exit_codes == [0, 0], first.words
    assert run_ranks("stage1", settings(selection, moved, "batch_size=2"), tmp_path).exit_codes == [0]
    for step, values in losses(moved).items():
        assert values == pytest.approx(losses(tmp_path / "straight")[step], abs=1e-5)


def test_sigterm_saves_and_the_same_command_goes_on(selection: str, tmp_path: Path):
    straight = settings(selection, tmp_path / "straight", "save_every=100")
    assert run_ranks("stage1", straight, tmp_path, 2).exit_codes == [0, 0]
    stopped = settings(selection, tmp_path / "stopped", "save_every=100", "num_workers=1")
    run = Ranks("stage1", stopped, tmp_path, 2, before=TermAfter(3))
    ended = run.wait()
    assert ended.exit_codes == [128 + signal.SIGTERM] * 2, ended.words
    assert "stopped by signal 15 after step 3, saved" in ended.words
    assert run_ranks("stage1", stopped, tmp_path, 2).exit_codes == [0, 0]
    assert model_hash(tmp_path / "stopped") == model_hash(tmp_path / "straight")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")


@dataclass(frozen=True)
class TermAfter:
    """Rank 1 gets SIGTERM after this step."""

    step: int

    def __call__(self, rank: int) -> None:
        from lipforge.train.loop.run import Run

        done = Run.step_done
        at = self.step

        def done_and_signalled(self: Run, grad_norm: float) -> None:
            done(self, grad_norm)
            if self.step == at and rank == 1:  # as a scheduler does, to all processes
                for process in (*psutil.Process().children(), psutil.Process()):
                    process.terminate()

        Run.step_done = done_and_signalled


def nan_on_rank_1(rank: int) -> None:
    """The loss of rank 1 is not a number in its third step."""
    from lipforge.train.loop.run import Run

    loss = Run.loss

    def poisoned(self: Run, losses: dict, *rest: object) -> object:
        if rank == 1 and self.step == 2:
            losses = {name: values * float("nan") for name, values in losses.items()}
        return loss(self, losses, *rest)

    Run.loss = poisoned


def overflow_on_rank_1(rank: int) -> None:
    """The loss of rank 1 is finite in its third step, and its gradient is not."""
    from lipforge.train.loop.run import Run

    loss = Run.loss

    def steep(self: Run, *rest: object) -> object:
        found = loss(self, *rest)
        return found * float("inf") if rank == 1 and self.step == 2 else found

    Run.loss = steep


def full_disk(rank: int) -> None:
    """No space for the second checkpoint."""
    from lipforge.train.loop import checkpoint

    write = checkpoint.write_tensors

    def write_or_fail(path: Path, *rest: object) -> int:
        if "00000004" in str(path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, *rest)

    checkpoint.write_tensors = write_or_fail


def out_of_memory_on_rank_1(rank: int) -> None:
    """As CUDA says it, in the second step."""
    import torch

    from lipforge.train.loop.run import Run

    loss = Run.loss

    def allocate(self: Run, *rest: object) -> object:
        if rank == 1 and self.step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(self, *rest)

    Run.loss = allocate


def test_out_of_memory_names_what_helps_and_leaves_no_rank_hanging(selection: str, tmp_path: Path):
    ended = run_ranks("stage1", settings(selection, tmp_path / "run"), tmp_path, 2, before=out_of_memory_on_rank_1)
    assert ended.exit_codes == [1, 1], ended.words
    assert "rank 1: out of GPU memory" in ended.words
    assert "gradient_checkpointing=true" in ended.words
    assert "another rank ended" in ended.words
    assert "Traceback" not in ended.words


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (nan_on_rank_1, "step 3: the loss is not finite for "),
        (overflow_on_rank_1, "step 3: the gradient is not finite"),
        (full_disk, "cannot save step 4"),
    ],
)
def test_fault_on_one_rank_stops_all_in_words(selection: str, tmp_path: Path, fault: object, words: str):
    run_dir = tmp_path / "run"
    ended = run_ranks("stage1", settings(selection, run_dir), tmp_path, 2, before=fault)
    assert ended.exit_codes == [1, 1], ended.words
    assert ended.words.count(words) == 1
    assert "Traceback" not in ended.words
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["step-00000002"]
    again = run_ranks("stage1", settings(selection, run_dir), tmp_path, 2)
    assert again.exit_codes == [0, 0], again.words
    assert list(losses(run_dir)) == [1, 2, 3, 4]


def test_second_process_in_a_folder_is_refused(selection: str, tmp_path: Path):
    run_dir = tmp_path / "run"
    first = Ranks("stage1", settings(selection, run_dir, "num_steps=1000"), tmp_path)
    deadline = time.monotonic() + 60
    while not (run_dir / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    second = run_ranks("stage1", settings(selection, run_dir), tmp_path / "second")
    first.signal(signal.SIGKILL)
    first.wait()
    assert second.exit_codes == [2]
    assert "another process trains in" in second.words


def test_newest_and_best_checkpoints_are_kept(tmp_path: Path):
    for step in (1, 2, 3, 4, 5):
        folder = checkpoint.folder_of(tmp_path, step)
        folder.mkdir(parents=True)
    (tmp_path / "checkpoints" / ".tmp-step-00000006").mkdir()
    checkpoint.rotate(tmp_path, keep_last=2, keep_best=1, ranking=[9, 2, 3, 1])
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-00000002", "step-00000004", "step-00000005"]


def test_a_finished_run_says_so_and_goes_on_with_more_steps(selection: str, tmp_path: Path):
    run_dir = tmp_path / "run"
    for _ in range(2):
        ended = run_ranks("stage1", settings(selection, run_dir, "num_steps=1"), tmp_path)
        assert ended.exit_codes == [0], ended.words
    assert "all steps are made: raise num_steps" in ended.words
    assert run_ranks("stage1", settings(selection, run_dir, "num_steps=2"), tmp_path).exit_codes == [0]
    assert list(losses(run_dir)) == [1, 2]


def test_model_that_an_interrupted_save_left_behind_is_brought_up_to_date(selection: str, tmp_path: Path):
    run_dir = tmp_path / "run"
    command = settings(selection, run_dir, "num_steps=2", "save_every=1", "ema.decay=0.5")
    assert run_ranks("stage1", command, tmp_path).exit_codes == [0]
    expected = model_hash(run_dir)
    (run_dir / "model" / "unet.safetensors").write_bytes(b"half")
    assert run_ranks("stage1", command, tmp_path).exit_codes == [0]
    assert model_hash(run_dir) == expected


def test_a_copy_of_a_checkpoint_is_not_taken_for_one(tmp_path: Path):
    for name in ("step-00000002", "step-00000002.bak", "step-3", ".tmp-step-00000004"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-00000002"]


def nothing_on_rank_1(rank: int) -> None:
    """Rank 1 does not see the selection, as on a machine without the shared folder."""
    from lipforge.train.loop import data

    read = data.read_selection
    data.read_selection = lambda place, *split: read("nowhere.parquet" if rank == 1 else place, *split)


def test_fault_of_one_rank_while_opening_is_said(selection: str, tmp_path: Path):
    ended = run_ranks("stage1", settings(selection, tmp_path / "run"), tmp_path, 2, before=nothing_on_rank_1)
    assert ended.exit_codes == [1, 1], ended.words
    assert "nowhere.parquet" in ended.words
    assert "Traceback" not in ended.words
