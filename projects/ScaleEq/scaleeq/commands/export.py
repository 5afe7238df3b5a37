"""Write a trained model as one file that runs without ScaleEq: ONNX, torch.export's .pt2 or TorchScript.

    scaleeq export NAME_OR_CONFIG --weights model_final.pth -o model.onnx
    scaleeq export run/config.yaml --weights run/model_final.pth -o model.ts

The ending of -o says which: .onnx, .pt2 or .ts. The file takes images (N, 3, H, W), float32, 0 to 255, channels in the
order of INPUT.FORMAT, of any batch, height and width, and gives logits (N, classes, H, W): normalization is in it, and
scale equalizers are folded. It is loaded again and compared with the model at three sizes before it gets its name.
A name of `scaleeq models` that has weights needs no --weights; KEY VALUE pairs at the end override the config. .onnx
needs the extra: pip install 'scaleeq[export]'.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from scaleeq import console
from scaleeq.choices import one_of
from scaleeq.files import require_writable

from .words import refuse_detectors, refuse_early, refuse_weights

STOPPED = "stopped; nothing was written"
ENDINGS = (".onnx", ".pt2", ".ts")


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s NAME_OR_CONFIG [--weights W] -o FILE [KEY VALUE ...]"
    parser.add_argument("config_file", metavar="NAME_OR_CONFIG", help="a config's path or name, with +overlays")
    parser.add_argument("--weights", default="", metavar="W", help="a checkpoint; default MODEL.WEIGHTS of the config")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=", ".join(ENDINGS))
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The words. ValueError: an ending that no format has; OSError: nothing can be written there."""
    arguments = parser.parse_intermixed_args(argv)
    one_of(arguments.output.suffix, ENDINGS, key="the ending of -o")
    require_writable(arguments.output, key="-o")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    early = refuse_early(arguments.config_file, arguments.opts)
    refuse_detectors(
        arguments.config_file,
        arguments.opts,
        why="an exported file has one output of a known size, and a detector finds as many objects as there are",
    )
    refuse_weights(arguments.config_file, early, arguments.weights)
    from scaleeq.engine import SafeCheckpointer, load_config
    from scaleeq.equalization import other_equalizers
    from scaleeq.rewrites.export import export
    from scaleeq.segmentor import without_pretrained
    from scaleeq.training.recipe import Recipe
    from scaleeq.zoo import weights_of

    cfg = load_config(arguments.config_file, arguments.opts)
    weights = weights_of(arguments.config_file, cfg, arguments.weights)
    cfg = without_pretrained(cfg)
    cfg.MODEL.DEVICE = "cpu"
    with console.quiet():
        model = Recipe.build_model(cfg)
        SafeCheckpointer(model, other_model=other_equalizers).load_weights(weights)
    result = export(model, arguments.output)
    sizes = ", ".join(f"{height}x{width}" for height, width in result.sizes)
    print(f"{result.path}: equals the model at {sizes} to {result.difference:.1e}")
    if result.refused:
        refused = ", ".join(f"{height}x{width}" for height, width in result.refused)
        print(f"{result.path} takes no images as small as {refused}: torch.export's guards refuse them")
