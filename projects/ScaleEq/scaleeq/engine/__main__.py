"""`python -m scaleeq.engine [--require detectron2|standalone]`: which engine runs here, its versions and devices.

Source: this project's design. Exit code 0; or 1 with a sentence on stderr, where there is no engine or another than
required.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys

from scaleeq import console

from . import INSTALL_PAGE, is_detectron2_installed


def parser() -> argparse.ArgumentParser:
    parser = console.parser("Report the training engine: which one runs here, its versions and devices.")
    parser.add_argument("--require", choices=("detectron2", "standalone"), help="fail unless this engine is chosen")
    return parser


def main(argv: list[str] | None = None) -> int:
    command = parser()
    command.prog = "python -m scaleeq.engine"
    return run(command.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Print the report; the exit code."""
    try:
        from . import NAME
    except (ImportError, ValueError) as error:
        print(f"No engine: {error}", file=sys.stderr)
        return 1
    print(report())
    if arguments.require in (None, NAME):
        return 0
    if arguments.require == "detectron2" and not is_detectron2_installed():
        reason = f"Detectron2 is not installed; see {INSTALL_PAGE}"
    else:
        reason = f"set SCALEEQ_ENGINE={arguments.require}"
    print(f"The engine is {NAME}, required was {arguments.require}: {reason}", file=sys.stderr)
    return 1


def report() -> str:
    """One line each: engine, versions, devices."""
    from . import NAME, VERSION

    setting = os.environ.get("SCALEEQ_ENGINE") or "auto"
    versions = {package: package_version(package) for package in ("torch", "torchvision", "timm", "detectron2")}
    if NAME in versions:
        versions[NAME] = VERSION  # also where it is only on the path
    lines = [
        f"engine: {NAME} {VERSION} (SCALEEQ_ENGINE={setting})",
        f"python: {platform.python_version()}",
    ]
    lines += [f"{package}: {version}" for package, version in versions.items()]
    return "\n".join([*lines, f"devices: {', '.join(_devices())}"])


def package_version(package: str) -> str:
    """Of a package that may be missing, or be run from a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    import torch

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


if __name__ == "__main__":
    console.start()
    console.run(main)
