"""Records the BiFPN of effdet 0.4.1 into goldens/. Not needed to run the tests.

In an environment that has torch, from the root of the repository:

    pip install effdet==0.4.1
    python tests/decoders/record_effdet.py

Its BiFPN has a lateral for each edge, ours one for each level; with levels that have the pyramid's width, neither has
any. All weights and batch norm statistics are drawn at random; eval mode, float64, two cells over eight levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from effdet.config import get_efficientdet_config
from effdet.efficientdet import BiFpn

GOLDENS = Path(__file__).parent / "goldens"
IMAGE, CHANNELS, CELLS = (100, 68), 4, 2
LEVELS = range(2, 10)


def flat(tensors: Iterable[torch.Tensor]) -> np.ndarray:
    return np.concatenate([tensor.numpy().ravel() for tensor in tensors])


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = []
    height, width = IMAGE
    for level in range(LEVELS.stop):
        if level in LEVELS:
            inputs.append(torch.randn(2, CHANNELS, height, width, generator=generator, dtype=torch.float64))
        height, width = (height + 1) // 2, (width + 1) // 2
    arrays = {"inputs": flat(inputs), "sizes": np.array([x.shape[-2:] for x in inputs])}
    for method in ("attn", "fastattn", "sum"):
        config = get_efficientdet_config("tf_efficientdet_d1")
        config.update(
            {
                "image_size": IMAGE,
                "min_level": LEVELS.start,
                "max_level": LEVELS.stop - 1,
                "num_levels": len(LEVELS),
                "fpn_channels": CHANNELS,
                "fpn_cell_repeats": CELLS,
                "fpn_name": f"bifpn_{'fa' if method == 'fastattn' else method}",
                "redundant_bias": False,
            }
        )
        pyramid = BiFpn(config, [{"num_chs": CHANNELS} for _ in LEVELS]).double().eval()
        state = pyramid.state_dict()
        for name, value in state.items():
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                positive = name.endswith("running_var") or (name.endswith("edge_weights") and method == "fastattn")
                state[name] = drawn.abs() + 0.1 if positive else drawn
        pyramid.load_state_dict(state)
        with torch.no_grad():
            outputs = pyramid(list(inputs))
        weights = {name: value for name, value in state.items() if value.dim()}
        arrays[f"{method}/names"] = np.array(list(weights))
        arrays[f"{method}/weights"] = flat(weights.values())
        arrays[f"{method}/outputs"] = flat(outputs)
    np.savez_compressed(GOLDENS / "effdet_bifpn.npz", **arrays)


if __name__ == "__main__":
    main()
