"""Measure what a calibration costs, as a ratio to plain forwards in the same run; prints one JSON object.

With --recording instead what a record of all scales costs, as a ratio to plain training steps.

Example: python -m evidence.benchmark_calibration --config-file configs/quickstart.yaml --size 128 128 --images 32
"""

from __future__ import annotations

import json

from scaleeq import console

console.start()

import torch

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.engine import build_model, load_config
from scaleeq.training import choose_device

from .calibration_cost import calibration_cost
from .recording_cost import recording_cost


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("HEIGHT", "WIDTH"), help="pixels")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recording", action="store_true", help="time records during training instead")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    arguments = parser.parse_args()

    equalized = [] if arguments.recording else ["MODEL.SCALE_EQUALIZER.ENABLED", "True"]
    cfg = load_config(arguments.config_file, [*arguments.opts, *equalized])
    choose_device(cfg)
    model = build_model(cfg)
    shape = (arguments.batch, 3, *arguments.size)
    batches = [torch.randn(shape, device=cfg.MODEL.DEVICE) for _ in range(arguments.images // arguments.batch)]
    if arguments.recording:
        classes, period = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SCALE_EQUALIZER.STATISTICS_PERIOD
        batch = [{"image": x, "sem_seg": torch.randint(classes, x.shape[-2:]).to(x.device)} for x in batches[0]]
        result = recording_cost(model, batch, rounds=arguments.rounds, period=period)
    else:
        result = calibration_cost(model, batches, rounds=arguments.rounds)
    print(json.dumps({"config": arguments.config_file, "size": arguments.size, "batch": arguments.batch, **result}))


if __name__ == "__main__":
    console.run(main)
