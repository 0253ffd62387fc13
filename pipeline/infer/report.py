"""What was made, for people and programs: OUT.report.json, and OUT.report.jpg with faces before and after."""

import json
from dataclasses import asdict
from pathlib import Path

import av
import cv2
import numpy as np

from lipforge.pipeline.infer.crop import Cropper
from lipforge.pipeline.infer.plan import Run
from lipforge.pipeline.infer.planes import Colours
from lipforge.pipeline.infer.request import PASSED_WORDS, InferConfig, InferResult
from lipforge.pipeline.infer.work import write_whole

NUM_LOOKS = 8
SIDE_PX = 224
_BAR_PX, _GAP_PX = 34, 6


def looks_at(runs: list[Run], count: int = NUM_LOOKS) -> list[int]:
    """Frames of the result to show: evenly spaced over what is drawn."""
    lengths = np.array([run.end - run.first for run in runs])
    if not len(runs):
        return []
    places = ((np.arange(count) + 0.5) / count * lengths.sum()).astype(int)
    ends = np.cumsum(lengths)
    found = []
    for place in places.tolist():
        at = int(np.searchsorted(ends, place, side="right"))
        found.append(runs[at].end - int(ends[at] - place))
    return sorted(set(found))


class Looks:
    """Keeps faces before and after in a work folder, while frames are drawn."""

    def __init__(self, folder: Path, runs: list[Run]) -> None:
        self.folder = folder
        self.wanted = set(looks_at(runs))
        self._cropper = Cropper(SIDE_PX)

    def crop(self, image: av.VideoFrame, to_crop: np.ndarray, resolution: int, colours: Colours) -> np.ndarray:
        """uint8 [SIDE_PX, SIDE_PX, 3]: an aligned face. to_crop: stored pixels to a crop's."""
        scale = SIDE_PX / resolution
        small = np.column_stack([to_crop[:, :2] * scale, (to_crop[:, 2] + 0.5) * scale - 0.5])
        return self._cropper.take(image, small, colours)

    def keep(self, number: int, time_s: float, before: np.ndarray, after: np.ndarray) -> None:
        """The same face twice, as `crop` gives it."""
        bar = np.full((_BAR_PX, SIDE_PX, 3), 255, np.uint8)
        cv2.putText(bar, f"{time_s:.2f} s", (6, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
        whole = np.concatenate([bar, before, after])[..., ::-1]
        ok, content = cv2.imencode(".png", whole)
        assert ok
        write_whole(self.folder / f"look-{number:08d}.png", content.tobytes())

    def sheet(self) -> bytes | None:
        """JPEG: original faces above new ones; None when nothing was drawn."""
        paths = [self.folder / f"look-{number:08d}.png" for number in sorted(self.wanted)]
        contents = [np.frombuffer(path.read_bytes(), np.uint8) for path in paths if path.exists()]
        read = [cv2.imdecode(content, cv2.IMREAD_COLOR) for content in contents]
        pictures = [picture for picture in read if picture is not None]
        if not pictures:
            return None
        gap = np.full((pictures[0].shape[0], _GAP_PX, 3), 255, np.uint8)
        row = np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)
        ok, content = cv2.imencode(".jpg", row, [cv2.IMWRITE_JPEG_QUALITY, 92])
        assert ok
        return content.tobytes()


def write_report(result: InferResult, config: InferConfig, video: str, audio: str, sheet: bytes | None) -> None:
    """Beside the output. result.report names the JSON file."""
    path = Path(result.report)
    plain = {
        **asdict(result),
        "video": video,
        "audio": audio,
        "settings": config.model_dump(mode="json"),
        "passed": [
            {"start_s": round(span.start_s, 3), "end_s": round(span.end_s, 3), "reason": span.reason.value}
            | {"words": PASSED_WORDS[span.reason]}
            for span in result.passed
        ],
    }
    write_whole(path, json.dumps(plain, indent=1).encode())
    if sheet is not None:
        write_whole(path.with_suffix(".jpg"), sheet)
