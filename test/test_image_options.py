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

"""Regions, masks and pictures through the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_image import picture
from helpers_image import write_image_model

from ppmat.commands import calibrate_noise
from ppmat.commands import detect
from ppmat.commands import enhance
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.images.image_inputs import image_names
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph import write_micrograph

SIZE = (0.0118, 0.012)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model():
    model = write_image_model("model")
    return [f"--{name}={value}" for name, value in model.items()]


def lattice(path):
    """Write 70 x 80 pixels with columns every 12 pixels from (6, 9)."""
    y, x = np.mgrid[:70, :80]
    image = np.full((70, 80), 20.0)
    for top in range(6, 70, 12):
        for left in range(9, 80, 12):
            image += 100 * np.exp(-((y - top) ** 2 + (x - left) ** 2) / 2 / 2.2**2)
    image += np.random.default_rng(0).normal(0, 3, image.shape)
    write_micrograph(path, image.astype("f4"), SIZE, "nm")


def test_positions_of_a_region_are_those_of_the_image(folder):
    lattice("a.tif")
    region = ["--region", "24", "33", "40", "36"]
    assert detect.main("task", ["a.tif", "-o", "c.csv", "--raw", *region]) == 0
    table = ColumnTable.from_csv("c.csv")
    inner = table.positions[~table.edge]
    assert len(inner) >= 6
    nearest = np.round((inner - (6, 9)) / 12) * 12 + (6, 9)
    assert np.abs(inner - nearest).max() < 0.3
    assert inner[:, 0].min() >= 24 and inner[:, 1].min() >= 33
    assert inner[:, 0].max() < 64 and inner[:, 1].max() < 69
    record = json.loads(Path("c.csv.json").read_text())
    assert record["input"]["selection"] == {"region": [24, 33, 40, 36]}


def test_no_column_is_found_outside_the_mask(folder):
    lattice("a.tif")
    mask = np.zeros((70, 80), bool)
    mask[:, :45] = True
    np.save("mask.npy", mask)
    options = ["a.tif", "-o", "c.csv", "--raw", "--mask", "mask.npy"]
    assert detect.main("task", options) == 0
    table = ColumnTable.from_csv("c.csv")
    assert 18 <= len(table) <= 24 and table.x.max() < 46
    assert detect.main("task", [*options[:-1], "none.npy", "--overwrite"]) == 2


def test_a_part_is_enhanced_as_if_it_were_the_image(folder, model, capsys):
    x = picture(40, 50)
    write_micrograph("in.tif", x, SIZE, "nm")
    write_micrograph("part.tif", x[3:30, 5:45], SIZE, "nm")
    part = ["--region", "3", "5", "27", "40"]
    command = ["--input", "in.tif", "--save_path=a", "--picture", *model]
    assert enhance.main("task", [*command, *part]) == 0
    whole = ["--input", "part.tif", "--save_path=b", *model]
    assert enhance.main("task", whole) == 0
    found = read_micrograph("a/in.tif")
    assert np.array_equal(found.data, read_micrograph("b/part.tif").data)
    assert found.pixel_size == pytest.approx(SIZE)
    told = json.loads(Path("a/in.tif.json").read_text())
    assert told["input"]["offset"] == [3, 5]
    assert told["input"]["selection"] == {"region": [3, 5, 27, 40]}
    assert read_micrograph("a/in.tif.picture.png").data.shape == (27, 40)
    values = np.percentile(found.data, (0.1, 99.9))
    shown = told["picture"]
    assert (shown["black"], shown["white"]) == pytest.approx(tuple(values))
    assert shown["scale_bar"] == "100 pm"
    # Pictures are no images of a folder.
    assert image_names("a") == ["in.tif"]
    # Another region is another result; the same command has nothing to do.
    capsys.readouterr()
    assert enhance.main("task", [*command, *part]) == 0
    assert "is there already" in capsys.readouterr().out
    assert enhance.main("task", [*command, "--region", "0", "0", "27", "40"]) == 2
    assert "another input, region or mask" in capsys.readouterr().out


def test_a_masked_result_is_missing_where_the_mask_is_zero(folder, model):
    write_micrograph("in.tif", picture(40, 50), SIZE, "nm")
    mask = np.zeros((40, 50), np.uint8)
    mask[5:35, 10:40] = 7
    write_micrograph("mask.tif", mask, dtype="uint8")
    options = ["--input", "in.tif", "--save_path=a", "--mask=mask.tif", *model]
    assert enhance.main("task", [*options, "--residual", "--picture"]) == 0
    found = read_micrograph("a/in.tif").data
    assert np.array_equal(np.isfinite(found), mask > 0)


def test_calibration_of_a_region(folder, monkeypatch):
    frames = np.stack([picture(40, 50, seed=k) for k in range(2)])
    write_micrograph("in.tif", frames)
    seen = []

    def stop(inputs, *args, **options):
        seen.extend(inputs)
        raise calibrate_noise.InputError("seen")

    monkeypatch.setattr(calibrate_noise, "calibrate", stop)
    options = ["in.tif", "-o", "n.json", "--region", "4", "6", "20", "30"]
    assert calibrate_noise.main(options) == 2
    assert np.array_equal(np.stack(seen), frames[:, 4:24, 6:36])
