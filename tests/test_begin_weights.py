"""Training begins with other weights: what is meant to differ may, and nothing else."""

import pytest
import torch
from torch import Tensor, nn

from lipforge.model.weights.begin import begin
from lipforge.model.weights.load import ModelFileError

MOTION = "adds_motion_modules"
IMAGES = "stable_diffusion_1_5"


class Attention(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(8, 8, bias=False)
        self.to_k = nn.Linear(context, 8, bias=False)
        self.to_v = nn.Linear(context, 8, bias=False)


class Layer(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.attn1 = Attention(8)
        self.attn2 = Attention(context)


class Net(nn.Module):
    """A U-Net as far as names and widths go."""

    def __init__(self, channels: int = 13, context: int = 6, has_motion: bool = False) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, 8, 3)
        self.attentions = nn.ModuleList([Layer(context)])
        if has_motion:
            self.motion_modules = nn.ModuleList([nn.Linear(8, 8)])


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in network.state_dict().items()}


def test_equal_networks_need_no_differences() -> None:
    source, target = Net(), Net()
    lines = begin(target, weights(source), (), "a.pt")
    assert lines == ["a.pt: 8 of 8 tensors loaded"]
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())
    assert target.training
    assert all(parameter.requires_grad for parameter in target.parameters())


def test_halves_become_the_precision_of_the_network() -> None:
    source, target = Net(), Net()
    begin(target, {key: value.half() for key, value in weights(source).items()}, (), "a.pt")
    assert target.conv_in.weight.dtype == torch.float32
    assert torch.equal(target.conv_in.weight, source.conv_in.weight.half().float())


def test_motion_modules_keep_their_initial_values() -> None:
    source, target = Net(), Net(has_motion=True)
    initial = target.motion_modules[0].weight.clone()
    lines = begin(target, weights(source), [MOTION], "stage1.pt")
    assert torch.equal(target.motion_modules[0].weight, initial)
    assert torch.equal(target.conv_in.weight, source.conv_in.weight)
    assert lines[0] == "stage1.pt: 8 of 10 tensors loaded"
    assert lines[1].startswith(f"{MOTION}: 2 tensors (0.000 M numbers)")


def test_motion_modules_of_the_file_are_taken() -> None:
    source, target = Net(has_motion=True), Net(has_motion=True)
    lines = begin(target, weights(source), [MOTION], "stage2.pt")
    assert torch.equal(target.motion_modules[0].weight, source.motion_modules[0].weight)
    assert lines == ["stage2.pt: 10 of 10 tensors loaded", f"{MOTION}: nothing differs"]


def test_stable_diffusion_gets_silent_channels_and_new_ears() -> None:
    source, target = Net(channels=4, context=12), Net()
    initial = target.attentions[0].get_parameter("attn2.to_k.weight").clone()
    lines = begin(target, weights(source), [IMAGES], "sd.safetensors")
    assert torch.equal(target.conv_in.weight[:, :4], source.conv_in.weight)
    assert not target.conv_in.weight[:, 4:].any()
    assert torch.equal(target.attentions[0].get_parameter("attn2.to_k.weight"), initial)
    for kept in ("attn2.to_q.weight", "attn1.to_k.weight"):
        assert torch.equal(target.attentions[0].get_parameter(kept), source.attentions[0].get_parameter(kept))
    assert lines[0] == "sd.safetensors: 5 of 8 tensors loaded"
    assert lines[1].startswith(f"{IMAGES}: 3 tensors")


def test_both_differences_go_together() -> None:
    target = Net(has_motion=True)
    assert begin(target, weights(Net(4, 12)), [IMAGES, MOTION], "sd")[0] == "sd: 5 of 10 tensors loaded"


@pytest.mark.parametrize(
    ("source", "differences", "words"),
    [
        (Net(), [], r"2 missing: motion_modules.*init_differences: \[adds_motion_modules\]"),
        (Net(4, 12, True), [], r"3 of another shape.*init_differences: \[stable_diffusion_1_5\]"),
        (Net(4, 12), [MOTION], r"of another shape.*init_differences: \[adds_motion_modules, stable_diffusion_1_5\]"),
        (Net(13, 12), [MOTION, "x"], "unknown difference 'x'; known: adds_motion_modules, stable_diffusion_1_5"),
        (Net(14), [MOTION, IMAGES], r"1 of another shape: conv_in.weight \[8, 14, 3, 3\] instead of \[8, 13, 3, 3\]$"),
    ],
)
def test_a_difference_that_was_not_named_is_refused(source: nn.Module, differences: list[str], words: str) -> None:
    target = Net(has_motion=True)
    before = weights(target)
    with pytest.raises(ValueError, match=words):
        begin(target, weights(source), differences, "a.pt")
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_missing_extra_and_broken_tensors_are_named() -> None:
    good = weights(Net())
    for tensors, words in (
        ({key: value for key, value in good.items() if key != "conv_in.bias"}, "1 missing: conv_in.bias"),
        ({**good, "conv_out.bias": torch.ones(4)}, "1 unexpected: conv_out.bias"),
        ({**good, "motion_modules.0.bias": torch.ones(8)}, "1 unexpected: motion_modules"),
        ({**good, "conv_in.bias": torch.ones(8, dtype=torch.int64)}, "conv_in.bias torch.int64 instead of"),
        ({**good, "conv_in.bias": torch.full((8,), torch.nan)}, "conv_in.bias holds values that are not finite"),
    ):
        with pytest.raises(ModelFileError, match=f"a.pt: .*{words}"):
            begin(Net(), tensors, [MOTION, IMAGES], "a.pt")


def test_a_lost_tensor_is_no_difference_that_is_meant() -> None:
    tensors = weights(Net(has_motion=True))
    del tensors["motion_modules.0.bias"]
    with pytest.raises(ValueError, match=r"1 missing: motion_modules\.0\.bias"):
        begin(Net(has_motion=True), tensors, [MOTION], "stage2.pt")


def test_weights_for_inpainting_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of another shape.*conv_in.weight \[8, 9, 3, 3\]"):
        begin(Net(), weights(Net(9, 12)), [IMAGES], "inpainting.safetensors")
