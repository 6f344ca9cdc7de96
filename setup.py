# Copyright (c) 2026 PaddlePaddle Authors. All Rights Reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""Packaging of ``ppmat``; the settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages
from setuptools import setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Return ``__version__`` of ``ppmat/__init__.py`` without importing it."""
    text = (ROOT / "ppmat" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('ppmat/__init__.py has no line __version__ = "x.y.z"')
    return match.group(1)


# Lower bounds are versions the tests named in CONTRIBUTING.md pass with on Python 3.10.
# scipy's is that of pymatgen; omegaconf before 2.4 pulls antlr4 4.9, which has no wheel
# on PyPI; ase before 3.26 loses the constraints of extxyz files; Paddle before 3.3 has
# no second derivatives of some operators and cannot restore the random state of a named
# device.
CORE = [
    "numpy>=1.26",
    "scipy>=1.13",
    "pymatgen>=2024.10.29",
    "lmdb>=1.5.1",
    "omegaconf>=2.4",
    "tqdm>=4.66.3",
    "ase>=3.29",
    "matplotlib>=3.8",
    # Microscope images: PNG, TIFF, MRC.
    "pillow>=11.0",
    "tifffile>=2024.8.30",
    "mrcfile>=1.5.3",
]

# Files for machines without Paddle, and what checks them. No converter: Paddle2ONNX has
# no wheel for Python 3.13.
CLUSTER = ["dask[distributed]>=2024.8"]
ONNX = ["onnx>=1.17", "onnxruntime>=1.20"]

setup(
    name="ppmat",
    version=read_version(),
    description="PaddleMaterials with SFIN, a spatial-frequency interactive network, "
    "for adsorbate-on-slab structures and microscopy images",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="PaddlePaddle Authors",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["ppmat", "ppmat.*"]),
    # Trained models, see ppmat/utils/model_package.py.
    package_data={
        "ppmat.models": [
            f"packages/*/{name}"
            for name in ("*.yaml", "train.log", "checkpoints/best.pdparams")
        ]
    },
    install_requires=CORE,
    extras_require={
        "cpu": ["paddlepaddle>=3.3"],
        "test": [
            "pytest>=8",
            "hypothesis>=6.100",
            "setuptools>=70.1",
            "nbclient>=0.10",  # runs docs/notebooks
            "ipykernel>=6.29",
            *ONNX,
            *CLUSTER,
        ],
        "onnx": ONNX,
        # Exploration and labels of distil.py on many machines; dask-jobqueue starts
        # workers with SLURM or PBS.
        "cluster": CLUSTER,
        # Teachers of distil.py. They bring PyTorch; nothing else here needs it.
        "chgnet": ["chgnet>=0.4.2"],
        "sevenn": ["sevenn>=0.13"],
        "diep": ["diep>=2"],
        "tblite": ["tblite>=0.8"],  # LGPL
        "smiles": ["rdkit>=2024.3"],  # adsorbates of sample.py --mode=place
        "dev": ["ruff==0.17.5", "pre-commit>=4"],
        "generator": ["fairchem-data-oc==0.0.1"],
        # GPL (RosettaSciIO: dm3, dm4, emd, ser, hspy), so never a core dependency;
        # h5py (a part of its [hdf5]) tells its HDF5 files apart; imagecodecs for
        # compressed TIFF.
        "stem": ["rosettasciio[hdf5]>=0.9", "h5py>=3.8", "imagecodecs>=2024.12.30"],
        # GPL as well: multislice simulation, which needs Python 3.11 and numpy 2.
        "abtem": ["abtem>=1.0.11; python_version>='3.11'"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Chemistry",
        "Topic :: Scientific/Engineering :: Physics",
    ],
)
