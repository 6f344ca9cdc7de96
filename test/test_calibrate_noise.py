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


"""The command calibrate.py."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from ppmat.commands.calibrate_noise import main
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.atom_columns import AtomColumns

SIDE = 128


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A stack of two noisy frames of a lattice, and one frame as 8-bit PNG."""
    folder = tmp_path_factory.mktemp("frames")
    y, x = (g.ravel().astype(float) for g in np.mgrid[-6:SIDE:15, -6:SIDE:15])
    columns = AtomColumns(y, x, np.full(len(y), 100.0), np.full(len(y), 2.8))
    clean = columns.render((SIDE, SIDE), 90.0)
    noise = NoiseModel()
    images = [noise.apply(clean, np.random.default_rng(i)) for i in range(3)]
    tifffile.imwrite(folder / "stack.tif", np.float32(images[:2]))
    grey = np.clip(np.rint(images[2]), 0, 255).astype(np.uint8)
    Image.fromarray(grey).save(folder / "frame.png")
    return folder


def test_frames_become_a_noise_model_and_a_figure(frames, tmp_path, capsys) -> None:
    output, figure = tmp_path / "noise.json", tmp_path / "noise.png"
    command = [str(frames / "*"), "-o", str(output), "--figure", str(figure)]
    assert main(command) == 0
    model = NoiseModel.load(output)
    assert model.pointwise_sd(120.0) == pytest.approx(22.7, rel=0.1)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "3 images" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["noise.json", "noise.png"]
    # Nothing is replaced unasked.
    before = output.read_bytes()
    assert main(command) == 2
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["missing.tif"], "noise.json"),
        (["{frames}/stack.tif"], "noise.txt"),
        (["{frames}/stack.tif"], "no_folder/noise.json"),
        (["{frames}/stack.tif", "--fast_axis", "0"], "noise.json"),
    ],
)
def test_bad_input_ends_with_2_and_writes_nothing(
    frames, tmp_path, arguments, name
) -> None:
    arguments = [a.format(frames=frames) for a in arguments]
    assert main([*arguments, "-o", str(tmp_path / name)]) == 2
    assert not list(tmp_path.iterdir())


def test_a_series_tells_the_specimen_from_noise(tmp_path) -> None:
    rng = np.random.default_rng(1)
    y, x = (g.ravel() for g in np.mgrid[-30:160:15.0, -30:160:15.0])
    noise, frames = NoiseModel(background_sd=0.0), []
    for i in range(2):
        ones = np.ones(len(y))
        columns = AtomColumns(y + 1.2 * i, x - 0.6 * i, 100 * ones, 2.8 * ones)
        grid = np.arange(SIDE) + 0.6 * i
        edge = 150 / (1 + np.exp((grid + 0.5 * np.arange(SIDE)[:, None] - 90) / 8))
        clean = columns.render((SIDE, SIDE), 90.0) + edge
        frames.append(noise.apply(clean, rng))
    tifffile.imwrite(tmp_path / "series.tif", np.float32(frames))
    output, figure = tmp_path / "noise.json", tmp_path / "noise.png"
    command = [str(tmp_path / "series.tif"), "--series", "-o", str(output)]
    assert main([*command, "--figure", str(figure)]) == 0
    model = NoiseModel.load(output)
    assert model.background_sd < 2
    record = json.loads(output.read_text())["calibration"]
    assert record["background_from"] == "differences of a series"
    assert record["specimen_sd"] > 20
    curve = record["frame_differences"]["pointwise_by_grey"]
    expected = noise.pointwise_sd(np.array(curve["variable"]))
    away = (curve["value"] - expected) / np.maximum(curve["error"], 0.02 * expected)
    assert np.sqrt(np.mean(away**2)) < 2
    assert figure.read_bytes().startswith(b"\x89PNG")
