"""Stand-ins for published model files: the same format, names and shapes, without published weights.

The face files see drawn faces: a bright green rectangle is one face, a bright red one another. They are ONNX graphs
with the inputs and outputs of `buffalo_l`'s det_10g.onnx and 2d106det.onnx, so they use the real loader and decoding.
"""

import io
import warnings

import numpy as np
import onnx
import torch
from torch import Tensor, nn

GREEN, RED = (0, 255, 0), (255, 0, 0)
_CHANNELS = {GREEN: (1, 0, 2), RED: (0, 1, 2)}
"""The channel of a colour, and the two others, in the order of the networks' input: red, green, blue."""
_LEAST_COLOUR = 80
"""By how much (of 255) a face's channel is above the others."""

KEYPOINTS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
"""Where the detector puts eyes, nose and corners of the mouth, as shares of the box."""


def _points() -> np.ndarray:
    points = np.random.default_rng(0).uniform(0.05, 0.95, (106, 2)).astype(np.float32)
    points[[43, 48, 49, 51, 50]] = (0.3, 0.25)
    points[[101, 102, 103, 104, 105]] = (0.7, 0.25)
    points[[74, 77, 83, 86]] = (0.5, 0.55)
    return points


POINTS = _points()
"""Where the point network puts its 106 points, as shares of the box."""


def draw_face(image: np.ndarray, box: tuple[int, int, int, int], colour: tuple[int, int, int] = GREEN) -> None:
    """Paint a face into a image (uint8 [H, W, 3] RGB). box: x0, y0, x1, y1 in pixels."""
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = colour


def _extent(image: Tensor, colour: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Box x0, y0, x1, y1 of a colour, and its greatest brightness (0 without any). image: [1, 3, H, W], 0..255."""
    own, *others = (image[0, channel] for channel in _CHANNELS[colour])
    there = (own - torch.maximum(*others) > _LEAST_COLOUR).float()
    columns, rows = there.amax(0), there.amax(1)
    x, y = torch.arange(1, image.shape[3] + 1), torch.arange(1, image.shape[2] + 1)
    x1, y1 = (columns * x).amax(), (rows * y).amax()
    x0, y0 = image.shape[3] - (columns * x.flip(0)).amax(), image.shape[2] - (rows * y.flip(0)).amax()
    return torch.stack([x0, y0, x1, y1]), (there * own).amax()


class _Detector(nn.Module):
    """A face for the green and one for the red rectangle, scored by brightness, seen by all three strides."""

    def forward(self, blob: Tensor) -> tuple[Tensor, ...]:
        image = blob * 128 + 127.5
        faces = [_extent(image, colour) for colour in _CHANNELS]
        scores, boxes, places = [], [], []
        for stride in (8, 16, 32):
            y, x = torch.meshgrid(
                torch.arange(image.shape[2] // stride) * stride,
                torch.arange(image.shape[3] // stride) * stride,
                indexing="ij",
            )
            anchors = torch.stack([x, y], dim=-1).reshape(-1, 1, 2).expand(-1, 2, 2).reshape(-1, 2).float()
            score = torch.zeros_like(anchors[:, :1])
            box, place = torch.zeros_like(score).expand(-1, 4), torch.zeros_like(score).expand(-1, 10)
            for extent, brightness in faces:
                low, high = extent[:2].float(), extent[2:].float()
                here = ((anchors - (low + high) / 2).abs() <= stride / 2).all(1, keepdim=True) & (brightness > 0)
                points = low + torch.from_numpy(KEYPOINTS) * (high - low)
                score = torch.where(here, brightness / 255, score)
                box = torch.where(here, torch.cat([anchors - low, high - anchors], 1) / stride, box)
                place = torch.where(here, (points[None] - anchors[:, None]).reshape(-1, 10) / stride, place)
            scores.append(score)
            boxes.append(box)
            places.append(place)
        return (*scores, *boxes, *places)


class _Points(nn.Module):
    """Points stretched over the green or red rectangle; -1..1 over the image."""

    def forward(self, blob: Tensor) -> Tensor:
        image = (blob - 127.5) * 0.0078125 * 128 + 127.5
        (green, there), (red, _) = (_extent(image, colour) for colour in _CHANNELS)
        box = torch.where(there > 0, green, red).float()
        points = box[:2] + torch.from_numpy(POINTS) * (box[2:] - box[:2])
        return (points / 96 - 1).reshape(-1, 212)


def _export(network: nn.Module, size_px: int, names: list[str], dynamic: dict[str, dict[int, str]]) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tracing, which is intended
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 3, size_px, size_px),),
            buffer,  # type: ignore[arg-type]
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes=dynamic,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def detector_onnx() -> bytes:
    """Like det_10g.onnx: images of any size, about -1..1; scores, boxes and five points at three strides."""
    outputs = [f"{what}_{stride}" for what in ("scores", "boxes", "points") for stride in (8, 16, 32)]
    dynamic = {"input.1": {2: "height", 3: "width"}, **{name: {0: f"anchors_{name}"} for name in outputs}}
    return _export(_Detector(), 640, ["input.1", *outputs], dynamic).SerializeToString()


def points_onnx() -> bytes:
    """Like 2d106det.onnx: 192 px images of 0..255, scaled in the graph: InsightFace knows by the first nodes' names."""
    model = _export(_Points(), 192, ["data", "fc1"], {"data": {0: "None"}, "fc1": {0: "None"}})
    for kind, name in (("Sub", "_minusscalar0"), ("Mul", "_mulscalar0")):
        next(node for node in model.graph.node[:8] if node.op_type == kind).name = name
    return model.SerializeToString()


def face_files() -> dict[str, bytes]:
    """By their names in the profile `latentsync`."""
    return {"det_10g.onnx": detector_onnx(), "2d106det.onnx": points_onnx()}


def syncnet_file() -> bytes:
    """Like syncnet_v2.model: the published keys and shapes, with random numbers."""
    from lipforge.model.sync.syncnet_v2 import SyncNetV2

    return _saved(SyncNetV2)


def hyperiqa_file() -> bytes:
    """Like koniq_pretrained.pkl: the published keys and shapes, with random numbers whose scores lie about 50."""
    from lipforge.model.quality.hyperiqa import HyperIQA

    return _saved(HyperIQA, **{"fc5b_fc.bias": 50.0})


def _saved(network: type[nn.Module], **constants: float) -> bytes:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = network().state_dict()
    for key, value in constants.items():
        tensors[key].fill_(value)
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def latentsync_files() -> dict[str, bytes]:
    """All files of the profile `latentsync`."""
    return {**face_files(), "syncnet_v2.model": syncnet_file(), "koniq_pretrained.pkl": hyperiqa_file()}
