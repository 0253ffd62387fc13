"""The number of frames decides what a SyncNet takes; what does not fit is refused with what does."""

import pytest
import torch

from lipforge.model.sync.stable_syncnet import LAYOUTS, StableSyncNet
from lipforge.model.sync.window import layout_for, mel_columns_of, syncnet_input


@pytest.mark.parametrize(
    ("name", "num_frames", "sees", "side"),
    [
        ("syncnet_16_pixel_attn", 16, "pixels", 256),
        ("syncnet_16_latent", 16, "latents", 32),
        ("syncnet_5_pixel_attn", 5, "pixels", 256),
        ("tiny_16_pixel", 16, "pixels", 64),
        ("tiny_5_pixel", 5, "pixels", 64),
    ],
)
def test_a_layout_says_what_it_sees(name: str, num_frames: int, sees: str, side: int):
    found = syncnet_input(name, LAYOUTS[name], num_frames)
    assert (found.sees, found.side, found.num_frames) == (sees, side, num_frames)


def test_channels_follow_the_frames_where_the_sound_fits():
    layout = layout_for("tiny_16_pixel", 15)
    assert layout["visual_encoder"]["in_channels"] == 45
    assert LAYOUTS["tiny_16_pixel"]["visual_encoder"]["in_channels"] == 48
    sees = syncnet_input("tiny_16_pixel", layout, 15)
    frames = sees.frames(torch.zeros(2, 15, 3, 128, 128), None)
    vision, audio = StableSyncNet(layout)(frames, torch.zeros(2, 1, 80, mel_columns_of(15)))
    assert vision.shape == audio.shape == (2, 256)


def test_five_frames_for_a_layout_of_sixteen_name_the_layouts_of_five():
    with pytest.raises(ValueError, match=r"syncnet_16_pixel_attn takes windows of 16 frames.*for 5: .*tiny_5_pixel"):
        layout_for("syncnet_16_pixel_attn", 5)


def test_an_unknown_layout_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"syncnet=huge: no such layout; known: syncnet_16_pixel_attn"):
        layout_for("huge", 16)


def test_frames_of_another_size_are_resized_and_stay_in_range():
    sees = syncnet_input("tiny_5_pixel", LAYOUTS["tiny_5_pixel"], 5)
    pixels = torch.where(torch.rand(1, 5, 3, 256, 256, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
    frames = sees.frames(pixels, None)
    assert frames.shape == (1, 15, 32, 64)
    assert frames.abs().max() <= 1


def test_checkpointed_blocks_have_the_same_gradients():
    torch.manual_seed(0)
    network = StableSyncNet(LAYOUTS["tiny_5_pixel"])
    found = []
    for checkpointed in (False, True):
        network.zero_grad()
        for encoder in (network.visual_encoder, network.audio_encoder):
            encoder.gradient_checkpointing = checkpointed
        generator = torch.Generator().manual_seed(1)
        frames = torch.randn(2, 15, 32, 64, generator=generator)
        vision, audio = network(frames, torch.randn(2, 1, 80, 16, generator=generator))
        (vision * audio).sum().backward()
        found.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    assert len(found[0]) == len(found[1]) == len(list(network.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
