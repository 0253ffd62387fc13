"""Stage 2: motion modules and attention learn from noise and from pixels: LPIPS, TREPA and SyncNet judge the estimate.

    accelerate launch -m train.stage2 --config stage2 --set selection=zh20.parquet run_dir=runs/zh20 init=runs/s1/model

Method and defaults: LatentSync (Li et al. 2024, arXiv 2412.09262; ByteDance, Apache-2.0).
"""

from torch import Tensor

from lipforge.model.denoiser.diffusion import NUM_TIMESTEPS, add_noise, clean_latents
from lipforge.model.denoiser.losses import min_snr_weights, noise_loss
from lipforge.pipeline.running.quiet import off_terminal
from lipforge.train.config import Stage2Config
from lipforge.train.stream.batches import Batch

with off_terminal(2):  # diffusers imports packages that warn about each other
    from lipforge.train.loop.generate import Generation
    from lipforge.train.loop.inputs import DiffusionInputs
    from lipforge.train.loop.judges import open_judges
    from lipforge.train.loop.opening import open_diffusion
    from lipforge.train.loop.program import program
    from lipforge.train.loop.run import OPENING_ERRORS, Run
    from lipforge.train.loop.together import Together
    from lipforge.train.loop.validate import Validated, validate


def train(config: Stage2Config, together: Together) -> None:
    """Train until `num_steps`. Raises what opening raises, and TrainingError."""
    accelerator = together.accelerator
    judges = together.do(lambda: open_judges(config, accelerator.device), *OPENING_ERRORS)
    trained, data, inputs = together.do(
        lambda: open_diffusion(config, together, judges.see_pixels, judges.sha256), *OPENING_ERRORS
    )
    run = Run(config, together, trained, data.train)
    generation = Generation(config, run, data, inputs)
    weights = config.losses.model_dump()

    def losses_of(made: DiffusionInputs) -> tuple[dict[str, Tensor], Tensor]:
        noisy = add_noise(made.latents, made.noise, made.timesteps)
        with together.autocast():
            prediction = run.network(made.network_input(noisy), made.timesteps, made.audio)
        losses = {"noise": noise_loss(prediction, made.noise, min_snr_weights(made.timesteps, config.min_snr_gamma))}
        estimate = clean_latents(noisy, prediction, made.timesteps)
        if judges.see_pixels:
            with together.autocast():
                pixels = inputs.vae.decode(estimate.transpose(1, 2), checkpoint=config.gradient_checkpointing)
                losses |= judges.losses(made, estimate, pixels)
        return losses, estimate

    def look(batch: Batch, shares: Tensor, draws: bool) -> Validated:
        made = inputs.make(batch, "val", (shares * NUM_TIMESTEPS).long())
        losses, estimate = losses_of(made)
        return Validated(losses, made.valid, inputs.pictures(made, estimate) if draws else None)

    for batch in run.batches():
        with accelerator.accumulate(run.network):
            made = inputs.make(batch)
            losses, _ = losses_of(made)
            accelerator.backward(run.loss(losses, weights, made.valid, made.keys))
            grad_norm = run.clip_gradients()
            run.optimizer.step()
            run.optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue  # still accumulating: not a step yet

        run.step_done(grad_norm)
        if run.is_due(config.validate_every):
            validate(run, data, weights, look)
        generation.validate()
        if run.is_due(config.save_every):
            run.save()
    run.metrics.close()


if __name__ == "__main__":
    program(Stage2Config, train, __doc__)
