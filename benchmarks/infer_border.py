"""Whether the border of a new mouth shows: gradients across it, over those of the original at the same places.

    python -m benchmarks.infer_border TAESD_FOLDER VIDEO [VIDEO ...]

The network is an autoencoder: what it draws has the errors of colour and detail that latent diffusion has. Its faces
are put back as here, and as published, inside of a hard mask.
"""

import sys
from collections.abc import Callable

import cv2
import numpy as np
import torch

from lipforge.model.denoiser.mask import mouth_mask, to_pixels
from lipforge.model.denoiser.vae import LATENT_SCALE, open_vae
from lipforge.model.faces.alignment import align, to_square
from lipforge.model.weights.load import load
from lipforge.pipeline.infer.blend import Blender
from lipforge.pipeline.media.picture import ToRgb
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.video import decode_video
from lipforge.pipeline.profiles import PROFILES

SIDE = 256
NUM_FACES = 12
BAND_PX = 3
"""Around the border of the mask, to both sides."""


def faces_of(video: str) -> list[np.ndarray]:
    """Aligned faces, uint8 [256, 256, 3], spread over the video."""
    info, backend = probe(video), PROFILES["builtin"].faces(load("builtin"))
    to_rgb = ToRgb(info)
    every = max(1, info.num_frames // NUM_FACES)
    found = []
    for number, frame in enumerate(decode_video(video, info, 0, info.num_frames)):
        if number % every or frame.image is None:
            continue
        picture = to_rgb.convert(frame)
        for detected in backend.detect(picture)[:1]:
            placed = backend.landmarks(picture, detected)
            if placed is not None:
                matrix = to_square(align(backend.alignment_points(placed.points)[None], SIDE), SIDE)[0]
                found.append(picture.warp(matrix, SIDE, border=cv2.BORDER_REPLICATE))
    return found


def across(face: np.ndarray, normal: np.ndarray, band: np.ndarray) -> float:
    """Mean size of the gradient across the border, in a band along it."""
    smooth = cv2.GaussianBlur(face.astype(np.float32), (0, 0), 1.0)
    rows, columns = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((0, 1), (1, 0)))
    along = rows * normal[0][..., None] + columns * normal[1][..., None]
    return float(np.abs(along)[band].mean())


def main(arguments: list[str]) -> None:
    """Print a ratio for each video and way; 1.00 is the original's own gradient."""
    vae = open_vae(arguments[0])
    mask = mouth_mask(SIDE)[0].numpy()
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((1 - mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    signed = cv2.GaussianBlur(inside - outside, (0, 0), 2.0)
    normal = np.stack([cv2.Sobel(signed, cv2.CV_32F, 0, 1), cv2.Sobel(signed, cv2.CV_32F, 1, 0)])
    normal /= np.maximum(np.hypot(*normal), 1e-6)
    band = (inside + outside) <= BAND_PX
    blender = Blender(SIDE)

    def ours(face: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        share = blender.alpha[..., None]
        return face + share * (blender.matched(drawn, face) - face)

    def published(face: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return np.where(mask[..., None] > 0, drawn, face)

    ways: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"here": ours, "hard mask": published}
    for shift in (0.0, 6.0):
        for video in arguments[1:]:
            ratios: dict[str, list[float]] = {name: [] for name in ways}
            for face in faces_of(video):
                with torch.no_grad():
                    latents = vae.moments(to_pixels(torch.from_numpy(face[None]), SIDE))[:, :4] * LATENT_SCALE
                    pixels = vae.decode(latents)[0].float().clamp(-1, 1)
                drawn = ((pixels + 1) * 127.5).movedim(0, -1).numpy() + np.float32(shift)
                for name, way in ways.items():
                    ratios[name].append(across(way(face, drawn), normal, band) / across(face, normal, band))
            words = ", ".join(f"{name} {np.mean(values):.2f}" for name, values in ratios.items())
            print(f"{video.rsplit('/', 1)[-1]}, colours off by {shift:g} of 255: gradient over the original's: {words}")


if __name__ == "__main__":
    main(sys.argv[1:])
