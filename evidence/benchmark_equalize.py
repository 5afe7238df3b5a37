"""Measure what equalizing a convolution costs while it trains, as ratios to the plain one; prints one JSON object.

Example: python -m evidence.benchmark_equalize --widths 128 128 128 128 --out-channels 128 --kernel 3 --size 64 64
"""

from __future__ import annotations

import json

from scaleeq import console

console.start()

import torch
from torch import nn

from .calibration_cost import equalized_conv_cost


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[128] * 4, help="channels of the branches")
    parser.add_argument("--out-channels", type=int, default=128)
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=[64, 64], metavar=("HEIGHT", "WIDTH"), help="pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    padding = arguments.kernel // 2
    conv = nn.Conv2d(sum(arguments.widths), arguments.out_channels, arguments.kernel, padding=padding)
    x = torch.randn(arguments.batch, sum(arguments.widths), *arguments.size, device=arguments.device)
    result = equalized_conv_cost(conv.to(arguments.device), x, arguments.widths, rounds=arguments.rounds)
    print(json.dumps({**vars(arguments), **result}))


if __name__ == "__main__":
    console.run(main)
