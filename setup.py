"""Packaging of paddleseg_autoloss."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SOURCE = (ROOT / "paddleseg_autoloss/__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'__version__ = "(.+)"', SOURCE)[1]

#: What the documentation site is made with.
DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.6,<10",
    "mkdocstrings[python]>=1,<2; python_version >= '3.10'",
    "latex2mathml>=3.77,<4",
    "nbconvert>=7.16,<8",
]

setup(
    name="paddleseg-autoloss",
    version=VERSION,
    description="Automatic loss weighting for PaddleSeg",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="paddleseg_autoloss",
    license="Apache-2.0",
    license_files=["LICENSE"],
    project_urls={
        "PaddleSeg": "https://github.com/PaddlePaddle/PaddleSeg",
        "Paddle": "https://www.paddlepaddle.org.cn/install/quick",
    },
    keywords=["segmentation", "PaddleSeg", "loss weighting", "multi-task learning"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    # NumPy 1, which the OpenCV of PaddleSeg 2.8.0 needs, has no wheels for Python 3.13.
    python_requires=">=3.9,<3.13",
    entry_points={"console_scripts": ["autoloss = paddleseg_autoloss.cli.main:main"]},
    packages=[
        *find_packages(include=["paddleseg_autoloss", "paddleseg_autoloss.*"]),
        "paddleseg_autoloss.configs",
    ],
    package_dir={"paddleseg_autoloss.configs": "configs"},
    package_data={
        "paddleseg_autoloss": ["py.typed", "*.pyi", "documents/templates/*"],
        "paddleseg_autoloss.configs": ["**/*.yml", "**/*.py"],
    },
    install_requires=[
        "paddleseg==2.8.0",
        # The OpenCV that PaddleSeg 2.8.0 pins is compiled for NumPy 1; pandas 3.1 needs NumPy 2,
        # and VisualDL's page does not start without pandas.
        "numpy<2",
        "pandas<3.1",
        # fleet of Paddle 2.6.2 fails with protobuf 7.
        "protobuf<7",
        "scipy",
        "visualdl",
        "opencv-python",
        "matplotlib",
        "jinja2>=3",
        "tqdm",
    ],
    extras_require={
        "cpu": ["paddlepaddle>=2.6.2,<3.4"],
        "gpu": ["paddlepaddle-gpu==2.6.2"],
        "docs": DOCS,
        "cluster": ["ray>=2.9,<3"],
        "tensorboard": ["tensorboard"],
        "wandb": ["wandb"],
        "swanlab": ["swanlab>=0.10"],
        "test": [
            *("build", "pytest", "pytest-xdist", "hypothesis", "mypy", "ruff", "types-PyYAML"),
            *("ipykernel", "nbclient", "ray>=2.9,<3", "tensorboard"),
            *DOCS,
        ],
    },
)
