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


"""The command that writes synthetic data sets."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.build import mx2
from ase.io import write
from ase.spacegroup import crystal
from PIL import Image

from ppmat.commands.synthesize import main
from ppmat.commands.synthesize import split_counts
from ppmat.datasets.sfin_dataset import SFINDataset
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.utils.files import locked

ROOT = str(Path(__file__).resolve().parents[1])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Run in a folder with structures and a noise model."""
    monkeypatch.chdir(tmp_path)
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    cell = [3.905] * 3 + [90] * 3
    write("sto.cif", crystal(["Sr", "Ti", "O"], sites, spacegroup=221, cellpar=cell))
    write("mos2.cif", mx2("MoS2", a=3.18, vacuum=10))
    write("water.xyz", molecule("H2O"))
    NoiseModel(pointwise_intercept=8.0).save("noise.json")
    return tmp_path


def run(*options, structure=("sto.cif",), output="set"):
    words = ["--noise", "noise.json", "-o", output, "--size", "32", "40", *options]
    return main([*(("--structure", *structure) if structure else ()), *words])


def pictures(folder):
    return {
        path.relative_to(folder): np.asarray(Image.open(path))
        for path in sorted(folder.rglob("*.png"))
    }


def test_a_set_of_crystals_with_defects(here, capsys):
    options = (
        *("-n", "5", "--test_share", "0.4", "--thickness", "20", "80"),
        *("--zone_axis", "0", "0", "1", "--zone_axis", "1", "1", "0"),
        *("--pixel_size", "0.15", "0.2", "--vacancies", "0.02"),
        *("--substitute", "Mo:W:0.5", "--adatoms", "Pt:0.5", "--strain", "0.01"),
        *("--local_strain", "0.1", "--grain_boundary", "0.5"),
    )
    assert run(*options, structure=("*.cif",)) == 0
    assert "3 train, 2 test" in capsys.readouterr().out
    train = SFINDataset("set", "train", val_ratio=0.3)
    assert len(train) == 2 and len(SFINDataset("set", "test")) == 2
    assert train[0]["noisy"].shape == (1, 32, 40)
    record = json.loads((here / "set/synthesis.json").read_text())
    assert {"sto", "mos2"} == {
        s["structure"] for s in record["settings"]["scenes"]["specimens"]
    }
    assert "--thickness 20 80" in record["command"] and record["versions"]["numpy"]
    for path in sorted((here / "set").glob("*/columns/*.json")):
        image = json.loads(path.read_text())
        assert 0.15 <= image["pixel_size"] <= 0.2
        kinds = [defect["defect"] for defect in image["defects"]]
        assert {"vacancies", "adatoms", "strain", "local strain"} <= set(kinds)
        assert ("substitution" in kinds) == (image["structure"] == "mos2")
        header = path.with_suffix(".csv").read_text().splitlines()[0].split(",")
        assert header[:5] == ["y", "x", "y_angstrom", "x_angstrom", "element"]


def test_the_same_command_goes_on_and_another_one_is_refused(here, capsys):
    assert run("-n", "4") == 0
    first = pictures(here / "set")
    assert len(first) == 12
    assert len(list((here / "set").glob("*/gt_superresolution/*.tif"))) == 4
    for number in (0, 2):
        (here / f"set/train/noisy/{number}.png").unlink()
    assert run("-n", "4") == 0
    again = pictures(here / "set")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert run("-n", "4", "--seed", "1") == 2
    assert "run with other seed" in capsys.readouterr().out
    assert run("-n", "4", "--seed", "1", "--overwrite") == 0
    other = pictures(here / "set")
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_random_scenes_and_bf(here):
    NoiseModel(mode="bf").save("noise.json")
    for structure, output in (((), "random"), (("mos2.cif",), "mos2")):
        assert run("-n", "2", structure=structure, output=output) == 0
        clean = np.asarray(Image.open(here / output / "train/gt_enhance/0.png"))
        assert clean.shape == (32, 40)
        assert not (here / output / "train/gt_superresolution").exists()
        record = json.loads((here / output / "synthesis.json").read_text())
        assert "mode" in record["settings"]["noise"]
    drawn = json.loads((here / "mos2/train/columns/0.json").read_text())
    assert -20 <= drawn["defocus"] <= 20 and drawn["semiangle"] == 22
    # Thin BF: dark columns on a bright ground.
    spots = np.asarray(Image.open(here / "mos2/train/gt_detect/0.png")) > 200
    clean = np.asarray(Image.open(here / "mos2/train/gt_enhance/0.png"))
    assert clean[spots].mean() < clean[~spots].mean() - 20


def test_float_images_are_not_rounded(here):
    assert run("-n", "1", "--test_share", "0", "--format", "tif") == 0
    image = np.asarray(Image.open(here / "set/train/noisy/0.tif"))
    assert image.dtype == np.float32 and np.any(image != np.rint(image))


def test_noise_in_other_units_becomes_grey_levels(here, capsys):
    NoiseModel(pointwise_intercept=8.0).scaled(1e-3, 0.0).save("noise.json")
    assert run("-n", "1") == 0
    assert "grey level = " in capsys.readouterr().out
    record = json.loads((here / "set/synthesis.json").read_text())
    assert record["grey_levels"]["factor"] > 500
    clean = np.asarray(Image.open(here / "set/train/gt_enhance/0.png"))
    assert np.ptp(clean) > 60
    assert record["clipped_share_of_noisy_pixels"] < 0.02


def test_a_structure_that_cannot_be_read_is_left_out(here, capsys):
    (here / "bad.cif").write_text("nothing")
    assert run("-n", "1", structure=("bad.cif", "sto.cif")) == 1
    assert "left out: bad.cif" in capsys.readouterr().out
    assert run("-n", "1", structure=("bad.cif",), output="none") == 2
    assert not (here / "none").exists()


@pytest.mark.parametrize(
    "options, structure, message",
    [
        (("--thickness", "50"), (), "--thickness goes with --structure"),
        (("--thickness", "50"), ("mos2.cif",), "none of the structures repeats"),
        (("--thickness", "80", "50"), ("sto.cif",), "the lower first"),
        (("--pixel_size", "0"), ("sto.cif",), "above 0"),
        (("--pixel_size", "1.5"), ("sto.cif",), "pixel of 1.5 Å is too large"),
        (("--pixel_size", ".1", ".7"), ("sto.cif",), "pixel of 0.7 Å is too large"),
        (
            ("--pixel_size", "0.012"),
            ("sto.cif",),
            "shows 0.384 x 0.48 Å, but columns are 1.95 Å apart",
        ),
        (("--vacancies", "1"), ("sto.cif",), "leave no atoms in view"),
        (("--vacancies", "S:0.1"), ("sto.cif",), "none of the structures has S"),
        (("--vacancies", "much"), ("sto.cif",), "wanted --vacancies"),
        (("--vacancies", "3"), ("sto.cif",), "must be 0 to 1"),
        (("--substitute", "Sr:0.1"), ("sto.cif",), "ELEMENT:BY:SHARE"),
        (("--substitute", "Sr:Qq:0.1"), ("sto.cif",), "'Qq' is no element"),
        (("--adatoms", "Pt:-1"), ("sto.cif",), "at least 0"),
        (("--strain", "-1"), ("sto.cif",), "--strain=-1"),
        (("--grain_boundary", "2"), ("sto.cif",), "--grain_boundary=2"),
        (("--mode", "bf"), ("sto.cif",), "measured on haadf"),
        (("--defocus", "5"), ("sto.cif",), "--defocus is for BF images"),
        (("--direction", "1", "0.3", "0.2"), ("sto.cif",), "does not repeat"),
        (("--zone_axis", "0", "0", "0"), ("sto.cif",), "sto: zone axis"),
        (("--size", "4"), ("sto.cif",), "at least 16"),
        (("-n", "0"), ("sto.cif",), "--number=0"),
        (("--test_share", "2"), ("sto.cif",), "--test_share=2"),
        (("--seed", "-1"), ("sto.cif",), "--seed=-1"),
        ((), ("missing.cif",), "not found: missing.cif"),
        (("--noise", "sto.cif"), ("sto.cif",), "is not JSON"),
        (("--noise", "none.json"), ("sto.cif",), "none.json"),
        (
            ("--direction", "0", "0", "1", "--zone_axis", "0", "0", "1"),
            ("sto.cif",),
            "not both",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    here, capsys, options, structure, message
):
    assert run("-n", "1", *options, structure=structure) == 2
    assert message in capsys.readouterr().out
    assert not (here / "set").exists()


def test_what_is_there_outlasts_a_refusal_and_the_corrected_command_goes_on(here):
    assert run("-n", "2", "--test_share", "1") == 0
    there = pictures(here / "set")
    assert {path.parts[0] for path in there} == {"test"}
    for wrong in (("--vacancies", "1"), ("--pixel_size", "0.1", "3")):
        assert run("-n", "2", *wrong, "--overwrite") == 2
        assert pictures(here / "set").keys() == there.keys()
    assert run("-n", "2", "--test_share", "1") == 0


@pytest.mark.parametrize(
    "number, share, train, test",
    [
        (1, 0.1, 1, 0),
        (2, 0.1, 1, 1),
        (4, 0.1, 3, 1),
        (4, 0.0, 4, 0),
        (4, 0.9, 1, 3),
        (4, 1.0, 0, 4),
        (1000, 0.1, 900, 100),
    ],
)
def test_a_share_above_0_has_an_image_of_two(number, share, train, test):
    assert split_counts(number, share) == {"train": train, "test": test}


def test_a_folder_in_use_is_refused_at_once(here, capsys):
    assert run("-n", "2") == 0
    there = pictures(here / "set")
    with locked(here / "set"):
        for overwrite in ((), ("--overwrite",)):
            assert run("-n", "2", *overwrite) == 2
            assert "another process is writing there" in capsys.readouterr().out
    assert pictures(here / "set").keys() == there.keys()
    assert run("-n", "2") == 0


def test_a_killed_run_goes_on_with_the_same_bytes(here):
    whole, killed = here / "whole", here / "killed"
    assert run("-n", "6", output="whole") == 0
    words = ("--structure", "sto.cif", "--noise", "noise.json", "--size", "32", "40")
    code = "import sys; from ppmat.commands.synthesize import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *words, "-n", "6", "-o", "killed"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ROOT}) as other:
        while not (killed / "train/noisy/1.png").exists():
            assert other.poll() is None
            time.sleep(0.005)
        other.kill()
    (killed / "train/noisy/.3.4711.png").write_text("half")
    (killed / "train/noisy/.mine.png").write_text("mine")
    assert run("-n", "6", output="killed") == 0
    names = {p.relative_to(killed) for p in killed.rglob("*") if p.is_file()}
    for path in (p for p in whole.rglob("*") if p.is_file() and p.suffix):
        name = path.relative_to(whole)
        names.remove(name)
        if path.name != "synthesis.json":
            assert (killed / name).read_bytes() == path.read_bytes()
    assert {str(name) for name in names} == {"train/noisy/.mine.png"}


def test_chance_that_leaves_nothing_is_tried_again(here, capsys):
    half = ("--vacancies", "0.6", "-n", "6")
    assert run(*half, structure=("water.xyz",)) == 0
    assert "images show 3.84 x 4.8 Å (height x width)" in capsys.readouterr().out
