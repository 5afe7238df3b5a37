"""Export every decoder's family, and run the files beside torch: docs/results/export.json.

    OMP_NUM_THREADS=1 python -m evidence.benchmark_export [--families uper psp] [--size 256 256] [--rounds 7]

A file is checked at three sizes by the export itself; the largest difference is its own. Its time is a ratio to the
plain model's in torch, with the batch norms that the export folds unfolded and no equalizers, one image, in turns in
one process, one thread each. Of random weights: a time does not depend on them. A family is replaced where it is there.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scaleeq import console

console.start()

import torch

import scaleeq
from scaleeq.decoders import PyramidOptions
from scaleeq.equalization import EqualizerSpec, calibrate, equalize_fusions
from scaleeq.files import read_json, write_json
from scaleeq.training.timing import quartiles

from .collected import command_line
from .decoder_speed.rounds import timed

RESULT = Path(__file__).parents[1] / "docs" / "results" / "export.json"
CHANNELS, CLASSES = 64, 19
FAPN: dict[str, Any] = {"pyramid": PyramidOptions(name="fapn", channels=CHANNELS)}
# Family -> decoder, backbone, options of the decoder.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "UPer": ("uper", "resnet18", {}),
    "UPer, FaPN": ("uper", "resnet18", FAPN),
    "UPer, EfficientNet-Lite0": ("uper", "tf_efficientnet_lite0", {}),
    "PSP": ("psp", "resnet18", {}),
    "ASPP": ("aspp", "resnet18", {}),
    "SepASPP": ("sep_aspp", "resnet18", {}),
    "FCN": ("fcn", "resnet18", {}),
    "semantic FPN": ("semantic_fpn", "resnet18", {}),
    "ESeg": ("eseg", "resnet18", {}),
}


def measured(family: str, folder: Path, *, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """One family's model, equalized, as ONNX: its difference and size, and its time beside torch's."""
    import onnxruntime

    decoder, backbone, options = FAMILIES[family]
    torch.manual_seed(0)
    model = scaleeq.create_model(decoder, backbone, num_classes=CLASSES, channels=CHANNELS, options=options).eval()
    equalize_fusions(model, EqualizerSpec())
    calibrate(model, [torch.randn(2, 3, 128, 128) for _ in range(2)])
    result = scaleeq.export(model.eval(), folder / "model.onnx")
    # The same images, in turns.
    choices = onnxruntime.SessionOptions()
    choices.intra_op_num_threads = choices.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(result.path), choices, providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, *size)
    given = {session.get_inputs()[0].name: images.numpy()}
    plain = scaleeq.fold_equalizers(model).eval()
    times: dict[str, list[float]] = {"torch": [], "file": []}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, turn in (("torch", lambda: plain(images)), ("file", lambda: session.run(None, given))):
                seconds, _ = timed(turn, "cpu")
                if number:  # the first round warms up
                    times[name].append(seconds)
    return {
        "decoder": decoder,
        "backbone": backbone,
        "difference": result.difference,
        "sizes": [list(each) for each in result.sizes],
        "file_mb": result.path.stat().st_size / 1e6,
        "torch_s": sorted(times["torch"])[rounds // 2],
        "ratio_quartiles": quartiles([a / b for a, b in zip(times["file"], times["torch"], strict=True)]),
    }


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--size", type=int, nargs=2, default=[256, 256], help="height and width of the image, pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    import onnxruntime

    torch.set_num_threads(1)
    found: dict[str, Any] = read_json(arguments.output) if arguments.output.is_file() else {"families": {}}
    about = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "size": arguments.size}
    about |= {"rounds": arguments.rounds, "channels": CHANNELS, "cores": os.cpu_count()}
    about |= {"command": command_line("benchmark_export")}
    for family in arguments.families:
        with TemporaryDirectory() as folder:
            row = measured(family, Path(folder), size=tuple(arguments.size), rounds=arguments.rounds)
        done = {**found["families"], family: {**row, **about}}
        found["families"] = {name: done[name] for name in FAMILIES if name in done}
        write_json(arguments.output, found, indent=1)
        print(
            f"{family}: {row['difference']:.1e}, {row['file_mb']:.1f} MB, {row['ratio_quartiles'][1]:.2f}", flush=True
        )


if __name__ == "__main__":
    console.run(main)
