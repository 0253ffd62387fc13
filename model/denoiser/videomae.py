"""VideoMAE v2 (Wang et al. 2023, arXiv 2303.16727): features of a video, for the TREPA loss of LatentSync.

A plain vision transformer over pieces of two frames and 14 x 14 pixels. The keys are those of the published file
`vit_g_hybrid_pt_1200e_ssv2_ft.pth` (github OpenGVLab/VideoMAEv2, MIT licence).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lipforge.model.denoiser.motion import sinusoids

_NORM_EPS = 1e-6

LAYOUTS: dict[str, dict[str, Any]] = {
    # The published weights: ViT-g, 1012 M parameters, fine-tuned on the 174 classes of Something-Something v2.
    "giant": {
        "img_size": 224,
        "patch_size": 14,
        "embed_dim": 1408,
        "depth": 40,
        "num_heads": 16,
        "mlp_ratio": 48 / 11,
        "num_classes": 174,
        "all_frames": 16,
        "tubelet_size": 2,
    },
    # For trying things out, with random weights.
    "tiny": {
        "img_size": 224,
        "patch_size": 56,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 4,
        "mlp_ratio": 2,
        "num_classes": 10,
        "all_frames": 16,
        "tubelet_size": 2,
    },
}


class VideoMae(nn.Module):
    """A video's features: the mean of all pieces after the last layer, normed."""

    positions: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: as in `LAYOUTS`."""
        super().__init__()
        self.side_px: int = config["img_size"]
        self.max_frames: int = config["all_frames"]
        self.tubelet_size: int = config["tubelet_size"]
        patch, width = config["patch_size"], config["embed_dim"]
        num_pieces = (self.side_px // patch) ** 2 * (self.max_frames // self.tubelet_size)
        self.patch_embed = PatchEmbed(patch, self.tubelet_size, width)
        layer = (width, config["num_heads"], int(width * config["mlp_ratio"]))
        self.blocks = nn.ModuleList([Layer(*layer) for _ in range(config["depth"])])
        self.fc_norm = nn.LayerNorm(width, _NORM_EPS)
        # The published file has it: the classifier of its fine-tuning. Features end before it.
        self.head = nn.Linear(width, config["num_classes"])
        self.register_buffer("positions", sinusoids(num_pieces, width), persistent=False)
        self.gradient_checkpointing = False
        """On: activations inside of layers are computed again when gradients need them, to the same bits."""

    def forward(self, video: Tensor) -> Tensor:
        """Features [B, D] of a video.

        video: float [B, 3, T, S, S] RGB in 0..1, not normalised (so LatentSync feeds it); S = `side_px`; T: a multiple
        of `tubelet_size`, up to `max_frames`, which it was trained with. Raises ValueError for other shapes.
        """
        num_frames = video.shape[2]
        if video.shape[1] != 3 or video.shape[3:] != (self.side_px, self.side_px):
            raise ValueError(f"video {list(video.shape)}: expected [B, 3, T, {self.side_px}, {self.side_px}]")
        if num_frames % self.tubelet_size or num_frames > self.max_frames:
            raise ValueError(
                f"{num_frames} frames do not fit VideoMAE: it takes a multiple of {self.tubelet_size} frames, "
                f"up to {self.max_frames}"
            )
        pieces = self.patch_embed(video)
        pieces = pieces + self.positions[: pieces.shape[1]].to(pieces.dtype)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                pieces = checkpoint(block, pieces, use_reentrant=False)
            else:
                pieces = block(pieces)
        return self.fc_norm(pieces.mean(dim=1))


class PatchEmbed(nn.Module):
    """[B, 3, T, S, S] -> [B, N, D], frame by frame and row by row."""

    def __init__(self, patch: int, tubelet: int, width: int) -> None:
        super().__init__()
        size = (tubelet, patch, patch)
        self.proj = nn.Conv3d(3, width, size, size)

    def forward(self, video: Tensor) -> Tensor:
        return self.proj(video).flatten(2).transpose(1, 2)


class Layer(nn.Module):
    """Attention over all pieces of the video, and a feed-forward layer; [B, N, D]."""

    def __init__(self, width: int, num_heads: int, hidden_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, _NORM_EPS)
        self.attn = PieceAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, _NORM_EPS)
        self.mlp = FeedForward(width, hidden_width)

    def forward(self, pieces: Tensor) -> Tensor:
        pieces = pieces + self.attn(self.norm1(pieces))
        return pieces + self.mlp(self.norm2(pieces))


class PieceAttention(nn.Module):
    """Self-attention; keys have no bias, which softmax would cancel."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, pieces: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        joint = functional.linear(pieces, self.qkv.weight, bias)
        query, key, value = joint.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, pieces: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(pieces)))
