"""What the metrics of `lipforge evaluate` cost: CPU seconds per second of video.

    python -m benchmarks.measures

One thread, 256 px, 25 frames a second; medians of 3. Networks have random weights, which cost the same.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from lipforge.model.denoiser.lpips import LAYOUTS, Lpips
from lipforge.model.measures.frechet import Features, frechet_distance, frechet_distance_of_rows
from lipforge.model.measures.i3d import I3DNetwork, video_tensor
from lipforge.model.measures.inception import InceptionNetwork
from lipforge.model.measures.pictures import psnr_db, ssim
from lipforge.model.measures.st_lpips import alex_network, vgg_network

FRAMES = 16
SIDE_PX = 256
FPS = 25


def cpu_seconds(run: Callable[[], object]) -> float:
    def once() -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    return median(once() for _ in range(3))


def pairs_of(network: nn.Module) -> Callable[[Tensor, Tensor], object]:
    """Compares four frames at a time, as the measures do."""
    network.eval()
    return lambda first, second: [network(*some) for some in zip(first.split(4), second.split(4), strict=True)]


def main() -> None:
    torch.set_num_threads(1)
    draws = np.random.default_rng(0)
    frames, reference = (draws.integers(0, 256, (FRAMES, SIDE_PX, SIDE_PX, 3), dtype=np.uint8) for _ in range(2))
    pixels, target = (torch.from_numpy(video).permute(0, 3, 1, 2).float() / 127.5 - 1 for video in (frames, reference))
    video = video_tensor(frames)
    i3d, inception = I3DNetwork().eval(), InceptionNetwork().eval()
    lpips, alex, vgg = (pairs_of(network) for network in (Lpips(LAYOUTS["vgg16"]), alex_network(), vgg_network()))
    of_video: dict[str, Callable[[], object]] = {
        "SSIM": lambda: ssim(frames, reference),
        "PSNR": lambda: psnr_db(frames, reference),
        "ST-LPIPS, AlexNet": lambda: alex(pixels, target),
        "ST-LPIPS, VGG16": lambda: vgg(pixels, target),
        "LPIPS 0.1, VGG16": lambda: lpips(pixels, target),
        "I3D": lambda: i3d(video),
        "InceptionV3": lambda: [inception(some) for some in ((pixels + 1) * 127.5).split(4)],
    }
    with torch.no_grad():
        for name, run in of_video.items():
            print(f"{name}: {cpu_seconds(run) * FPS / FRAMES:.2f} CPU s per second of video", flush=True)
    for width, count in [(400, 200), (400, 2000), (2048, 500)]:
        rows = [draws.normal(size=(count, width)) for _ in range(2)]
        sets = [Features(width) for _ in rows]
        for some, row in zip(sets, rows, strict=True):
            some.add(row)
        print(
            f"distance of two sets of {count} features of {width}: "
            f"{cpu_seconds(lambda sets=sets: frechet_distance(*sets)):.3f} CPU s from mean and covariance, "
            f"{cpu_seconds(lambda rows=rows: frechet_distance_of_rows(*rows)):.3f} from the features",
            flush=True,
        )


if __name__ == "__main__":
    main()
