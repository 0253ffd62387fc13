"""A run: what the trainers share around their loops. Opening it, the bookkeeping of each step, saving, resuming.

The loops are in the trainers' files; networks and losses are in `model/`.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipforge.datasets_manifest.storage.trouble import UnreadableError
from lipforge.model.trained import CONFIG_NAME, step_of_model, weights_name
from lipforge.train.config import DiffusionConfig, TrainerConfig
from lipforge.train.features.index import FeatureError
from lipforge.train.loop import best, checkpoint, run_folder, tensors
from lipforge.train.loop.best import Candidate
from lipforge.train.loop.checkpoint import Generated, Progress
from lipforge.train.loop.ema import Ema
from lipforge.train.loop.films import Film
from lipforge.train.loop.metrics import MetricsLog
from lipforge.train.loop.optimizer import learning_rate, make_optimizer, set_learning_rate
from lipforge.train.loop.randomness import seed_layers
from lipforge.train.loop.together import Together, TrainingError
from lipforge.train.stream.batches import Batch
from lipforge.train.stream.decode import DamagedSampleError
from lipforge.train.stream.stream import SampleStream

log = logging.getLogger(__name__)

DATA_ERRORS = (DamagedSampleError, FeatureError, FileNotFoundError, UnreadableError, ValueError)
"""What a stream raises when data or storage are at fault."""
OPENING_ERRORS = (*DATA_ERRORS, OSError)
"""What opening a run raises for wrong settings, files and folders (ModelFileError is a ValueError)."""


class Stopped(TrainingError):
    """A signal asked the run to save and exit; it did. The same command goes on."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by signal {number} after step {step}, saved: the same command goes on from there")
        self.exit_code = 128 + number


@dataclass(frozen=True)
class Trained:
    """What a run trains, and how RUN/model describes it."""

    kind: str
    """`unet` or `syncnet`."""
    network: nn.Module
    about: dict[str, Any]
    """config.json of RUN/model, without the step: layout, autoencoder, audio encoder."""
    models: dict[str, str]
    """sha256 of each frozen model, by name."""
    publish: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    """From the network's own tensors to the published ones: merges adapters."""


@dataclass
class _Totals:
    """Sums of losses over all ranks since the last line of the log."""

    sums: dict[str, float] = field(default_factory=dict)
    samples: float = 0.0


class Run:
    """One process of a run. All methods are collective: all ranks call them at the same place.

    network, optimizer: as accelerate prepared them. step: optimizer steps made.
    """

    def __init__(self, config: TrainerConfig, together: Together, trained: Trained, stream: SampleStream) -> None:
        """Resumes from the newest checkpoint. Raises ValueError when that does not fit the settings."""
        self.config, self.together, self.stream = config, together, stream
        self.accelerator = accelerator = together.accelerator
        self._trained = trained
        self._newest = self._find_checkpoint()
        progress = Progress(0, stream.state_dict())
        saved = checkpoint.Tensors({}, {}, {})
        if self._newest is not None:
            progress, saved = checkpoint.load_progress(self._newest), checkpoint.load_tensors(self._newest)
            try:
                stream.load_state_dict(progress.stream)
            except ValueError as error:
                raise ValueError(
                    f"{config.run_dir} was not begun with {config.selection}: {error}. Set the selection and the "
                    "seed that it was begun with, or take another run_dir"
                ) from error
            _load_network(trained.network, saved.network, str(self._newest))
        self.step = progress.step
        self.validation_losses = dict(progress.validation_losses)
        self.generated = list(progress.generated)
        """Validations by generated video that can be compared with each other, oldest first."""
        optimizer = make_optimizer(config.optimizer, tensors.trainable(trained.network).values())
        prepared: tuple[Any, Any] = accelerator.prepare(trained.network, optimizer)
        self.network, self.optimizer = prepared
        self.parameters = tensors.trainable(tensors.plain_network(accelerator, self.network))
        self.ema = Ema(config.ema, self.parameters)
        tensors.load_optimizer(accelerator, self.optimizer, self.parameters, saved.optimizer)
        if self._newest is not None:
            for name, average in self.ema.averages.items():
                average.copy_(tensors.share_of(saved.ema[name], average))
            if accelerator.scaler is not None and progress.scaler:
                accelerator.scaler.load_state_dict(progress.scaler)
        self._totals = _Totals(**progress.unlogged)
        self._step_sums: dict[str, Tensor] = {}
        self._waited_s = self._started_s = 0.0
        together.do(lambda: self._write_papers(saved), OSError)
        if self._newest is not None and accelerator.is_main_process:
            ended = self.ends_early
            then = "all steps are made: raise num_steps to train on" if self.is_done else "goes on from there"
            then = then if ended is None else f"the run ended there: {ended}"
            log.info("%s", f"{self._newest.name} of {config.num_steps} steps: {then}")
        self.metrics = together.do(
            lambda: MetricsLog(config.run_dir, config.num_steps, accelerator.is_main_process, self.step), OSError
        )

    def _write_papers(self, saved: checkpoint.Tensors) -> None:
        """Settings and hashes, once they are known to fit; RUN/model, if a save was interrupted before that."""
        if not self.accelerator.is_main_process:
            return
        config = self.config
        run_folder.write_config(config.run_dir, config)
        about = {"selection": self.stream.fingerprint, "processes": self.accelerator.num_processes}
        run_folder.write_facts(config.run_dir, self._trained.models, about)
        if self._newest is not None and step_of_model(self._model_file(run_folder.MODEL)) != self.step:
            self._write_model(run_folder.MODEL, self.step, {**saved.network, **saved.ema})
        self._write_best(best.ranked(self._candidates()), {**saved.network, **saved.ema})

    def _model_file(self, place: str) -> Path:
        """place: a folder of the run."""
        return self.config.run_dir / place / weights_name(self._trained.kind)

    def _find_checkpoint(self) -> Path | None:
        found = checkpoint.checkpoints(self.config.run_dir)
        if found and self.config.resume == "never":
            raise ValueError(
                f"{self.config.run_dir} has checkpoints up to step {checkpoint.step_of(found[-1])}, and resume=never: "
                "leave resume at auto to go on, or take another run_dir"
            )
        return found[-1] if found else None

    @property
    def is_done(self) -> bool:
        return self.step >= self.config.num_steps or self.ends_early is not None

    @property
    def ends_early(self) -> str | None:
        """Why the run ends before all its steps are made, in words."""
        config = self.config
        if not isinstance(config, DiffusionConfig) or not self.generated or self.generated[-1].step != self.step:
            return None
        if config.on_forgetting == "stop" and self.generated[-1].has_forgotten:
            return (
                f"the base clips lost more than max_forgetting={best.percent(config.max_forgetting)}. "
                f"Take {run_folder.BEST} where there is one. Else: a lower learning rate, or base clips among those to "
                "train on; on_forgetting=warn goes on"
            )
        return best.stops_early(self._candidates(), config.early_stopping)

    def _candidates(self) -> list[Candidate]:
        """Validations of this run. The one before the first step is of weights that were there before."""
        generated = {found.step: found for found in self.generated if found.step}
        steps = sorted(self.validation_losses.keys() | generated.keys())
        return [_candidate(step, self.validation_losses.get(step), generated.get(step)) for step in steps]

    def batches(self) -> Iterator[Batch]:
        """Batches of the steps that are left, the same number on all ranks.

        Between steps, a signal to stop saves and raises Stopped. Raises TrainingError on all ranks when one has a
        damaged sample or failing storage.
        """
        source = iter(self.stream)
        self._started_s = time.perf_counter()
        while not self.is_done:
            number = self.together.stop_requested()
            if number is not None:
                self.save()
                self.together.is_ending = True
                raise Stopped(number, self.step)
            rate = learning_rate(self.config.optimizer, self.step + 1, self.config.num_steps)
            set_learning_rate(self.optimizer, rate)
            for _ in range(self.config.gradient_accumulation_steps):
                asked_s = time.perf_counter()
                batch = self.together.do(lambda: _next(source), *DATA_ERRORS, TrainingError)
                self._waited_s += time.perf_counter() - asked_s
                seed_layers(self.config.seed, int(batch["position"][0]), self.accelerator.process_index)
                yield batch

    def loss(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], valid: Tensor, keys: list[str]
    ) -> Tensor:
        """The scalar to go backward from: the weighted sum of per-sample losses [B], averaged over the batch.

        Samples that only fill the batch count as 0, so the gradient does not depend on how samples are dealt out.
        Raises TrainingError on all ranks, with step and keys, when a loss is not finite.
        """
        total, finite = torch.zeros_like(valid), torch.ones_like(valid, dtype=torch.bool)
        for name, values in losses.items():
            kept = torch.where(valid > 0, values.float(), 0.0)
            total = total + weights[name] * kept
            finite &= values.detach().isfinite()  # also of what does not count: its gradient would not be 0
            self._add(name, kept)
        self._add("loss", total)
        self._add(_SAMPLES, valid)
        bad = [key for key, good in zip(keys, finite.tolist(), strict=True) if not good]
        values = ", ".join(f"{name} {values.detach().tolist()}" for name, values in losses.items()) if bad else ""
        self.together.agree(
            f"step {self.step + 1}: the loss is not finite for {', '.join(bad)} ({values}). Nothing of this step was "
            f"kept. {_DIVERGED}; or look at these clips (`lipforge explain`)"
            if bad
            else ""
        )
        return total.sum() / len(valid)

    def _add(self, name: str, values: Tensor) -> None:
        summed = values.detach().double().sum()
        self._step_sums[name] = self._step_sums.get(name, torch.zeros_like(summed)) + summed

    def clip_gradients(self) -> float:
        """Scale gradients down to the largest norm allowed; returns the norm they had, 0 while they accumulate.

        Raises TrainingError on all ranks when the norm is not finite: a step would ruin the weights. The scaler of fp16
        leaves such steps out by itself.
        """
        if not self.accelerator.sync_gradients:
            return 0.0
        norm = self.accelerator.clip_grad_norm_(self.parameters.values(), self.config.optimizer.max_grad_norm)
        value = float(tensors.whole(norm)) if isinstance(norm, Tensor) else float(norm or 0.0)
        if self.accelerator.scaler is None:
            words = f"step {self.step + 1}: the gradient is not finite. Nothing of this step was kept. {_DIVERGED}"
            self.together.agree("" if math.isfinite(value) else words)
        return value

    def step_done(self, grad_norm: float) -> None:
        """After an optimizer step: count it, update the averages, write the log when it is due."""
        self.step += 1
        self.ema.update(self.step)
        names = list(self._step_sums)
        sums = self.together.total(torch.stack([self._step_sums[name] for name in names])).tolist()
        self._step_sums.clear()
        for name, value in zip(names, sums, strict=True):
            if name == _SAMPLES:
                self._totals.samples += value
            else:
                self._totals.sums[name] = self._totals.sums.get(name, 0.0) + value
        if self.is_due(self.config.log_every):
            now_s = time.perf_counter()
            count = max(1.0, self._totals.samples)
            self.metrics.log(
                self.step,
                {name: value / count for name, value in self._totals.sums.items()},
                learning_rate=learning_rate(self.config.optimizer, self.step, self.config.num_steps),
                grad_norm=grad_norm,
                samples=int(self._totals.samples),
                data_wait_s=self._waited_s,
                seconds=now_s - self._started_s,
            )
            self._totals = _Totals()
            self._waited_s, self._started_s = 0.0, now_s

    def is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.is_done

    def validated(self, losses: dict[str, float], num_samples: int, drawn: list[Mapping[str, Tensor]]) -> None:
        """Keep and log what a validation found. drawn: frames by label, [T, 3, R, R] in -1..1, a mapping a sample."""
        self.validation_losses[self.step] = losses["loss"]
        self.metrics.log_validation(self.step, losses, num_samples)
        if drawn:
            self.metrics.picture(self.step, drawn)

    def was_generated(self, found: Generated, values: dict[str, float], films: Mapping[str, Film]) -> None:
        """Keep and log what a validation by generated video found. films: by clip."""
        self.generated.append(found)
        ended = self.ends_early
        self.metrics.log_generated(self.step, values, found, ended)
        self.metrics.films(self.step, films)
        if ended is not None and self.accelerator.is_main_process:
            log.info("%s", f"the run ends at step {self.step}: {ended}")

    def save(self) -> None:
        """Write a checkpoint and RUN/model, and RUN/best/model when another one is best.

        Raises TrainingError on all ranks when that fails.
        """
        config, accelerator = self.config, self.accelerator
        if self._newest == checkpoint.folder_of(config.run_dir, self.step):
            return  # a signal came right after a save
        network = tensors.whole_network(accelerator, self.network)
        optimizer = tensors.whole_optimizer(accelerator, self.optimizer, self.parameters)
        ema = tensors.whole_tensors(accelerator, self.ema.averages)
        scaler = {} if accelerator.scaler is None else accelerator.scaler.state_dict()
        unlogged = {"sums": self._totals.sums, "samples": self._totals.samples}
        progress = Progress(
            self.step, self.stream.state_dict(), scaler, self.validation_losses, unlogged, self.generated
        )
        ranking = best.ranked(self._candidates())

        def write() -> None:
            if not accelerator.is_main_process:
                return
            try:
                checkpoint.save(config.run_dir, progress, checkpoint.Tensors(network, optimizer, ema))
                self._write_model(run_folder.MODEL, self.step, {**network, **ema})
                checkpoint.rotate(config.run_dir, config.keep_last, config.keep_best, ranking)
                self._write_best(ranking, {**network, **ema})
            except OSError as error:
                newest = next(reversed(checkpoint.checkpoints(config.run_dir)), None)
                kept = (
                    f"the checkpoint of step {checkpoint.step_of(newest)} is whole" if newest else "none is there yet"
                )
                why = os.strerror(error.errno) if error.errno else str(error)
                raise TrainingError(
                    f"cannot save step {self.step} in {config.run_dir}: {why}; {kept}. Make room (or keep_last=1) and "
                    "run the same command again"
                ) from error

        with self.not_training():
            self.together.do(write, TrainingError)
        self._newest = checkpoint.folder_of(config.run_dir, self.step)

    @contextmanager
    def not_training(self) -> Iterator[None]:
        """What the block takes is no part of the training speed."""
        started_s = time.perf_counter()
        yield
        self._started_s += time.perf_counter() - started_s

    def _write_best(self, ranking: Sequence[int], now: Mapping[str, Tensor]) -> None:
        """RUN/best/model: the best of the checkpoints that are kept. now: the network's tensors of this step."""
        kept = {checkpoint.step_of(folder): folder for folder in checkpoint.checkpoints(self.config.run_dir)}
        step = next((step for step in ranking if step in kept), None)
        if step is None or step_of_model(self._model_file(run_folder.BEST)) == step:
            return
        try:
            self._write_model(run_folder.BEST, step, now if step == self.step else checkpoint.load_weights(kept[step]))
        except ValueError as error:
            log.warning("%s", f"{self.config.run_dir / run_folder.BEST} is not brought up to date: {error}")

    def _write_model(self, place: str, step: int, network: Mapping[str, Tensor]) -> None:
        folder = self.config.run_dir / place
        about = {"kind": self._trained.kind, **self._trained.about, "models": self._trained.models}
        run_folder.write_whole(folder / CONFIG_NAME, (json.dumps(about, indent=2) + "\n").encode())
        path = self._model_file(place)
        temporary = folder / f".tmp-{path.name}"
        checkpoint.write_tensors(temporary, self._trained.publish(network), {"global_step": str(step)})
        os.replace(temporary, path)


def _candidate(step: int, loss: float | None, found: Generated | None) -> Candidate:
    if found is None:
        return Candidate(step, loss)
    return Candidate(step, loss, found.mean_sync, found.picture, found.has_forgotten)


_SAMPLES = "samples"
_DIVERGED = "Go on from the newest checkpoint with a lower learning rate, or bf16 in the place of fp16"


def _next(source: Iterator[Batch]) -> Batch:
    try:
        return next(source)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            "a process that reads data was killed, probably for memory: set num_workers lower. The same command goes "
            "on after the newest checkpoint"
        ) from error


def _load_network(network: nn.Module, saved: Mapping[str, Tensor], place: str) -> None:
    own = network.state_dict()
    different = [name for name in own if name not in saved or saved[name].shape != own[name].shape]
    different += [name for name in saved if name not in own]
    if different:
        raise ValueError(
            f"checkpoint {place} is of another network ({len(different)} tensors differ, such as {different[0]}): set "
            "the layout as it was, or take another run_dir"
        )
    network.load_state_dict(dict(saved), strict=True)
