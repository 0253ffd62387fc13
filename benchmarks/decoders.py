"""Compare libraries for decoding, and for running the face landmarks.

python -m benchmarks.decoders [--videos VIDEO ...]

CPU seconds to decode every frame to RGB on one thread; CPU milliseconds for FaceMesh and for voice activity. Skips
libraries that are not installed.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import av
import cv2
import numpy as np

from benchmarks.sources import find_videos
from lipforge.model.weights import load as weights

Decoder = Callable[[str], int]
"""Decodes a file to RGB arrays and returns their number."""


def with_pyav(path: str) -> int:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(frame.to_ndarray(format="rgb24").shape[0] > 0 for frame in container.decode(stream))


def with_opencv(path: str) -> int:
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    count = 0
    while True:
        ok, bgr = capture.read()
        if not ok:
            return count
        cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        count += 1


def with_decord(path: str) -> int:
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    return sum(reader[index].asnumpy().shape[0] > 0 for index in range(len(reader)))


def with_torchcodec(path: str) -> int:
    from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]  # not one of our dependencies

    decoder: Any = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return sum(decoder[index].numpy().shape[0] > 0 for index in range(len(decoder)))


DECODERS: dict[str, Decoder] = {
    "av": with_pyav,
    "opencv-python": with_opencv,
    "decord": with_decord,
    "torchcodec": with_torchcodec,
}


def faces_with_litert(model: bytes) -> Callable[[np.ndarray], object]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    first, outputs = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()

    def run(image: np.ndarray) -> object:
        interpreter.set_tensor(first, image)
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in outputs]

    return run


def faces_with_opencv(model: bytes) -> Callable[[np.ndarray], object]:
    network = cv2.dnn.readNetFromTFLite(np.frombuffer(model, np.uint8))
    names = network.getUnconnectedOutLayersNames()

    def run(image: np.ndarray) -> object:
        network.setInput(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
        return network.forward(names)

    return run


def speech_with_onnx() -> Callable[[np.ndarray], object]:
    from lipforge.model.audio.speech import SpeechDetector

    return SpeechDetector().speech_ratio


def cpu_s(work: Callable[[], object], times: int = 1) -> float:
    """CPU seconds of this process for one call."""
    began_s = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began_s) / times


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        print(f"{name} is not installed: skipped")
        return False
    return True


def measure_decoders(path: str, decoders: dict[str, Decoder], repeats: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in decoders}
    counts: dict[str, int | str] = {}
    for _ in range(repeats):
        for name, decoder in decoders.items():  # in turn, so that all run under the same load
            began_s = time.process_time()
            try:
                counts[name] = decoder(path)
            except (RuntimeError, OSError) as error:
                counts[name] = f"failed: {str(error).strip().splitlines()[0]}"
            times[name].append(time.process_time() - began_s)
    for name in decoders:
        print(
            f"  {name:16}{metadata.version(name):10}{statistics.median(times[name]):8.2f} CPU s  frames: {counts[name]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos", type=Path, nargs="*", default=[], help="default: three real clips, if present, or a synthetic one"
    )
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        paths = [str(path) for path in arguments.videos]
        if not paths:
            paths = [video.source.uri for video in find_videos(None, 3, Path(scratch))]
        decoders = {name: decoder for name, decoder in DECODERS.items() if is_installed(name)}
        for path in paths:
            print(f"decode to RGB: {Path(path).name}", flush=True)
            measure_decoders(path, decoders, arguments.repeats)

    model = weights.load("builtin")["face_landmark.tflite"]
    image = np.random.default_rng(0).random((1, 192, 192, 3), dtype=np.float32)
    print("FaceMesh, one image")
    for name, run in (("ai-edge-litert", faces_with_litert(model)), ("opencv-python", faces_with_opencv(model))):
        run(image)
        runs = [cpu_s(lambda run=run: run(image), times=50) for _ in range(arguments.repeats)]
        print(f"  {name:16}{metadata.version(name):10}{1000 * statistics.median(runs):8.2f} CPU ms")

    audio = np.random.default_rng(0).normal(0, 0.1, 16_000 * 10).astype(np.float32)
    detect = speech_with_onnx()
    detect(audio)
    runs = [cpu_s(lambda: detect(audio)) for _ in range(arguments.repeats)]
    cpu_ms = 1000 * statistics.median(runs) / 10
    print(f"silero-vad {metadata.version('silero-vad')} on onnxruntime: {cpu_ms:.2f} CPU ms per second of audio")


if __name__ == "__main__":
    main()
