"""What can be said of the built-in scorer by its weights file alone, without loading torch, which takes a second."""

import json

DEFAULT_MIN_CONFIDENCE = 2.2
"""docs/models/lip_sync_results.md shows what it keeps and rejects."""


def scorer_name(weights: bytes) -> str:
    """weights: a safetensors file of `train/scorers/lip_sync.py`. Raises KeyError or ValueError for others."""
    header_size = int.from_bytes(weights[:8], "little")
    name: str = json.loads(weights[8 : 8 + header_size])["__metadata__"]["name"]
    return name
