"""Peers' models with random weights that leave no parameter without an effect."""

import torch


def randomise(model, seed=0):
    """All parameters random: matrices keep activations near 1, scales lie around 1, biases and tokens around 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim >= 2 and "token" not in name and "pos" not in name:
                p.copy_(noise / p[0].numel() ** 0.5)
            elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "before.weight", "after.weight")):
                p.copy_(1 + 0.2 * noise)
            elif "gamma" in name or "lambda" in name:
                p.copy_(0.5 + 0.2 * noise)
            else:
                p.copy_(0.3 * noise)
    return model.eval()
