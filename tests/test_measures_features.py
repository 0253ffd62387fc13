"""The networks behind FID and CSIM: torch-fidelity's own numbers, and faces where ArcFace wants them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from lipforge.model.faces.crop_points import upright_transform
from lipforge.model.measures import arcface, inception
from lipforge.model.measures.arcface import ArcFace, identity_crops
from lipforge.model.measures.inception import Inception, InceptionNetwork
from lipforge.model.weights.load import ModelFileError

_TEMPLATE = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
"""Where InsightFace puts eyes, nose and mouth in 112 px."""


def test_features_of_fid_are_those_of_torch_fidelity(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.manual_seed(0)
    torch.save(InceptionNetwork().state_dict(), path)
    theirs = FeatureExtractorInceptionV3("net", ["2048"], feature_extractor_weights_path=str(path))
    frames = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), dtype=np.uint8)
    (expected,) = theirs(torch.from_numpy(frames).permute(0, 3, 1, 2))
    found = Inception({inception.FILE: path.read_bytes()}).features(frames)
    assert found.shape == (1, inception.WIDTH)
    assert found == pytest.approx(expected.numpy(), rel=1e-4)
    with pytest.raises(ModelFileError, match="not the weights of InceptionNetwork"):
        Inception({inception.FILE: _small_state_dict(tmp_path)})


def _small_state_dict(folder: Path) -> bytes:
    torch.save({"fc.bias": torch.zeros(3)}, folder / "small.pth")
    return (folder / "small.pth").read_bytes()


def a_face(resolution: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """An aligned crop with a dot at each of the five points, and FaceMesh points as they would be found."""
    five = np.array([[70, 90], [180, 92], [125, 140], [85, 185], [165, 188]], float) * resolution / 256
    frame = np.full((resolution, resolution, 3), 90, np.uint8)
    for x, y in five:
        cv2.circle(frame, (round(x), round(y)), resolution // 32, (255, 40, 40), -1)
    upright = upright_transform(resolution)
    points = np.zeros((468, 3))
    for group, place in zip(arcface._FIVE, five @ upright[:, :2].T + upright[:, 2], strict=True):
        points[list(group), :2] = place
    return frame, points


@pytest.mark.parametrize("resolution", [256, 512])
def test_eyes_nose_and_mouth_come_where_arcface_wants_them(resolution: int) -> None:
    frame, points = a_face(resolution)
    (face,) = identity_crops(frame[None], points[None])
    assert face.shape == (112, 112, 3)
    number, _, _, centres = cv2.connectedComponentsWithStats((face[..., 0] > 180).astype(np.uint8))
    assert number == 6  # five dots and what is around them
    distances = np.linalg.norm(centres[1:, None] - np.array(_TEMPLATE)[None], axis=2)
    assert sorted(distances.argmin(axis=1)) == [0, 1, 2, 3, 4]
    assert distances.min(axis=1).max() < 4  # a similarity cannot fit five points of another face
    with pytest.raises(ValueError, match=r"expected points \[1, 468, 2 or 3\], got \[1, 5, 3\]"):
        identity_crops(frame[None], points[None, :5])


def small_network(width: int = arcface.WIDTH) -> tuple[bytes, np.ndarray]:
    """A graph with the inputs and outputs of ArcFace's, and its matrix [3, width]: means of channels times that."""
    matrix = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["output"]),
        ],
        "face",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString(), matrix


def test_identities_are_unit_vectors_of_pictures_in_rgb_around_zero() -> None:
    content, matrix = small_network()
    frame, points = a_face()
    frames, meshes = np.stack([frame] * 10), np.stack([points] * 10)  # more than one batch
    frames[3] //= 2
    found = ArcFace({arcface.FILE: content}).embed(frames, meshes)
    means = ((identity_crops(frames, meshes).astype(np.float64) - 127.5) / 127.5).mean(axis=(1, 2)) @ matrix
    assert found == pytest.approx(means / np.linalg.norm(means, axis=1, keepdims=True), abs=1e-4)


def test_another_graph_is_no_arcface() -> None:
    with pytest.raises(ModelFileError, match="expected 112 x 112 px and 512 numbers"):
        ArcFace({arcface.FILE: small_network(width=8)[0]})
    with pytest.raises(ModelFileError, match="ONNX Runtime cannot load it"):
        ArcFace({arcface.FILE: b"no graph"})
