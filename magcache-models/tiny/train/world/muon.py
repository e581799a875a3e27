"""Muon: momentum whose singular values are all brought near one, for matrices and the kernels of convolutions.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scaled as in Liu et al. 2025 (arXiv 2502.16982), so that a
step is as long as one of AdamW and takes the same learning rate. ``torch.optim.Muon`` does the same in bfloat16, matrix by
matrix, which is slow on a processor.
"""

import torch

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial of Newton and Schulz, from the first reference
ITERATIONS = 5


def orthogonalise(matrices):
    """Matrices [count, rows, columns] with their singular vectors and singular values of about one."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Over matrices, those of one shape together; a kernel is one, with a row for each channel that it gives."""

    def __init__(self, matrices, lr):
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue  # a picture uses no kernel over time
                state = self.state[matrix]
                momentum = state.setdefault("momentum", torch.zeros_like(matrix)).lerp_(matrix.grad, 1 - MOMENTUM)
                update = matrix.grad.lerp(momentum, MOMENTUM).flatten(1)
                shapes.setdefault(update.shape, []).append((matrix, update))
            for shape, rows in shapes.items():
                updates = orthogonalise(torch.stack([update for _, update in rows]))
                scale = 0.2 * max(shape) ** 0.5
                for (matrix, _), update in zip(rows, updates):
                    matrix.add_(update.view_as(matrix), alpha=-group["lr"] * scale)
