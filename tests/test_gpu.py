"""Which workers a cluster with GPUs gets, and that scorers there give the scores of the CPU."""

import io
import re
from typing import Any

import numpy as np
import pytest
import torch

from lipforge.model.faces.insight import providers_for
from lipforge.model.quality.hyperiqa import HyperIQA, HyperIQAQuality
from lipforge.model.sync.syncnet_v2 import SyncNetScorer, SyncNetV2
from lipforge.pipeline.config import PrepareConfig, RunConfig
from lipforge.pipeline.recipe import device_for
from lipforge.pipeline.running.executors import require_gpu_here
from lipforge.pipeline.running.on_ray import crew_sizes


def sizes(cluster: dict[str, float], **run: Any) -> tuple[int, int]:
    return crew_sizes(RunConfig.model_validate(run), cluster)


def test_workers_fill_the_cluster() -> None:
    assert sizes({"CPU": 16})[0] == 16  # each does both
    assert sizes({"CPU": 0.5})[0] == 1
    assert sizes({"CPU": 16}, workers=3)[0] == 3
    assert sizes({"CPU": 64, "GPU": 2}, score={"gpus": 0.25}) == (82, 8)  # 64 CPUs less 8 x 0.25, 0.75 each
    assert sizes({"CPU": 64, "GPU": 2}, score={"gpus": 0.25}, score_workers=2, workers=5) == (5, 2)
    assert sizes({"CPU": 64, "GPU": 2}, cut={"gpus": 0.1}, score={"gpus": 0.1}) == (10, 10)
    assert sizes({"CPU": 4, "GPU": 2}, cut={"gpus": 0.1}, score={"gpus": 0.1}) == (4, 4)  # the CPUs are fewer
    assert sizes({"CPU": 8}, score_workers=4) == (9, 4)


def test_a_worker_computes_on_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    run = PrepareConfig.model_validate({"run": {"score": {"gpus": 0.5}}}).run
    assert device_for(run.cut) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (device_for(run.cut), device_for(run.score)) == ("cpu", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for(run.score) == "cpu"


def test_onnx_runtime_uses_the_gpu_where_its_package_can() -> None:
    both = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers_for("cuda", both) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers_for("cuda", ["CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    assert providers_for("cpu", both) == ["CPUExecutionProvider"]


@pytest.mark.parametrize("gpus", [1.5, 0.00001])
def test_numbers_of_gpus_that_no_worker_can_have_are_refused_at_once(gpus: float) -> None:
    words = f"{gpus:g} GPUs for a worker: take a share such as 0.25, or a whole number"
    with pytest.raises(ValueError, match=re.escape(words)):
        PrepareConfig.model_validate({"run": {"score": {"gpus": gpus}}})
    with pytest.raises(ValueError, match=re.escape(words)):
        require_gpu_here(gpus)


def content(network: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.getvalue()


@pytest.mark.gpu
def test_scores_of_a_gpu_are_those_of_the_cpu() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 256, 256, 3), np.uint8)
    audio = rng.uniform(-0.5, 0.5, 42 * 640).astype(np.float32)
    sync, quality = content(SyncNetV2()), content(HyperIQA())
    here, there = (SyncNetScorer(sync, device).score(frames, audio) for device in ("cpu", "cuda"))
    assert here.offset_frames == there.offset_frames
    assert there.distance == pytest.approx(here.distance, rel=1e-3)
    scores = [HyperIQAQuality(quality, device).score(frames) for device in ("cpu", "cuda")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
