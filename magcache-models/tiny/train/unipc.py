"""The sampler of the official Wan programs: UniPC of order 2 (bh2) with flow sigmas, shift 3."""

import numpy as np
import torch

SHIFT, HIGHEST = 3.0, 0.999


def half_log_snr(sigma):
    return torch.log(1 - sigma) - torch.log(sigma)


class UniPc:
    """One trajectory of ``steps`` steps; ``timesteps`` are whole numbers, as the transformer is given them."""

    def __init__(self, steps):
        sigmas = np.linspace(HIGHEST, 0, steps + 1)[:-1]
        sigmas = SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)
        self.timesteps = [int(sigma * 1000) for sigma in sigmas]
        self.sigmas = torch.from_numpy(np.append(sigmas, 0).astype(np.float32))
        self.clean, self.sample, self.order = [], None, 0

    def step(self, velocity, x):
        """The sample of the next noise level: corrects ``x`` by the new prediction first, then goes on from it."""
        i = len(self.clean)
        clean = x - self.sigmas[i] * velocity
        if i > 0:
            x = self.move(i - 1, self.order, clean)
        self.clean.append(clean)
        self.order = min(2, len(self.sigmas) - 1 - i, i + 1)
        self.sample = x
        return clean if self.sigmas[i + 1] == 0 else self.move(i, self.order)

    def move(self, i, order, new=None):
        """From the kept sample at level ``i`` to the next one, knowing its prediction ``new`` or not."""
        begin, end = self.sigmas[i], self.sigmas[i + 1]
        h = half_log_snr(end) - half_log_snr(begin)
        phi = torch.expm1(-h)
        base = end / begin * self.sample - (1 - end) * phi * self.clean[i]
        slopes, at = [], []
        if order == 2:
            at.append((half_log_snr(self.sigmas[i - 1]) - half_log_snr(begin)) / h)
            slopes.append((self.clean[i - 1] - self.clean[i]) / at[0])
        if new is not None:
            at.append(torch.tensor(1.0))
            slopes.append(new - self.clean[i])
        weights = [0.5]
        if len(slopes) == 2:
            first = phi / -h - 1
            moments = torch.stack([first / phi, (first / -h - 0.5) * 2 / phi])
            weights = torch.linalg.solve(torch.stack([torch.ones(2), torch.stack(at)]), moments)
        return base - (1 - end) * phi * sum(w * s for w, s in zip(weights, slopes))
