"""Names and limits of sampling, for settings that are read before torch is."""

NUM_TIMESTEPS = 1000
CLASSES = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "lcm": "LCMScheduler",
}
"""Those of diffusers, by our names."""
SOLVERS = tuple(CLASSES)
