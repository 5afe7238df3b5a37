"""A model as one file that runs without this package: ONNX, torch.export's .pt2, or TorchScript.

    result = export(model, "model.onnx")  # equalizers folded; any batch, height and width
    session = onnxruntime.InferenceSession("model.onnx")
    (logits,) = session.run(None, {"images": images})  # (N, 3, H, W) -> (N, K, H, W), float32

Before the file gets its name, it is loaded again and compared with the model at three sizes that are not the traced
one: a smaller, a larger and an odd one. A graph that has kept something of the traced size is so refused, not written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from timm.layers import Conv2dSame
from torch import nn

from scaleeq.choices import one_of
from scaleeq.console import quiet
from scaleeq.equalization import fold_equalizers
from scaleeq.extras import require
from scaleeq.files import replacing
from scaleeq.model import DenseModel, ScaleEqSegmentor

from .any_size import interpolated, of_any_size, pads_by_parity

Size = tuple[int, int]  # height and width, pixels
Run = Callable[[torch.Tensor], torch.Tensor]

# Each level down to stride 512 has more than one pixel there, and no two have one size: nothing looks special.
TRACED: Size = (645, 549)
CHECKED: tuple[tuple[int, int, int], ...] = ((3, 96, 64), (1, 672, 704), (1, 333, 427))  # batch, height, width
OPSET = 20  # has DeformConv (19) and GridSample; onnxruntime runs both
GUARDED = ("Guard failed", "Runtime assertion failed")  # how a .pt2 says that it does not take a size
TOLERANCE = 1e-4  # of the largest logit, at least of 1


class Exported(NamedTuple):
    """path: of the file. difference: the largest, of the output at any checked size, by TOLERANCE's measure.

    sizes: (height, width) that were compared. refused: those that a .pt2 refuses by its own guards, in an error.
    """

    path: Path
    difference: float
    sizes: list[Size]
    refused: list[Size]


class Deployed(nn.Module):
    """images: (N, C, H, W), float32 -> the prediction (N, K, H, W).

    Of a `Segmentation`, or any module that takes them, images are normalized; a `ScaleEqSegmentor` brings its own
    normalization, so they are in its units (0..255) and order of channels (INPUT.FORMAT).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.segments = isinstance(model, DenseModel)
        mean, std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        if isinstance(model, ScaleEqSegmentor):
            mean, std = model.pixel_mean.clone(), model.pixel_std.clone()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.normalizes = isinstance(model, ScaleEqSegmentor)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: (N, C, H, W) -> (N, K, H, W)."""
        x = (images - self.mean) / self.std if self.normalizes else images
        if not self.segments:
            return self.model(x)
        return interpolated(self.model.logits(x), images.shape[-2:])  # type: ignore[operator]


def export(model: nn.Module, path: str | os.PathLike[str]) -> Exported:
    """Write a model of images (N, C, H, W) as the file that the path's ending says, checked; the model stays as it is.

    Args:
        model: create_model's, a config's, or any module of one tensor to one tensor; its equalizers are folded.
        path: ends with .onnx, .pt2 (torch.export) or .ts (TorchScript).

    Raises:
        ValueError: another ending; equalizers that are not calibrated; a file that does not compute what the model
            does, or cannot be made. Then there is no file, or the one from before.
        ImportError: onnx, onnxscript or onnxruntime is missing.
    """
    path = Path(path)
    write = WRITERS[one_of(path.suffix, WRITERS, key="the ending of an exported file")]
    plain = folded(model)
    channels = plain.mean.shape[0]
    rewritten = of_any_size(plain, operator=path.suffix == ".onnx")
    with quiet(), torch.no_grad():
        example = torch.zeros(2, channels, *TRACED)
        with replacing(path) as part:
            try:
                run = write(rewritten, example, part)
            except (ValueError, ImportError, OSError):
                raise
            except Exception as error:  # each exporter has many errors of its own
                raise ValueError(f"{path.suffix} cannot hold this model: {first_line(error)}") from error
            return compared(plain, run, path, channels)


def folded(model: nn.Module) -> Deployed:
    """The model in eval mode, float32 and on the CPU, without equalizers, as an export hands it on."""
    if isinstance(model, DenseModel) and model.is_joint:
        raise ValueError(
            f"the model has several tasks ({', '.join(model.tasks)}), and an exported file has one output; export a "
            "model of one task"
        )
    divisibility = getattr(getattr(model, "backbone", None), "size_divisibility", 0)
    if isinstance(model, ScaleEqSegmentor) and divisibility > 1:
        raise ValueError(
            f"the backbone pads images to multiples of {divisibility} pixels, which an exported graph does not; "
            "export a model of MODEL.BACKBONE.NAME build_timm_backbone"
        )
    try:
        return Deployed(fold_equalizers(model)).eval().cpu().float()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def compared(model: nn.Module, run: Run, path: Path, channels: int) -> Exported:
    """What the file computes beside what the model does; ValueError where they differ."""
    worst, sizes, refused, why = 0.0, list[Size](), list[Size](), ""
    generator = torch.Generator().manual_seed(0)
    scale = 255.0 if getattr(model, "normalizes", False) else 1.0
    for batch, *size in CHECKED:
        images = scale * torch.rand(batch, channels, *size, generator=generator)
        expected = model(images)
        try:
            found = run(images)
        except Exception as error:  # of onnxruntime, of torch's guards, or of an operator
            if path.suffix != ".pt2" or not any(words in str(error) for words in GUARDED):
                raise ValueError(f"{path.name} does not run at {size[0]}x{size[1]}: {first_line(error)}") from error
            why = first_line(error)
            refused.append((size[0], size[1]))
            continue
        if found.shape != expected.shape:
            raise ValueError(f"{path.name} gives {tuple(found.shape)} where the model gives {tuple(expected.shape)}")
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{path.name} is not written: at {size[0]}x{size[1]} it differs from the model by {difference:.1e}, "
                f"more than {TOLERANCE:.0e}; something in the model keeps the traced size {TRACED[0]}x{TRACED[1]}"
            )
        worst = max(worst, difference)
        sizes.append((size[0], size[1]))
    if not sizes:
        raise ValueError(
            f"{path.name} is not written: it takes no size but the traced one, {TRACED[0]}x{TRACED[1]}: {why}; "
            "export it as .onnx or .ts"
        )
    return Exported(path, worst, sizes, refused)


# ------------------------------------------------------------------------------------------------------- three formats


def write_onnx(model: nn.Module, example: torch.Tensor, part: Path) -> Run:
    """ONNX with the input "images" and the output "logits"; run by onnxruntime."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, why="An ONNX file is wanted, but ")
    import onnxruntime

    program = torch.onnx.export(
        program_of_any_size(model, example),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.save(str(part))
    session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        return torch.from_numpy(logits)

    return run


def write_pt2(model: nn.Module, example: torch.Tensor, part: Path) -> Run:
    """torch.export's archive."""
    program = program_of_any_size(model, example)
    with part.open("wb") as file:
        torch.export.save(program, file)
    with part.open("rb") as file:
        return torch.export.load(file).module()


def write_torchscript(model: nn.Module, example: torch.Tensor, part: Path) -> Run:
    """A TorchScript trace, which torch runs without Python's classes."""
    torch.jit.save(torch.jit.trace(model, example, check_trace=False), str(part))
    return torch.jit.load(str(part))


WRITERS: dict[str, Callable[[nn.Module, torch.Tensor, Path], Run]] = {
    ".onnx": write_onnx,
    ".pt2": write_pt2,
    ".ts": write_torchscript,
}


def program_of_any_size(model: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """The graph of torch.export, of any batch, height and width.

    ValueError: convolutions that pad by the image's size, on whose nested sizes torch.export works without an end.
    """
    if any(isinstance(module, Conv2dSame) and not pads_by_parity(module) for module in model.modules()):
        raise ValueError(
            "the backbone pads its convolutions by the image's size (timm's 'same' padding) with a stride that is not "
            "2 or a dilation, which torch.export does not come to an end with; export it as .ts"
        )
    dynamic = torch.export.Dim.DYNAMIC
    return torch.export.export(
        model,
        (example,),
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
