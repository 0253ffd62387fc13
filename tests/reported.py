"""A dataset for the report: clips that play, stills, hostile names, a run that was interrupted."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from lipforge.datasets_manifest.geometry import ClipGeometry, encode_geometry
from lipforge.datasets_manifest.manifest import write_manifest
from lipforge.datasets_manifest.sample import END_OF_TAR, clip_members, sample_bytes
from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.datasets_manifest.storage.store import Store

HOSTILE = "/videos/<script>alert(1)</script> \"a\" 'b' & \n\u202egpj \U0001f600.mp4"
CLIP_S = 5.2
NUM_FRAMES = 130


def make_mp4(brightness: int) -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "23", "preset": "ultrafast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(round(CLIP_S * 25)):
            image = np.full((64, 64, 3), brightness, np.uint8)
            image[:, i % 64] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return data.getvalue()


def make_flac() -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16000)
        stream.layout = "mono"
        tone = (8000 * np.sin(np.arange(round(CLIP_S * 16000)) * 0.2)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return data.getvalue()


def make_row(number: int, **columns: Any) -> dict[str, Any]:
    return {
        "key": f"{number:032x}",
        "source_id": f"{number % 3:064x}",
        "source_uri": f"/videos/source-{number % 3}.mp4",
        "unit_id": f"{number % 3:016x}",
        "start_s": 10.0 * number,
        "end_s": 10.0 * number + CLIP_S,
        "duration_s": CLIP_S,
        "accounted_s": CLIP_S,
        "language": "en",
        **columns,
    }


MEASURED: dict[str, Any] = {
    "av_offset_frames": 1,
    "sync_confidence": 4.5,
    "quality": 61.0,
    "face_size_px": 180.0,
    "speech_ratio": 0.9,
    "sync_model": "sync-a",
    "quality_model": "quality-a",
}


def moving_geometry() -> ClipGeometry:
    """Of a face in a frame of 200 x 100 px, whose crop is its right half; a square mouth sinks by 0.1 px a frame."""
    still = np.zeros((NUM_FRAMES, 1, 1), np.float32)
    square = np.array([[140, 50], [160, 50], [160, 60], [140, 60]], np.float32) + still
    square[:, :, 1] += 0.1 * np.arange(NUM_FRAMES)[:, None]
    zeros = np.zeros(NUM_FRAMES, np.float32)
    return ClipGeometry(
        crop_px=64,
        to_crop=np.array([[0.64, 0, -64], [0, 0.64, 0]], np.float32) + still,
        frame_size_px=np.full((NUM_FRAMES, 2), (200, 100), np.int32),
        found=np.full(NUM_FRAMES, True),
        outside_ratio=zeros,
        yaw_deg=zeros,
        pitch_deg=zeros,
        roll_deg=zeros,
        face_box=np.array([[100, 0], [200, 100]], np.float32) + still,
        alignment_points=np.array([[130, 30], [170, 30], [150, 45]], np.float32) + still,
        mouth_outer=square,
        mouth_inner=square,
        face_outline=square,
    )


def make_reported(root: Path) -> None:
    """4 clips kept, and rejected and failed ones, in a folder as the pipeline leaves it."""
    shard = "shards/en/en-000000.tar"
    (root / shard).parent.mkdir(parents=True)
    rows = []
    with tarfile.open(root / shard, "w") as tar:
        for number in range(4):
            first_byte = tar.offset
            about = {"key": f"{number:032x}", "num_frames": NUM_FRAMES}
            npz = encode_geometry(moving_geometry()) if number < 3 else None  # one of an earlier version
            files = clip_members(make_mp4(40 * number + 40), make_flac(), about, npz)
            for extension, content in files.items():
                member = tarfile.TarInfo(f"{number:032x}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            where = {"shard": shard, "sample_offset": first_byte, "sample_size": tar.offset - first_byte}
            rows.append(
                make_row(number, status=Status.KEPT, stage="commit", speaker=f"s{number % 2}", **MEASURED, **where)
            )

    blurred = {**MEASURED, "quality": 21.0, "detail": "quality 21.0, expected at least 40"}
    written, still = cv2.imencode(".jpg", np.full((160, 160, 3), 90, np.uint8))
    assert written
    blocks = sample_bytes(f"{10:032x}", {"jpg": still.tobytes()})
    Store(str(root)).write("stills/000001-ab.tar", blocks + END_OF_TAR)
    where = {"shard": "stills/000001-ab.tar", "sample_offset": 0, "sample_size": len(blocks)}
    refused = {"stage": "measure_quality", "reason": Reason.LOW_QUALITY, **blurred, **where}
    rows.append(make_row(10, status=Status.REJECTED, **refused))
    no_face = {"stage": "track_faces", "reason": Reason.NO_FACE, "quality": float("nan"), "accounted_s": 20.0}
    rows.append(make_row(11, status=Status.REJECTED, source_uri=HOSTILE, source_id="f" * 64, **no_face))
    broken = {"start_s": None, "end_s": None, "duration_s": None, "accounted_s": None, "language": None}
    unreadable = {"stage": "probe", "reason": Reason.UNREADABLE, "detail": "<img src=x onerror=alert(2)>", **broken}
    rows.append(make_row(12, status=Status.FAILED, source_uri="/videos/text.mp4", source_id="e" * 64, **unreadable))
    write_manifest(str(root), rows)

    run = root / "runs" / "20260101T000000"
    run.mkdir(parents=True)
    stages = [{"name": "resample", "cpu_s": 3.0}, {"name": "track_faces", "cpu_s": 9.0}]
    times = {"started_at": "2026-01-01T00:00:00+00:00", "finished_at": None, "seconds_done": 60.0, "wall_s": 24.0}
    summary = {**times, "seconds_in": 200.0, "stages": stages}
    (run / "summary.json").write_text(json.dumps({**summary, "versions": {"av": "<i>9</i>"}}))
    (root / "ledger").mkdir()
    settings = {"thresholds": {"max_av_offset_frames": 6, "min_quality": 40.0}}
    (root / "ledger" / "dataset.json").write_text(json.dumps({"config": settings}))
