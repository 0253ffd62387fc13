"""Measure `lipforge prepare` stage by stage, against the bare kernels that it needs.

python -m benchmarks.prepare [--clips N] [--repeats N] [--folder VIDEOS]

The baseline runs in the same process on the same videos: decode, convert to RGB at 25 fps, detect faces as configured,
FaceMesh on every face of every frame, warp and encode as many frames as the pipeline did, each alone in a plain loop.
Two more necessary kernels are counted separately: decoding the audio, and PySceneDetect's detector. Pipeline and
baseline take turns. All times are CPU seconds on one thread, which a busy machine disturbs less. Results are also
written to bench/prepare.json.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from scenedetect import AdaptiveDetector, FrameTimecode

from benchmarks.sources import find_videos, name_of
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS, SAMPLE_RATE_HZ
from lipforge.model.faces.alignment import align, to_square
from lipforge.model.faces.face import DetectedFace, FaceLandmarks
from lipforge.model.faces.mediapipe import MediaPipeFaces
from lipforge.model.faces.picture import Picture
from lipforge.model.weights import load as weights
from lipforge.pipeline.clip import Clip, Video
from lipforge.pipeline.config import EncodeConfig, PrepareConfig
from lipforge.pipeline.ledger.segments import Content, Segments
from lipforge.pipeline.ledger.settings import resolve
from lipforge.pipeline.publish.seal import DoneContent, Sealer, SealTask
from lipforge.pipeline.recipe import CutOperator, ScoreOperator
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.stages.probe import Probe

PAIRS = (
    ("resample", ("decode", "audio")),
    ("split_shots", ("cuts",)),
    ("track_faces", ("rgb", "detect", "landmarks")),
    ("align", ("warp",)),
    ("encode", ("encode",)),
)
"""Each stage, and the kernels that do most of its work."""
KERNELS = ("decode", "rgb", "detect", "landmarks", "warp", "encode")
"""The baseline."""
MORE_KERNELS = ("audio", "cuts")
CUT_STAGES = ("resample", "split_shots", "track_faces", "cut", "align", "encode", "between stages")
OTHER_STAGES = ("probe", "detect_speech", "measure_sync", "measure_quality", "commit", "pack")
OUT = Path("bench/prepare.json")


class CpuTimes(dict[str, float]):
    """CPU seconds of this process by name."""

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        began_s = time.process_time()
        yield
        self[name] = self.get(name, 0.0) + time.process_time() - began_s

    def move(self, shares: Mapping[str, float], out_of: str) -> None:
        """Move shares of one time to names of their own."""
        for name, cpu_s in shares.items():
            self[name] = self.get(name, 0.0) + cpu_s
            self[out_of] -= cpu_s


class Pipeline:
    """All the work of prepare on one worker, without Ray."""

    def __init__(self, config: PrepareConfig) -> None:
        models = weights.load("builtin")
        self.config, self.hashes = resolve(config, models)
        self.models = models
        self.cut = CutOperator(self.config, models)

    def run(self, video: Video) -> tuple[CpuTimes, list[Clip]]:
        """CPU seconds by stage, and the clips that were encoded."""
        times = CpuTimes()
        clips: list[Clip] = []
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            score = ScoreOperator(self.config, self.models, store, self.hashes)
            with times.running("probe"):
                video = Probe().process(video.source)
                units = plan_units(video, self.config.resample.max_span_s)
            for unit in units:
                with times.running("between stages"):
                    cut = self.cut.process(unit)
                with times.running("commit"):
                    record = score.process(cut)
                # Time that an operator spends outside its timed stages stays under these two names.
                times.move(cut.stage_cpu_s, out_of="between stages")
                times.move(
                    {n: s for n, s in record["stage_cpu_s"].items() if n not in cut.stage_cpu_s}, out_of="commit"
                )
                clips += [clip for clip in cut.clips if clip.mp4]
            with times.running("pack"):
                number = Segments(store).plan([Content(video, tuple(units))])
                done = DoneContent(0, video, tuple(unit.unit_id for unit in units))
                Sealer(store, self.config, self.hashes)(SealTask(number, [done]))
        return times, clips


class BareKernels:
    """The same work without the pipeline: each kernel in a plain loop over one second of frames."""

    def __init__(self, config: PrepareConfig) -> None:
        self.config = config
        self.faces = MediaPipeFaces(weights.load("builtin"))

    def run(self, video: Video, clips: list[Clip]) -> CpuTimes:
        """clips: those that the pipeline encoded; as many faces are warped and encoded here, frame by frame."""
        times = CpuTimes(dict.fromkeys((*KERNELS, *MORE_KERNELS), 0.0))
        size = self.config.align.resolution
        every = self.config.faces.detect_every_frames
        search = self.config.faces.search_every_frames
        crops: list[np.ndarray] = []
        with times.running("audio"):
            decode_audio(video.source.uri)
        detector = AdaptiveDetector(adaptive_threshold=self.config.shots.adaptive_threshold)
        frames = decode(video.source.uri, video.end_frame)
        scaler = VideoReformatter()  # shared: setting one up per frame costs as much as its work
        first = 0
        while True:
            with times.running("decode"):
                decoded = list(islice(frames, every))
            if not decoded:
                break
            with times.running("rgb"):
                chunk = [scaler.reformat(frame, format="rgb24").to_ndarray() for frame in decoded]
            with times.running("cuts"):
                for index, rgb in enumerate(chunk):
                    find_cuts(detector, first + index, rgb)
            with times.running("detect"):
                pictures = [Picture.of(rgb) for rgb in chunk]
                detected = self.faces.detect(pictures[0])
                if not detected:  # without a face, detection runs more often
                    for picture in pictures[search::search]:
                        self.faces.detect(picture)
            with times.running("landmarks"):
                followed = [self.follow(pictures, face) for face in detected]
            jobs = []
            for index in range(len(chunk)):
                found = sorted((t[index] for t in followed if index < len(t)), key=lambda f: -f.height_px)
                wanted = sum(clip.start_frame <= first + index < clip.end_frame for clip in clips)
                for face in found[:wanted]:
                    points = self.faces.alignment_points(face.points[None])
                    jobs.append((chunk[index], to_square(align(points, size), size)[0]))
            with times.running("warp"):
                crops += [cv2.warpAffine(rgb, m, (size, size), flags=cv2.INTER_LINEAR) for rgb, m in jobs]
            first += len(chunk)
        with times.running("encode"):
            encode(crops, self.config.encode)
        return times

    def follow(self, pictures: list[Picture], face: DetectedFace) -> list[FaceLandmarks]:
        found: list[FaceLandmarks] = []
        prior: DetectedFace | FaceLandmarks | None = face
        for picture in pictures:
            prior = self.faces.landmarks(picture, prior)
            if prior is None:
                break
            found.append(prior)
        return found


def decode(uri: str, num_frames: int) -> Iterator[av.VideoFrame]:
    """Frames at 25 fps, the plain way: PyAV on one thread, skipping frames between grid times."""
    with av.open(uri) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        origin_s: float | None = None
        index = 0
        for frame in container.decode(stream):
            origin_s = frame.time if origin_s is None else origin_s
            assert frame.time is not None and origin_s is not None
            if index < num_frames and (frame.time - origin_s) * FPS > index - 0.5:
                yield frame
                index += 1


def decode_audio(uri: str) -> None:
    with av.open(uri) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        for frame in container.decode(audio=0):
            for resampled in resampler.resample(frame):
                resampled.to_ndarray()


def find_cuts(detector: AdaptiveDetector, index: int, rgb: np.ndarray) -> None:
    """Like PySceneDetect's own command: every n-th pixel, for a width of about 256."""
    step = max(1, rgb.shape[1] // 256)
    detector.process_frame(
        FrameTimecode(index, fps=float(FPS)), cv2.cvtColor(rgb[::step, ::step].copy(), cv2.COLOR_RGB2BGR)
    )


def encode(crops: list[np.ndarray], config: EncodeConfig) -> None:
    """Encode with x264 and the pipeline's settings, without a container."""
    if not crops:
        return
    context: Any = av.CodecContext.create("libx264", "w")
    context.height, context.width = crops[0].shape[:2]
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", FPS, Fraction(1, FPS)
    params = f"keyint={config.gop_frames}:min-keyint=1:scenecut=0:open-gop=0:bframes=0"
    context.options = {"preset": config.preset, "crf": str(config.crf), "threads": "1", "x264-params": params}
    for index, rgb in enumerate(crops):
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts = index
        context.encode(frame)
    context.encode(None)


def measure(video: Video, pipeline: Pipeline, kernels: BareKernels, repeats: int) -> tuple[CpuTimes, CpuTimes]:
    """Median times of the pipeline and of the kernels, which take turns."""
    runs: tuple[list[CpuTimes], list[CpuTimes]] = ([], [])
    for _ in range(repeats):
        gc.collect()
        times, clips = pipeline.run(video)
        runs[0].append(times)
        gc.collect()
        runs[1].append(kernels.run(video, clips))
    return median_of(runs[0]), median_of(runs[1])


def median_of(runs: list[CpuTimes]) -> CpuTimes:
    names = dict.fromkeys(name for run in runs for name in run)
    return CpuTimes({name: statistics.median(run.get(name, 0.0) for run in runs) for name in names})


def total(times: Mapping[str, float], names: tuple[str, ...]) -> float:
    return sum(times.get(name, 0.0) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=6, help="videos to use (default: 6)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side per video (default: 3)")
    parser.add_argument(
        "--folder", type=Path, help="folder of videos; default: real clips, if present, or a synthetic one"
    )
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        videos = find_videos(arguments.folder, arguments.clips, Path(scratch))
        pipeline, kernels = Pipeline(PrepareConfig()), BareKernels(PrepareConfig())
        _, clips = pipeline.run(videos[0])  # warm up: lazy imports
        kernels.run(videos[0], clips)
        pairs = []
        for video in videos:
            pairs.append(measure(video, pipeline, kernels, arguments.repeats))
            print_video(video, *pairs[-1])
    seconds = sum(video.seconds_in for video in videos)
    stages, bare = (
        CpuTimes({name: sum(pair[side].get(name, 0.0) for pair in pairs) / seconds for name in pair_names(pairs, side)})
        for side in (0, 1)
    )
    print_table(stages, bare, seconds)
    write_json(videos, pairs, stages, bare)


def pair_names(pairs: list[tuple[CpuTimes, CpuTimes]], side: int) -> dict[str, None]:
    return dict.fromkeys(name for pair in pairs for name in pair[side])


def print_video(video: Video, stages: CpuTimes, bare: CpuTimes) -> None:
    cut_s, all_s, bare_s = total(stages, CUT_STAGES), sum(stages.values()), total(bare, KERNELS)
    per_s = [value / video.seconds_in for value in (all_s, bare_s)]
    print(
        f"{name_of(video)}: {per_s[0]:.3f} in total, kernels {per_s[1]:.3f}; resample to encode {bare_s / cut_s:.0%}",
        flush=True,
    )


def print_table(stages: CpuTimes, bare: CpuTimes, seconds: float) -> None:
    """CPU seconds per second of source."""
    kernels = dict(PAIRS)
    print(f"\nCPU seconds per second of source, over {seconds:.0f} s; ratio = bare kernel / stage")
    print(f"{'stage':16}{'pipeline':>10}  {'bare kernel':26}{'alone':>10}{'ratio':>8}")
    for name in (*CUT_STAGES, *OTHER_STAGES):
        line = f"{name:16}{stages.get(name, 0.0):10.4f}"
        if name in kernels:
            alone = total(bare, kernels[name])
            line += f"  {' + '.join(kernels[name]):26}{alone:10.4f}{alone / stages[name]:8.0%}"
        print(line)
    cut_s, all_s = total(stages, CUT_STAGES), sum(stages.values())
    for what, cpu_s in (("resample..encode", cut_s), ("everything", all_s)):
        print(f"{what:16}{cpu_s / bare['decode']:9.2f}x  bare decoding")
        for which, names in (("kernels", KERNELS), ("plus audio, cuts", (*KERNELS, *MORE_KERNELS))):
            alone = total(bare, names)
            print(f"{what:16}{cpu_s:10.4f}  {which:26}{alone:10.4f}{alone / cpu_s:8.0%}")


def write_json(videos: list[Video], pairs: list[tuple[CpuTimes, CpuTimes]], stages: CpuTimes, bare: CpuTimes) -> None:
    cut_s, all_s, bare_s = total(stages, CUT_STAGES), sum(stages.values()), total(bare, KERNELS)
    result = {
        "unit": "CPU seconds per second of source",
        "stages": stages,
        "kernels": bare,
        "ratio_resample_to_encode": bare_s / cut_s,
        "times_bare_decoding": all_s / bare["decode"],
        "ratio_everything": bare_s / all_s,
        "ratio_everything_with_audio_and_cuts": total(bare, (*KERNELS, *MORE_KERNELS)) / all_s,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "videos": [
            {"name": name_of(video), "seconds": video.seconds_in, "stages_cpu_s": pair[0], "kernels_cpu_s": pair[1]}
            for video, pair in zip(videos, pairs, strict=True)
        ],
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {OUT}")


if __name__ == "__main__":
    main()
