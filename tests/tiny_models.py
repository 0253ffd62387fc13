"""The models that make features, tiny and with random weights."""

from pathlib import Path

from lipforge.model.denoiser.vae import read_vae_files
from lipforge.train.features.extract import ModelFiles
from tests.tiny_vae import save_tiny_vae
from tests.whisper_file import whisper_file


def tiny_model_files(folder: Path) -> ModelFiles:
    """Files of all kinds. folder: where the VAE is written."""
    return ModelFiles(("tiny.pt", whisper_file()), True, ("tiny", *read_vae_files(save_tiny_vae(folder))))
