"""Which checkpoint is best, when a run stops early, and what it has forgotten: decisions on numbers, pure functions.

The loss does not tell how well a mouth follows the sound, and sync alone can be had by pictures that nobody wants. So
the best checkpoint has the highest sync confidence among those whose pictures are about as close to the originals as
the closest so far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lipforge.datasets_manifest.display import counted
from lipforge.pipeline.evaluate.numbers import interval
from lipforge.train.config import EarlyStoppingConfig

NEAR = 1.05
"""Times the lowest picture distance so far: up to here pictures are as good."""


@dataclass(frozen=True)
class Candidate:
    """One validation of a run."""

    step: int
    loss: float | None = None
    sync: float | None = None
    """Mean sync confidence of clips drawn with their own sound. None: nothing was generated, or a clip has no face."""
    picture: float | None = None
    """Mean distance of their pictures from the originals: LPIPS, ST-LPIPS, or 1 - SSIM."""
    has_forgotten: bool = False
    """Beyond the bound."""


def ranked(candidates: Sequence[Candidate]) -> list[int]:
    """Steps, the best first, without those that have forgotten too much.

    First those with pictures near the best, by sync; then other generated ones, by picture; then the rest, by loss.
    """
    allowed = [found for found in candidates if not found.has_forgotten]
    judged = [found for found in allowed if found.sync is not None and found.picture is not None]
    lowest = min((found.picture for found in judged if found.picture is not None), default=0.0)

    def order(found: Candidate) -> tuple[int, float, int]:
        if found.sync is None or found.picture is None:
            return (3, 0.0, found.step) if found.loss is None else (2, found.loss, found.step)
        return (0, -found.sync, found.step) if found.picture <= NEAR * lowest else (1, found.picture, found.step)

    return [found.step for found in sorted(allowed, key=order) if order(found)[0] < 3]


def num_without_gain(candidates: Sequence[Candidate], min_gain: float) -> int:
    """Generated validations since the last one that was better than all before it. candidates: in order of steps."""
    judged = [found for found in candidates if found.sync is not None and found.picture is not None]
    by_step = {found.step: found for found in judged}
    count, best = 0, None
    for end, found in enumerate(judged, start=1):
        first = next(iter(ranked(judged[:end])), None)
        if first == found.step and (best is None or _gains(by_step[best], found, min_gain)):
            count, best = 0, first
        else:
            count += 1
    return count


def _gains(before: Candidate, now: Candidate, min_gain: float) -> bool:
    assert None not in (before.sync, before.picture, now.sync, now.picture)
    closer = before.picture > NEAR * now.picture  # type: ignore[operator]
    return closer or now.sync - before.sync > min_gain  # type: ignore[operator]


def stops_early(candidates: Sequence[Candidate], config: EarlyStoppingConfig | None) -> str | None:
    """Why the run ends here, in words. None: it goes on."""
    if config is None:
        return None
    count = num_without_gain(candidates, config.min_gain)
    if count < config.patience:
        return None
    best = ranked([found for found in candidates if found.sync is not None])
    which = f"; the best is that of step {best[0]}" if best else ""
    return (
        f"no gain in sync confidence over {count} validations (early_stopping.patience={config.patience}){which}. "
        "To go on, raise the patience or set early_stopping=null"
    )


def percent(share: float) -> str:
    """`15%`, `0.5%`: a bound as it was set."""
    return f"{100 * share:g}%"


@dataclass(frozen=True)
class Forgetting:
    """Sync confidence of the base clips that is lost since the run began, as a share of what it was."""

    share: float
    """Mean over the clips; negative: it rose."""
    low: float | None
    """95 % bootstrap interval over clips, of paired differences. None: one clip."""
    high: float | None
    num_clips: int
    is_beyond: bool
    """Above the bound, and no matter of which clips were drawn: the interval lies above 0."""

    def words(self, bound: float) -> str:
        spread = "" if self.low is None or self.high is None else f" (95 % interval {self.low:.0%} to {self.high:.0%})"
        clips = counted(self.num_clips, "clip")
        lost = f"the base clips lost {self.share:.0%} of their sync confidence{spread}, over {clips}"
        if self.is_beyond:
            return f"forgetting: {lost}; max_forgetting is {percent(bound)}"
        if self.share > bound:
            return f"{lost}: above max_forgetting={percent(bound)}, but these few clips do not prove it"
        return f"{lost}: within max_forgetting={percent(bound)}"


def forgetting(before: Mapping[str, float], now: Mapping[str, float], bound: float) -> Forgetting | None:
    """Compare the base clips' sync confidences, by clip, with those before the first step.

    A clip of which no face is left counts 0. None: without a sync confidence to lose.
    """
    if not before or (mean := float(np.mean(list(before.values())))) <= 0:
        return None
    lost = np.array([value - now.get(key, 0.0) for key, value in before.items()]) / mean
    low, high = interval(lost)
    share = float(lost.mean())
    return Forgetting(share, low, high, len(lost), share > bound and (low is None or low > 0))
