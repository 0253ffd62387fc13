"""Settings of the training of the built-in lip-sync scorer."""

from lipforge.pipeline.config_loader import Config


class ScorerTrainingConfig(Config):
    """Everything that affects the weights, apart from the clips."""

    num_networks: int = 4
    """Networks whose similarities are averaged."""
    width: int = 64
    num_outputs: int = 32
    dropout: float = 0.3
    num_steps: int = 1500
    """Optimizer steps of each final network."""
    num_offset_steps: int = 600
    """Optimizer steps of each network that estimates offsets."""
    num_offset_rounds: int = 2
    batch_size: int = 64
    clips_per_group: int = 8
    """Clips are drawn per speaker group, so each batch has negatives of the same speaker."""
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    window_frames: int = 28
    """Frames of a training window, before it is sped up or slowed down."""
    max_lag_frames: int = 12
    """Largest shift, either way, that the true one competes with."""
    cross_weight: float = 1.5
    """Weight of the loss over other clips' audio, relative to the loss over other shifts of a clip's own."""
    long_clip_weight: float = 3.0
    """Extra weight when drawing clips longer than 2.5 s, which are rare beside single words."""
    longest_s: float = 10.0
    """Length beyond which a clip is not drawn more often."""
    num_framings: int = 5
    """Variants of each clip's mouth images, each framed a little differently."""
    offset_spread_frames: float = 1.5
    """Prior standard deviation of the clips' offsets."""
    max_offset_frames: int = 3
    """Largest offset that a training clip may have."""
    min_offset_probability: float = 0.35
    """A clip whose offset is within that limit with less probability is dropped: audio and video do not match."""
    seed: int = 0
