"""Installs the one package, `scaleeq`, from projects/ScaleEq. Nothing is compiled."""

from setuptools import find_packages, setup

SOURCE = "projects/ScaleEq"

REQUIREMENTS = [
    "torch>=2.4",
    "torchvision>=0.19",  # each release requires the torch that it was built for, so the two match
    "timm>=1.0.9",
    "fvcore>=0.1.5",
    "iopath>=0.1.7,<0.1.10",  # Detectron2's own bound
    "yacs>=0.1.8",
    "pyyaml>=5.1",
    "pycocotools>=2.0.2",
    "opencv-python>=4.5",
    "numpy>=1.23",
    "pillow>=9.3",
    "tqdm>=4.29",
    "tensorboard>=2.10",
    "matplotlib>=3.7",
    "jinja2>=3.0",  # torch needs it too
    "scipy>=1.10",
    "tabulate",
    "termcolor>=1.1",
]
# What tools/prepare_dataset.py reads MATLAB's files with.
PREPARE = ["h5py>=3.0", "scipy>=1.10"]
# Other libraries whose models docs/any_model.md equalizes.
MODELS = ["segmentation-models-pytorch>=0.4", "transformers>=4.40"]
TEST = [
    *PREPARE,
    *MODELS,
    "cityscapesscripts>=2.2",
    "import-linter>=2.1",
    "markdown-it-py>=3.0",
    "pytest>=8.0",
    "pytest-timeout>=2.2",
    "pytest-xdist>=3.5",
    "torchmetrics>=1.4",
]
DEV = [*TEST, "mypy>=1.11", "pre-commit>=3.0", "ruff>=0.6"]

setup(
    name="scaleeq",
    version="0.1.0",
    description="Multi-scale feature fusion for semantic segmentation, and scale equalizers for it",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"": SOURCE, "scaleeq.configs": "configs"},
    packages=[*find_packages(SOURCE), "scaleeq.configs"],
    package_data={"scaleeq": ["**/*.json", "**/*.html", "**/*.css"], "scaleeq.configs": ["**/*.yaml"]},
    entry_points={"console_scripts": ["scaleeq = scaleeq.__main__:main"]},
    install_requires=REQUIREMENTS,
    extras_require={"test": TEST, "dev": DEV, "prepare": PREPARE, "models": MODELS, "wandb": ["wandb>=0.16"]},
)
