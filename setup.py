"""Packaging of paddleseg_autoloss."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "paddleseg_autoloss/__init__.py").read_text())[
    1
]

setup(
    name="paddleseg-autoloss",
    version=VERSION,
    description="Automatic loss weighting for PaddleSeg",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.9",
    entry_points={"console_scripts": ["autoloss = paddleseg_autoloss.cli.main:main"]},
    packages=find_packages(include=["paddleseg_autoloss", "paddleseg_autoloss.*"]),
    package_data={"paddleseg_autoloss": ["py.typed"]},
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
        "tqdm",
    ],
    extras_require={
        "cpu": ["paddlepaddle>=2.6.2,<3.4"],
        "gpu": ["paddlepaddle-gpu==2.6.2"],
        "test": ["pytest", "pytest-xdist", "hypothesis", "mypy", "ruff", "types-PyYAML"],
    },
)
