"""The denoising U-Net: the numbers of the published code, its layouts, and what training asks of it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipforge.model import UNet3D
from lipforge.model.denoiser.layouts import LAYOUTS
from lipforge.model.denoiser.unet import trainable_names
from tests.golden import difference, golden_arrays, golden_fill, golden_json

CLOSE = 1e-4  # of the expected output's deviation
SMALL: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "use_motion_module": True,
    "motion_module_kwargs": {"num_attention_heads": 2},
}


def awake(config: dict[str, Any]) -> UNet3D:
    """Random weights; those that begin as zeros, too."""
    torch.manual_seed(0)
    network = UNet3D(config)
    for name, parameter in network.named_parameters():
        if "temporal_transformer.proj_out" in name:
            nn.init.normal_(parameter, std=0.1)
    return network


def inputs(config: dict[str, Any], batch: int = 1, frames: int = 3, side: int = 8, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, 13, frames, side, side, generator=generator)
    steps = torch.randint(0, 1000, (batch,), generator=generator)
    return [sample, steps, torch.randn(batch, frames, 5, config["cross_attention_dim"], generator=generator)]


def gradients(network: nn.Module, given: list[Tensor], autocast: bool = False) -> list[Tensor]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = network(*given).float().square().mean()
    loss.backward()
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_predictions_are_the_published_ones(stage: str) -> None:
    fill = golden_fill()
    network = UNet3D(golden_json(f"unet_{stage}_tiny.config.json")).eval()
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert shapes == golden_json(f"unet_{stage}_tiny.keys.json")
    fill.fill_(network, 2)
    with torch.inference_mode():
        found = network(fill.draw(2, "sample", (1, 13, 4, 16, 16)), 501, fill.draw(2, "audio", (1, 4, 50, 384)))
    assert difference(found.numpy(), golden_arrays(f"unet_{stage}_tiny.npz")["prediction"]) <= CLOSE


def meta(layout: str) -> UNet3D:
    with torch.device("meta"):
        return UNet3D(LAYOUTS[layout])


@pytest.mark.parametrize(
    ("layout", "entries", "parameters"),
    [
        ("stage1", 686, 849_962_244),
        ("stage2", 1246, 1_267_099_844),
        ("stage2_efficient", 1022, 1_100_244_804),
    ],
)
def test_named_layouts_have_the_published_keys_and_shapes(layout: str, entries: int, parameters: int) -> None:
    network = meta(layout)
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert len(shapes) == entries
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert shapes == golden_json(f"unet_{layout}.keys.json")


@pytest.mark.parametrize(
    ("layout", "parts", "tensors", "parameters"),
    [
        ("stage2", ("motion_modules.", "attentions."), 936, 674_792_320),
        ("stage2_efficient", ("motion_modules.", "attn2."), 392, 284_660_480),
        ("stage1", (), 686, 849_962_244),
    ],
)
def test_published_stages_train_so_many_weights(layout: str, parts: tuple, tensors: int, parameters: int) -> None:
    network = meta(layout)
    names = trainable_names(network, parts)
    assert len(names) == tensors
    assert sum(network.get_parameter(name).numel() for name in names) == parameters


@pytest.mark.parametrize("layout", ["tiny_stage1", "tiny_stage2", "faces_stage1", "faces_stage2"])
def test_small_layouts_fit_windows_of_5_and_16_frames_and_odd_sizes(layout: str) -> None:
    network = UNet3D(LAYOUTS[layout])
    width = network.config["cross_attention_dim"]
    with torch.inference_mode():
        for frames, height, side in ((16, 8, 8), (5, 12, 10), (1, 7, 5)):
            sample, audio = torch.zeros(1, 13, frames, height, side), torch.zeros(1, frames, 5, width)
            assert network(sample, 0, audio).shape == (1, 4, frames, height, side)


def test_stage_2_with_new_motion_modules_predicts_what_stage_1_does() -> None:
    first = UNet3D({**SMALL, "use_motion_module": False})
    second = UNet3D(SMALL)
    missing = second.load_state_dict(first.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all("motion_modules." in key for key in missing.missing_keys)
    given = inputs(SMALL)
    assert torch.equal(first(*given), second(*given))


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    network, given = awake(SMALL), inputs(SMALL, batch=2)
    together = network(*given)
    apart = torch.cat([network(*(tensor[[number]] for tensor in given)) for number in range(2)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_frames_hear_their_own_audio_and_only_motion_modules_mind_their_order() -> None:
    still = awake({**SMALL, "use_motion_module": False})
    sample, steps, audio = inputs(SMALL, frames=4)
    turned = still(sample.flip(2), steps, audio.flip(1)).flip(2)
    torch.testing.assert_close(turned, still(sample, steps, audio), rtol=1e-4, atol=1e-5)
    assert (still(sample, steps, audio.flip(1)) - still(sample, steps, audio)).abs().max() > 1e-3
    moving = awake(SMALL)
    turned = moving(sample.flip(2), steps, audio.flip(1)).flip(2)
    assert (turned - moving(sample, steps, audio)).abs().max() > 1e-3


def test_one_timestep_stands_for_the_whole_batch() -> None:
    network, (sample, _, audio) = awake(SMALL), inputs(SMALL, batch=2)
    several = network(sample, torch.tensor([501, 501]), audio)
    assert torch.equal(network(sample, 501, audio), several)
    assert torch.equal(network(sample, torch.tensor(501), audio), several)
    assert not torch.equal(network(sample, 500, audio), several)


@pytest.mark.parametrize("autocast", [False, True])
def test_gradient_checkpointing_gives_the_same_bits(autocast: bool) -> None:
    network, given = awake(SMALL), inputs(SMALL)
    kept = gradients(network, given, autocast)
    network.set_gradient_checkpointing(True)
    again = gradients(network, given, autocast)
    assert len(kept) == len(list(network.parameters()))
    assert all(torch.equal(first, second) for first, second in zip(kept, again, strict=True))


def test_gradient_checkpointing_keeps_less() -> None:
    network, given = awake(SMALL), inputs(SMALL)

    def kept_bytes() -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = network(*given)
        assert output.requires_grad
        return sum(kept.values())

    everything = kept_bytes()
    network.set_gradient_checkpointing(True)
    assert kept_bytes() < everything / 2


def test_layers_compile_without_graph_breaks_and_keep_their_names() -> None:
    network, given = awake(SMALL), inputs(SMALL)
    compiled = copy.deepcopy(network)
    compiled.compile_blocks(backend="eager")  # traces as the default does, and then runs what it traced
    assert list(compiled.state_dict()) == list(network.state_dict())
    for checkpointing in (False, True):
        compiled.set_gradient_checkpointing(checkpointing)
        pairs = zip(gradients(compiled, given), gradients(network, given), strict=True)
        assert all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_layers_have_the_same_gradients() -> None:
    network, given = awake(LAYOUTS["tiny_stage2"]), inputs(LAYOUTS["tiny_stage2"], side=16)
    expected = gradients(network, given)
    network.compile_blocks()
    scale = max(float(gradient.abs().max()) for gradient in expected)
    for first, second in zip(gradients(network, given), expected, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4 * scale)


def test_channels_last_gives_the_same_prediction() -> None:
    network, given = awake(SMALL), inputs(SMALL)
    expected = network(*given)
    found = network.to(memory_format=torch.channels_last)(*given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_its_config_builds_it_again() -> None:
    network = awake(SMALL)
    again = UNet3D(network.config)
    again.load_state_dict(network.state_dict())
    given = inputs(SMALL)
    assert torch.equal(again(*given), network(*given))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": 3}, "widths: no such setting; known: block_out_channels, .* and 18 more"),
        ({"act_fn": "relu"}, "act_fn: expected 'silu' .given: 'relu'"),
        (
            {"motion_module_kwargs": {"attention_block_types": ["Spatial"]}},
            "motion_module_kwargs.attention_block_types",
        ),
        ({"block_out_channels": [8, 16, 16]}, "3 block_out_channels, 2 down_block_types and 2 up_block_types"),
        ({"block_out_channels": [8, 18]}, "a width of 18 cannot be split into 4"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet3D({**SMALL, **changes})


def test_windows_longer_than_the_positions_are_refused() -> None:
    network = UNet3D(SMALL)
    assert network.max_frames == 24
    with pytest.raises(ValueError, match=r"25 frames are too many: .* 24"):
        network(*inputs(SMALL, frames=25))
    assert UNet3D({**SMALL, "use_motion_module": False}).max_frames is None


def test_audio_of_another_window_is_refused() -> None:
    sample, steps, audio = inputs(SMALL)
    with pytest.raises(ValueError, match=r"audio \[1, 2, 5, 12\] does not fit"):
        UNet3D(SMALL)(sample, steps, audio[:, :2])
