"""A Whisper checkpoint in the published format of openai-whisper, tiny and with random weights."""

import io
from functools import cache

import torch

DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 16,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_vocab": 51865,
    "n_text_ctx": 448,
    "n_text_state": 16,
    "n_text_head": 2,
    "n_text_layer": 1,
}


@cache
def whisper_file(language: str | None = None, n_vocab: int = 51865, seed: int = 0) -> bytes:
    """language: its answer to any audio, nearly certain. None: a random answer for each audio."""
    from whisper.model import ModelDimensions, Whisper
    from whisper.tokenizer import get_tokenizer

    dims = {**DIMS, "n_vocab": n_vocab}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Whisper(ModelDimensions(**dims))
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    tensors = network.state_dict()
    if language is not None:
        # The last layer gives ones whatever comes in, and of all tokens that language's agrees with them most.
        tensors["decoder.ln.weight"].zero_()
        tensors["decoder.ln.bias"].fill_(1.0)
        tokenizer = get_tokenizer(multilingual=True, num_languages=99)
        tensors["decoder.token_embedding.weight"][tokenizer.to_language_token(language)] = 0.6
    buffer = io.BytesIO()
    torch.save({"dims": dims, "model_state_dict": tensors}, buffer)
    return buffer.getvalue()
