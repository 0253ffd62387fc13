"""Workers compute on one thread, whatever the machine has or says: more threads give other last digits."""

from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.weights import load as weights
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.recipe import CutOperator, ScoreOperator


@pytest.mark.parametrize("operator", ["cut", "score"])
def test_a_worker_keeps_numpy_to_one_thread(operator: str, tmp_path: Path) -> None:
    with threadpool_limits(limits=3, user_api="blas"):
        models = weights.load("builtin")
        if operator == "cut":
            CutOperator(PrepareConfig(), models)
        else:
            ScoreOperator(PrepareConfig(), models, Store(str(tmp_path)), {})
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
