"""Weights that a model does not begin with, so that a test can see that they are used."""

import torch
from torch import nn


def draw_biases(model: nn.Module, *, seed: int) -> None:
    """Move every bias and every scale of a norm away from where it begins."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            with torch.no_grad():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
