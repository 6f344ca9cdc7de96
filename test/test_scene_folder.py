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


"""The folder of a synthetic data set, and grey levels that hold the noise."""

import json

import numpy as np
import pytest
from PIL import Image

from ppmat.datasets.sfin_dataset import SFINDataset
from ppmat.stem.images.grey_scaling import robust_scaling
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes import scene_folder as folder_module
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.scenes.atom_columns import Scene
from ppmat.stem.scenes.scene_folder import SynthesisFolder
from ppmat.stem.scenes.scene_folder import noise_in_grey_levels
from ppmat.stem.scenes.scene_folder import write_grey_png
from ppmat.utils.files import StoredRunError

COUNTS = {"train": 3, "test": 1}


def scene(seed=0):
    rng = np.random.default_rng(seed)
    y, x = rng.uniform(-4, 30, (2, 9))
    columns = AtomColumns(y, x, np.full(9, 90.0), np.full(9, 2.0))
    image = columns.render((24, 28), 40.0)
    return Scene(image, columns.spots(image.shape), columns, 0.1)


def fill(folder):
    for split, number in list(folder.missing()):
        one = scene(number)
        noise = np.random.default_rng(number).normal(0, 9, one.gt_enhance.shape)
        folder.write(split, number, one.gt_enhance + noise, one, {"note": "x"})


def build(path, settings=None, **options):
    return SynthesisFolder(
        path, COUNTS, "haadf", settings or {"seed": 0}, {"by": "me"}, **options
    )


@pytest.mark.parametrize("format", ["png", "tif"])
def test_the_data_set_reads_what_was_written(tmp_path, format):
    folder = build(tmp_path / "set", format=format)
    fill(folder)
    assert list(folder.missing()) == []
    data = SFINDataset(str(tmp_path / "set"), "train", val_ratio=0.3)
    test = SFINDataset(str(tmp_path / "set"), "test")
    assert (len(data), len(test)) == (2, 1)
    sample, one = test[0], scene(0)
    error = np.abs(sample["gt_enhance"][0] - one.gt_enhance).max()
    assert error < (0.51 if format == "png" else 1e-4)
    assert sample["gt_detect"].max() == pytest.approx(one.gt_detect.max(), abs=0.51)
    narrow = one.gt_superresolution
    assert narrow.max() > 255  # above 8 bits
    np.testing.assert_allclose(sample["gt_superresolution"][0], narrow, atol=1e-4)
    assert not list((tmp_path / "set").rglob(".*"))
    # Only columns on a pixel are in the table.
    lines = (tmp_path / "set/test/columns/0.csv").read_text().splitlines()
    y, x = one.columns.y, one.columns.x
    inside = (y >= -0.5) & (y < 23.5) & (x >= -0.5) & (x < 27.5)
    assert len(lines) == 1 + inside.sum() < 10
    assert lines[0] == "y,x,y_angstrom,x_angstrom,height,sigma"
    assert float(lines[1].split(",")[0]) == pytest.approx(y[inside][0], rel=1e-5)


def test_an_interrupted_run_goes_on(tmp_path):
    folder = build(tmp_path)
    one = scene()
    folder.write("train", 1, one.gt_enhance, one, {})
    stamp = (tmp_path / "train/noisy/1.png").stat().st_mtime_ns
    again = build(tmp_path)
    assert list(again.missing()) == [("train", 0), ("train", 2), ("test", 0)]
    fill(again)
    assert (tmp_path / "train/noisy/1.png").stat().st_mtime_ns == stamp


def test_no_half_image_is_left(tmp_path, monkeypatch):
    folder = build(tmp_path)
    one = scene()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(folder_module, "columns_csv", full)
    with pytest.raises(OSError):
        folder.write("train", 0, one.gt_enhance, one, {})
    names = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert [p.name for p in names] == ["synthesis.json"]


def test_other_data_is_not_overwritten(tmp_path):
    fill(build(tmp_path / "a"))
    with pytest.raises(StoredRunError, match="run with other seed.*--overwrite"):
        build(tmp_path / "a", {"seed": 1})
    (tmp_path / "a/train/noisy/notes.txt").write_text("mine")
    replaced = build(tmp_path / "a", {"seed": 1}, overwrite=True)
    assert len(list(replaced.missing())) == 4
    assert (tmp_path / "a/train/noisy/notes.txt").exists()
    # What was not written by us is never removed.
    (tmp_path / "b/train/noisy").mkdir(parents=True)
    for overwrite in (False, True):
        with pytest.raises(StoredRunError, match="not written by this program"):
            build(tmp_path / "b", overwrite=overwrite)
    (tmp_path / "a/synthesis.json").write_text("{")
    with pytest.raises(StoredRunError, match="damaged"):
        build(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoredRunError, match="cannot be written to"):
        build(tmp_path / "file/set")
    with pytest.raises(ValueError, match="format is 'jpg'"):
        build(tmp_path / "c", format="jpg")


def test_clipped_pixels_are_counted(tmp_path):
    image = np.full((4, 5), 100.0)
    image[0] = [-1.0, -0.4, 255.4, 256.0, 300.0]
    assert write_grey_png(tmp_path / "a.png", image) == 3
    assert np.asarray(Image.open(tmp_path / "a.png"))[0].tolist() == [
        0,
        0,
        255,
        255,
        255,
    ]
    folder = build(tmp_path / "set")
    fill(folder)
    one = scene()
    (tmp_path / "set/train/noisy/0.png").unlink()
    before = folder.clipped()
    assert before < 10
    beyond = folder.write("train", 0, one.gt_enhance + 200, one, {})
    record = json.loads((tmp_path / "set/train/columns/0.json").read_text())
    assert beyond == record["clipped_pixels"] > 100
    assert beyond <= folder.clipped() <= beyond + before
    folder.finish({"clipped": 5})
    record = json.loads((tmp_path / "set/synthesis.json").read_text())
    assert record["clipped"] == 5 and record["by"] == "me"


def noisy_image(noise, number):
    """Return a lattice with the contrast of a noise model, and its noise."""
    rng = np.random.default_rng(number)
    spots = AtomColumns(
        *np.mgrid[8:128:12, 8:128:12].reshape(2, -1).astype(float),
        np.ones(100),
        np.full(100, 2.5),
    )
    clean = noise.low + (noise.high - noise.low) * spots.render((128, 128))
    return noise.apply(clean, rng)


@pytest.mark.parametrize(
    "noise",
    [
        NoiseModel(),
        NoiseModel().scaled(1e-4, 0.01),
        NoiseModel().scaled(300.0, -2000.0),
        NoiseModel(pointwise_intercept=80.0, pointwise_slope=0.1),
        NoiseModel(pointwise_intercept=3.0, scan_intercept=1.0, scan_slope=0.02),
    ],
)
def test_a_data_set_has_the_grey_levels_of_prediction(noise):
    grey, factor, offset = noise_in_grey_levels(noise, noisy_image)
    assert factor * noise.low + offset == pytest.approx(grey.low)
    assert grey.scan_slope == noise.scan_slope
    # As strong beside the signal as before.
    contrast = noise.high - noise.low
    for value in (noise.low, noise.high):
        assert noise.pointwise_sd(value) / contrast == pytest.approx(
            grey.pointwise_sd(factor * value + offset) / (grey.high - grey.low)
        )
    # Prediction leaves another image of the data set nearly as it is.
    noisy = noisy_image(grey, 77)
    start, scale, _ = robust_scaling(noisy)
    assert scale == pytest.approx(1.0, abs=0.03)
    assert start == pytest.approx(0.0, abs=4.0)
    assert np.mean((noisy < 0) | (noisy > 255)) < 0.01


def test_grey_levels_do_not_depend_on_the_units_of_the_noise_model():
    wanted, *_ = noise_in_grey_levels(NoiseModel(), noisy_image)
    other, *_ = noise_in_grey_levels(NoiseModel().scaled(1e-3, 7.0), noisy_image)
    assert (other.low, other.high) == pytest.approx((wanted.low, wanted.high))
    assert other.pointwise_sd(100.0) == pytest.approx(wanted.pointwise_sd(100.0))


def test_a_noise_model_without_contrast_is_refused():
    with pytest.raises(ValueError, match="Calibrate it on frames with atoms"):
        noise_in_grey_levels(NoiseModel(low=5.0, high=5.0), noisy_image)
