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

"""The readers that are fuzzed, and the valid inputs that are damaged.

Seeds are made of the shipped examples with fixed random numbers, so that a campaign is
the same everywhere.
"""

from __future__ import annotations

import dataclasses
import io
import json
import lzma
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

import ase.io
import lmdb
import numpy as np
from ase import Atoms

from benchmarks.fuzz import image_seeds
from benchmarks.fuzz import vasp_seeds
from benchmarks.runs import ROOT
from ppmat.datasets import pyg_pickle
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.structure_reader import Unreadable
from ppmat.datasets.structure_reader import iter_structures
from ppmat.datasets.structure_record import structure_to_record
from ppmat.datasets.submission import read_submission
from ppmat.datasets.submission import write_energy_submission
from ppmat.datasets.submission import write_submission
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.utils import torch_checkpoint
from ppmat.utils.archives import unpack_archive
from ppmat.utils.config import load_config
from ppmat.utils.errors import InputError
from ppmat.utils.save_load import load_file

_RECORDS = ROOT / "structure_generation/example_data/oc20_emt/val_id/data.lmdb"
_CONFIGS = ROOT / "structure_generation/configs/sfin"
_TORCH_FILES = ROOT / "test/data"
_GRAPH = PeriodicGraphConverter()
_CLOSEST = 0.5  # Å


@dataclasses.dataclass(frozen=True)
class Reader:
    """One reader: how it reads a file, and what valid files are.

    Args:
        share: Of 1000 inputs, how many are for this reader.
        file: Name of the file that is read.
        read: Reads a file; raises ``InputError`` for a bad one.
        seeds: Returns valid files as bytes.
        text: Whether they are text.
    """

    share: int
    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], Sequence[bytes]]
    text: bool = False


# What is read ------------------------------------------------------------------------


def _read_record(path: Path) -> None:
    fields = pyg_pickle.loads(path.read_bytes(), str(path))
    _use(OC20Record.from_fields(fields, str(path), "0"))


def _read_lmdb(path: Path) -> None:
    rows = OC20LMDB(path)
    if len(rows) > 20:
        raise InputError(f"{len(rows)} rows are more than were written")
    faults = []
    for number in range(len(rows)):
        try:
            _use(rows[number])
        except InputError as error:
            faults.append(error)
    if faults:
        raise faults[0]


def _read_structures(path: Path) -> None:
    for structure in iter_structures([str(path)]):
        if isinstance(structure, Unreadable):
            raise InputError(structure.reason)
        if isinstance(structure, Atoms):
            structure = structure_to_record(structure, warn=False, missing_tags="guess")
        _use(structure)


def _use(record: OC20Record) -> None:
    """Make the graph of a record, as a training or a prediction does."""
    record_to_sample(record, build_graph=_GRAPH, closest=_CLOSEST)


def _read_archive(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        unpack_archive(path, Path(folder))


# Valid inputs ------------------------------------------------------------------------


def _records(count: int) -> list[OC20Record]:
    rows = OC20LMDB(_RECORDS)
    return [rows[number] for number in range(count)]


def _record_seeds() -> list[bytes]:
    bare = [record.to_fields() for record in _records(3)]
    edges = np.arange(12).reshape(2, 6)
    extra = {"edge_index": edges, "cell_offsets": np.zeros((6, 3), np.int64)}
    return [
        pyg_pickle.dumps(fields, generation)
        for fields in (*bare, {**bare[0], **extra})
        for generation in pyg_pickle.GENERATIONS
    ]


def _lmdb_seeds() -> list[bytes]:
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for count, generation in ((1, "old"), (4, "new")):
            path = Path(folder) / f"{generation}.lmdb"
            write_lmdb(path, _records(count), generation)
            seeds.append(path.read_bytes())
    return seeds


def _torch_seeds() -> list[bytes]:
    names = "torch_kinds torch_kinds_legacy torch_state_dict torch_run".split()
    return [(_TORCH_FILES / f"{name}.pth").read_bytes() for name in names]


def _paddle_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    weights = {f"layer{i}.weight": rng.random((3, 4), np.float32) for i in range(4)}
    names = {"StructuredToParameterName@@": {name: name for name in weights}}
    states = {"epoch": 3, "run": {"ranks": [{"numpy": ("MT19937", weights)}]}}
    values = [{**weights, **names}, {"moment": weights, "LR_Scheduler": {"last": 1}}]
    values += [states, {"scale": np.float32(2.0), "steps": [1, 2, 3]}]
    return [pickle.dumps(v, protocol) for v in values for protocol in (2, 4)]


def _structure_seeds(suffix: str, form: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        slabs = ase.io.read(ROOT / "structure_generation/example_data/slabs.traj", ":3")
        pieces = [slabs[:1], slabs[1:2]]
        if form in _OF_MANY_FRAMES:
            pieces.append(slabs)
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for number, images in enumerate(pieces):
                path = Path(folder) / f"seed_{number}{suffix}"
                ase.io.write(path, images, format=form)
                found.append(path.read_bytes())
        return found

    return seeds


def _packed_seeds() -> list[bytes]:
    seeds = _structure_seeds(".extxyz", "extxyz")()
    return [lzma.compress(data) for data in seeds]


def _pymatgen_seeds() -> list[bytes]:
    slab = ase.io.read(ROOT / "structure_generation/example_data/slabs.traj", 0)
    sites = [
        {
            "species": [{"element": symbol, "occu": 1}],
            "abc": place.tolist(),
            "properties": {"tags": int(tag), "selective_dynamics": [tag > 0] * 3},
        }
        for symbol, place, tag in zip(
            slab.symbols, slab.get_scaled_positions(), slab.get_tags().tolist()
        )
    ]
    content = {"lattice": {"matrix": slab.cell.tolist()}, "sites": sites}
    return [json.dumps(content).encode(), json.dumps([content] * 2).encode()]


def _json_seeds() -> list[bytes]:
    return _structure_seeds(".json", "json")() + _pymatgen_seeds()


def _aselmdb_seeds() -> list[bytes]:
    """Rows of an ASE database, under their numbers in an LMDB file."""
    database = json.loads(_structure_seeds(".json", "json")()[-1])
    entries = {key: database[key] for key in map(str, database["ids"])}
    entries["nextid"] = database["nextid"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.aselmdb"
        with lmdb.open(str(path), subdir=False, map_size=1 << 20, lock=False) as env:
            with env.begin(write=True) as transaction:
                for key, value in entries.items():
                    packed = zlib.compress(json.dumps(value).encode())
                    transaction.put(key.encode(), packed)
        return [path.read_bytes()]


def _noise_seeds() -> list[bytes]:
    models = [NoiseModel(), NoiseModel(mode="bf", fast_axis=0)]
    return [model.to_json().encode() for model in models]


def _config_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(_CONFIGS.glob("*.yaml"))]


def _submission_seeds() -> list[bytes]:
    splits = ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")
    structures = {s: [("1", np.zeros((3, 3))), ("2", np.ones((2, 3)))] for s in splits}
    energies = {s: [("1", -0.5), ("2", 1.5)] for s in splits}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.npz"
        write_submission(path, structures)
        found = [path.read_bytes()]
        write_energy_submission(path, energies)
        return [*found, path.read_bytes()]


_OF_MANY_FRAMES = ("traj", "extxyz", "db", "json")
_MEMBERS = {"weights/a.txt": b"text " * 40, "weights/deep/b.bin": bytes(range(256)) * 4}


def _zip_seeds() -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in _MEMBERS.items():
                archive.writestr(zipfile.ZipInfo(name), data, method)
        found.append(out.getvalue())
    return found


def _tar_seeds() -> list[bytes]:
    found = []
    for mode in ("w", "w:gz", "w:xz"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as archive:
            for name, data in _MEMBERS.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("weights/link")
            link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
            archive.addfile(link)
        found.append(out.getvalue())
    return found


def _image(share: int, suffix: str, seeds: Callable[[], list[bytes]]) -> Reader:
    return Reader(share, f"input{suffix}", read_micrograph, seeds)


def _structures(
    share: int, file: str, seeds: Callable[[], list[bytes]], text: bool = True
) -> Reader:
    return Reader(share, file, _read_structures, seeds, text)


def _of_ase(share: int, suffix: str, form: str, text: bool = True) -> Reader:
    """Return the reader of a format that ASE also writes."""
    return _structures(share, f"input{suffix}", _structure_seeds(suffix, form), text)


READERS = {
    "OC20 record (pickle)": Reader(150, "input.pkl", _read_record, _record_seeds),
    "LMDB file": Reader(60, "input.lmdb", _read_lmdb, _lmdb_seeds),
    "PyTorch weights": Reader(80, "input.pth", torch_checkpoint.load, _torch_seeds),
    "Paddle weights": Reader(80, "input.pdparams", load_file, _paddle_seeds),
    "extxyz": _of_ase(50, ".extxyz", "extxyz"),
    "CIF": _of_ase(30, ".cif", "cif"),
    "POSCAR": _of_ase(30, ".vasp", "vasp"),
    "OUTCAR": _structures(20, "OUTCAR", lambda: [vasp_seeds.outcar()]),
    "vasprun.xml": _structures(20, "vasprun.xml", lambda: [vasp_seeds.vasprun()]),
    "ASE trajectory": _of_ase(30, ".traj", "traj", text=False),
    "ASE database (SQLite)": _of_ase(20, ".db", "db", text=False),
    "ASE, pymatgen (JSON)": _structures(20, "input.json", _json_seeds),
    "ASE database (LMDB)": _structures(20, "input.aselmdb", _aselmdb_seeds, False),
    "packed extxyz": _structures(10, "input.extxyz.xz", _packed_seeds, False),
    "PNG": _image(60, ".png", image_seeds.png),
    "TIFF": _image(80, ".tif", image_seeds.tiff),
    "npy": _image(30, ".npy", image_seeds.npy),
    "MRC": _image(30, ".mrc", image_seeds.mrc),
    "DigitalMicrograph": _image(40, ".dm3", image_seeds.digital_micrograph),
    "EMD": _image(20, ".emd", image_seeds.emd),
    "HSPY": _image(10, ".hspy", image_seeds.hspy),
    "SER": _image(30, ".ser", image_seeds.ser),
    "noise model (JSON)": Reader(20, "input.json", NoiseModel.load, _noise_seeds, True),
    "configuration (YAML)": Reader(20, "input.yaml", load_config, _config_seeds, True),
    "submission (npz)": Reader(20, "input.npz", read_submission, _submission_seeds),
    "zip archive": Reader(10, "input.zip", _read_archive, _zip_seeds),
    "tar archive": Reader(10, "input.tar.gz", _read_archive, _tar_seeds),
}
