"""SyncNet: do these frames of a mouth match this sound? Each sample is compared with its own sound and with another.

    accelerate launch -m train.syncnet --config syncnet_16_pixel_attn --set selection=zh20.parquet run_dir=runs/sync

Method: LatentSync (Li et al. 2024, arXiv 2412.09262; ByteDance, Apache-2.0). It draws one of the two sounds for each
sample; both together have the same mean gradient with less noise, and the frames are looked at once.
"""

import logging
from collections import deque

from accelerate.utils import gather_object
from torch import Tensor

from lipforge.model.denoiser.losses import sync_loss
from lipforge.pipeline.running.quiet import off_terminal
from lipforge.train.config import SyncNetConfig
from lipforge.train.stream.batches import Batch
from lipforge.train.syncnet_accuracy import PLATEAU_SAMPLES, plateau

with off_terminal(2):  # diffusers imports packages that warn about each other
    from lipforge.train.loop.pairs import Pairs, cosines_of, labels_of, open_syncnet, report_of
    from lipforge.train.loop.program import program
    from lipforge.train.loop.run import OPENING_ERRORS, Run
    from lipforge.train.loop.together import Together
    from lipforge.train.loop.validate import Validated, validate

log = logging.getLogger(__name__)


def train(config: SyncNetConfig, together: Together) -> None:
    """Train until `num_steps`. Raises what opening raises, and TrainingError."""
    accelerator = together.accelerator
    trained, data, maker = together.do(lambda: open_syncnet(config, together), *OPENING_ERRORS)
    run = Run(config, together, trained, data.train)
    weights = {"sync": 1.0}
    held_out = labels_of(config.selection, "val")
    heard: list[tuple[str, float, float]] = []  # of a validation: key, cosines of the right sound and of the wrong one
    recent: deque[float] = deque(maxlen=PLATEAU_SAMPLES)  # losses of this rank's batches

    def losses_of(pairs: Pairs) -> tuple[dict[str, Tensor], Tensor]:
        with together.autocast():
            vision, audio = run.network(pairs.frames, pairs.mel)
        losses = sync_loss(vision.repeat(2, 1), audio, pairs.labels).unflatten(0, (2, -1)).mean(0)
        return {"sync": losses}, cosines_of(vision, audio)

    def look(batch: Batch, _shares: Tensor, _draws: bool) -> Validated:
        pairs = maker.make(batch, "val")
        losses, cosines = losses_of(pairs)
        counts = batch["valid"] & (batch["position"] < config.num_validation_samples)
        rows = zip(pairs.keys, *cosines.tolist(), counts.tolist(), strict=True)
        heard.extend((key, right, wrong) for key, right, wrong, counted in rows if counted)
        return Validated(losses, pairs.valid)

    def conclude() -> dict[str, float]:
        found = gather_object(list(heard))
        heard.clear()
        if not found:
            return {}
        report = report_of(found, held_out)
        if accelerator.is_main_process:
            log.info("%s", f"held-out speakers: {report.words()}")
        return report.values()

    for batch in run.batches():
        with accelerator.accumulate(run.network):
            pairs = maker.make(batch)
            losses, _ = losses_of(pairs)
            loss = run.loss(losses, weights, pairs.valid, pairs.keys)
            accelerator.backward(loss)
            grad_norm = run.clip_gradients()
            run.optimizer.step()
            run.optimizer.zero_grad()
        recent.append(float(loss.detach()))
        if not accelerator.sync_gradients:
            continue  # still accumulating: not a step yet

        run.step_done(grad_norm)
        if run.is_due(config.validate_every):
            validate(run, data, weights, look, conclude)
            stuck = plateau(list(recent), config.batch_size)
            if stuck is not None and accelerator.is_main_process:
                log.warning("%s", stuck)
        if run.is_due(config.save_every):
            run.save()
    run.metrics.close()


if __name__ == "__main__":
    program(SyncNetConfig, train, __doc__)
