"""Training noise schedules, and the choice of kept training steps (of 1000)."""

import numpy as np


def linear_alpha_bar() -> np.ndarray:
    """ᾱ of the linear β schedule 1e-4 … 0.02 over 1000 steps, float64 (1000,)."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def scaled_linear_alpha_bar() -> np.ndarray:
    """ᾱ of Stable Diffusion's β schedule over 1000 steps, float64 (1000,): entry n − 1 is that of time n/1000."""
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def respaced(steps: int) -> tuple[int, ...]:
    """The training steps that the DiT code keeps, round(linspace(0, 999, T)), noisiest first."""
    return tuple(int(t) for t in np.round(np.linspace(0, 999, steps))[::-1])
