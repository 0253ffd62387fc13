"""Make tests/voice_golden.json: what the package Resemblyzer gives for sounds that anyone can make again.

    PYTHON -m tests.voice_golden       PYTHON: has Resemblyzer 0.1.4; needs nothing of this project

Pauses are left in: of the package's preparation only the loudness is used.
"""

import json
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("voice_golden.json")


def known_sounds() -> dict[str, np.ndarray]:
    """Float32 at 16 kHz: harmonics that rise and fall, under noise; short, long, quiet, loud, and with a pause."""
    found = {}
    for name, length_s, pitch_hz, gain in [
        ("short", 0.83, 120, 0.1),
        ("partial", 1.6, 210, 0.1),
        ("covered", 3.0, 140, 0.3),
        ("left out", 2.2, 180, 0.3),
        ("quiet", 5.3, 95, 0.0004),
        ("loud", 7.77, 230, 0.9),
    ]:
        time_s = np.arange(round(length_s * 16000)) / 16000
        phase = 2 * np.pi * pitch_hz * (time_s + 0.02 * np.sin(2 * np.pi * 1.3 * time_s))
        voice = sum(np.sin(k * phase) / k * (1 + np.sin(2 * np.pi * (0.7 + 0.3 * k) * time_s)) for k in range(1, 20))
        noise = np.random.default_rng(len(time_s)).random(len(time_s)) - 0.5
        sound = voice / np.abs(voice).max() + 0.02 * noise
        sound[len(sound) // 3 : len(sound) // 2] *= 0.01
        found[name] = (gain * sound / np.abs(sound).max()).astype(np.float32)
    return found


if __name__ == "__main__":
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import audio_norm_target_dBFS, normalize_volume

    encoder = VoiceEncoder("cpu", verbose=False)
    found = {
        name: encoder.embed_utterance(normalize_volume(sound, audio_norm_target_dBFS, increase_only=True))[::4]
        for name, sound in known_sounds().items()
    }
    lines = [f'"{name}": {json.dumps([round(float(value), 6) for value in values])}' for name, values in found.items()]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")
