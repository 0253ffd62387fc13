"""Model files of the trainers: weights to begin with, autoencoders, networks of losses. See table.py."""

from lipforge.model.weights.model_file import HubFile, ModelFile, WebFile
from lipforge.model.weights.places import LATENTSYNC_1_6, LATENTSYNC_1_6_REVISION, LATENTSYNC_LICENCE, latentsync_file


def _latentsync_unet(version: str, repo: str, revision: str, size_bytes: int, sha256: str) -> ModelFile:
    return ModelFile(
        name=f"latentsync_unet-{version}.pt",
        bundle=f"latentsync-unet-{version}",
        purpose=f"U-Net of LatentSync {version}: weights to begin with",
        source=repo,
        licence=LATENTSYNC_LICENCE,
        sha256=sha256,
        size_bytes=size_bytes,
        origin=HubFile(repo, revision, "latentsync_unet.pt"),
        state_dict_key="state_dict",
    )


def _sd_vae(name: str, path: str, size_bytes: int, sha256: str) -> ModelFile:
    return ModelFile(
        name=name,
        bundle="sd-vae-ft-mse",
        purpose="autoencoder of Stable Diffusion 1.x, decoder tuned on faces; LatentSync's",
        source="stabilityai/sd-vae-ft-mse",
        licence="MIT",
        sha256=sha256,
        size_bytes=size_bytes,
        origin=HubFile("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493", path),
    )


def _taesd(part: str, size_bytes: int, sha256: str) -> ModelFile:
    # The bfloat16 files. That copy of the author's repository is where ComfyUI's releases take them from, and these are
    # their hashes there. huggingface.co has the author's float32 ones, whose hashes differ.
    return ModelFile(
        name=f"taesd_{part}.safetensors",
        bundle="taesd",
        purpose=f"TAESD, {part}: small and fast, for latents of Stable Diffusion 1.x",
        source="Ollin Boer Bohan, github.com/madebyollin/taesd; copy in github.com/comfyanonymous/taesd",
        licence="MIT",
        sha256=sha256,
        size_bytes=size_bytes,
        origin=None,
    )


TRAINING_FILES = (
    ModelFile(
        name="stable_syncnet.pt",
        bundle="stable-syncnet",
        purpose="StableSyncNet: the sync loss of training",
        source=LATENTSYNC_1_6,
        licence=LATENTSYNC_LICENCE,
        sha256="77678d13861a02d6e83d0b169962175b6266be773f1f6f85fda2b0182e225118",
        size_bytes=1_605_328_746,
        origin=latentsync_file("stable_syncnet.pt"),
        state_dict_key="state_dict",  # scripts/train_unet.py of LatentSync reads it there
    ),
    _latentsync_unet(
        "1.5",
        "ByteDance/LatentSync-1.5",
        "32a20d29aead0498e3e885e90dbbe8027da1b61b",
        5_072_348_184,
        "6440b49a7ccceff56cdc001f5f17605216337f5bbd66fa360139768926e23f51",
    ),
    _latentsync_unet(
        "1.6",
        LATENTSYNC_1_6,
        LATENTSYNC_1_6_REVISION,
        5_072_222_488,
        "0a478e89eb660f82da4c35dbdde8a5adfb27f99d1b4e50edd03729e1e98316d3",
    ),
    ModelFile(
        name="stable_diffusion-1.5_unet.safetensors",
        bundle="stable-diffusion-1.5",
        purpose="U-Net of Stable Diffusion 1.5: weights to begin stage 1 with",
        source="stable-diffusion-v1-5/stable-diffusion-v1-5, a mirror of runwayml's",
        licence="CreativeML OpenRAIL-M: use restrictions apply",
        sha256="19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1",
        size_bytes=3_438_167_540,
        origin=HubFile(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            "unet/diffusion_pytorch_model.safetensors",
        ),
    ),
    _sd_vae(
        "sd-vae-ft-mse.safetensors",
        "diffusion_pytorch_model.safetensors",
        334_643_276,
        "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    ),
    _sd_vae(
        "sd-vae-ft-mse.json",
        "config.json",
        547,
        "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e",
    ),
    _taesd("encoder", 2_450_568, "a6b8c0fda4aad50784e543389e0239c72c5e31e9775c9e612ea8333bf3a77dcb"),
    _taesd("decoder", 2_450_590, "d903e7cc3ae58f21d985a3498a841fa8b230edccff7ac5d27607b0c557945c6f"),
    ModelFile(
        name="vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        bundle="videomae",
        purpose="VideoMAE v2 giant: the TREPA loss of stage 2",
        source="Wang et al. 2023, github.com/OpenGVLab/VideoMAEv2",
        licence="MIT (github.com/OpenGVLab/VideoMAEv2); no separate licence for the weights",
        sha256="5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70",
        size_bytes=2_023_804_201,
        origin=HubFile(
            "OpenGVLab/VideoMAE2",
            "97d119d270aca7a1217fff7f413c0c543eb325d9",
            "mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        ),
        state_dict_key="module",
    ),
    ModelFile(
        name="vgg16-397923af.pth",
        bundle="lpips",
        purpose="VGG-16 trained on ImageNet: the trunk of LPIPS",
        source="torchvision; copy in ByteDance/LatentSync-1.6",
        licence="BSD-3-Clause (github.com/pytorch/vision); no separate licence for the weights",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        size_bytes=553_433_881,
        origin=latentsync_file("auxiliary/vgg16-397923af.pth"),
    ),
    ModelFile(
        name="lpips_vgg.pth",
        bundle="lpips",
        purpose="LPIPS 0.1: linear layers on VGG-16",
        source="Zhang et al. 2018, github.com/richzhang/PerceptualSimilarity",
        licence="BSD-2-Clause",
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        size_bytes=7_289,
        origin=WebFile(
            "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
            "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/vgg.pth"
        ),
    ),
)
