"""The settings of `lipforge infer` that a user of the app may choose, each with the line that says what it does."""

from typing import Any, Literal, get_args

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel

from lipforge.model.denoiser.diffusion import NUM_TIMESTEPS, SOLVERS
from lipforge.pipeline.config_loader import validated
from lipforge.pipeline.infer.request import InferConfig, SamplingConfig

FACE_CHOICES = [("Speaker", "speaker"), ("Largest", "largest"), ("All", "all")]
_BAND = ("guidance_from", "guidance_below")
_SAMPLING_NAMES = ("steps", "guidance", "solver", "seed")
_NAMES = (*_SAMPLING_NAMES, *_BAND, "extend", "audio_end", "max_yaw_deg", "sharpen", "lossless", "face_models")


def about(kind: type[BaseModel], name: str) -> str:
    """A setting's description, as in the terminal."""
    return " ".join((kind.model_fields[name].description or "").split())


def face_choice(more: str = "") -> gr.Radio:
    return gr.Radio(
        FACE_CHOICES,
        value=InferConfig().face,
        label="Whose lips",
        info=f"Speaker: in each shot, who fits the old sound best. {more}",
    )


def setting_inputs() -> list[Component]:
    """Draws the widgets, in the order in which `to_config` takes their values."""
    sampling, config = SamplingConfig(), InferConfig()
    with gr.Accordion("How it is drawn", open=False, elem_classes="part"):
        steps = gr.Slider(1, 100, sampling.steps, step=1, label="Steps", info=about(SamplingConfig, "steps"))
        guidance = gr.Slider(
            1, 5, sampling.guidance, step=0.1, label="Guidance", info=about(SamplingConfig, "guidance")
        )
        solver = gr.Dropdown(list(SOLVERS), value=sampling.solver, label="Solver", info=about(SamplingConfig, "solver"))
        seed = gr.Number(sampling.seed, label="Seed", info=about(SamplingConfig, "seed"), precision=0, minimum=0)
        with gr.Row():
            first = gr.Number(
                sampling.guidance_band[0],
                label="Guide from timestep",
                info=about(SamplingConfig, "guidance_band"),
                precision=0,
                minimum=0,
                maximum=NUM_TIMESTEPS,
            )
            below = gr.Number(
                sampling.guidance_band[1],
                label="Guide below timestep",
                info=f"{NUM_TIMESTEPS}: no limit, as published.",
                precision=0,
                minimum=0,
                maximum=NUM_TIMESTEPS,
            )
    with gr.Accordion("Length, faces, file", open=False, elem_classes="part"):
        extend = _radio("extend", config.extend, "Sound is longer")
        audio_end = _radio("audio_end", config.audio_end, "Sound is shorter")
        yaw = gr.Slider(
            5, 90, config.max_yaw_deg, step=1, label="Largest turn of a face, degrees", info=_about("max_yaw_deg")
        )
        sharpen = gr.Slider(0, 2, config.sharpen, step=0.1, label="Sharpen", info=_about("sharpen"))
        lossless = gr.Checkbox(config.lossless, label="Lossless", info=_about("lossless"))
        face_models = _radio("face_models", config.face_models, "Face models")
    return [steps, guidance, solver, seed, first, below, extend, audio_end, yaw, sharpen, lossless, face_models]


def to_config(model: str | None, face: str, values: tuple[Any, ...]) -> InferConfig:
    """values: of `setting_inputs`. Raises ValueError for what does not fit."""
    given: dict[str, Any] = {name: _whole(value) for name, value in zip(_NAMES, values, strict=True)}
    for name, value in given.items():
        if value is None:
            raise ValueError(f"{name.replace('_', ' ')}: enter a number")
    sampling = {name: given.pop(name) for name in _SAMPLING_NAMES}
    sampling["guidance_band"] = tuple(given.pop(name) for name in _BAND)
    return validated(InferConfig, {"model": model, "face": face, "sampling": sampling, "overwrite": True, **given})


def _about(name: str) -> str:
    return about(InferConfig, name)


def _radio(name: Literal["extend", "audio_end", "face_models"], value: str, label: str) -> gr.Radio:
    choices = [
        (str(choice).capitalize(), str(choice)) for choice in get_args(InferConfig.model_fields[name].annotation)
    ]
    return gr.Radio(choices, value=value, label=label, info=_about(name))


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
