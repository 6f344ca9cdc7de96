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
"""Flips and crops of the image data set; without them samples are what they were."""

import numpy as np
import paddle
import pytest
from PIL import Image

from ppmat.datasets.sfin_dataset import SFINDataset

KINDS = ("noisy", "gt_enhance", "gt_detect")
SIDE = 6


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder whose images tell row, column and kind of each pixel."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.arange(SIDE * SIDE, dtype="uint8").reshape(SIDE, SIDE)
    for split in ("train", "test"):
        for number, kind in enumerate(KINDS):
            path = folder / split / kind
            path.mkdir(parents=True)
            Image.fromarray(pixels + 50 * number).save(path / "1.png")
    return folder


def sample(root, tmp_path, split="train", **options):
    data = SFINDataset(str(root), split, cache_path=str(tmp_path / split), **options)
    item = data[0]
    return {kind: item[kind].numpy()[0] for kind in KINDS}


def whole():
    return np.arange(SIDE * SIDE).reshape(SIDE, SIDE)


def test_without_options_images_are_whole(root, tmp_path):
    for number, image in enumerate(sample(root, tmp_path).values()):
        np.testing.assert_array_equal(image, whole() + 50 * number)


def test_crops_of_evaluation_are_central_and_not_flipped(root, tmp_path):
    options = {"crop_size": 2, "flips": ["up_down", "left_right"]}
    found = sample(root, tmp_path, "test", **options)
    for number, image in enumerate(found.values()):
        np.testing.assert_array_equal(image, whole()[2:4, 2:4] + 50 * number)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_crop_larger_than_the_image_is_refused(root, tmp_path, split):
    with pytest.raises(ValueError, match="crop_size 7 exceeds the image '1.png' of 6"):
        sample(root, tmp_path, split, crop_size=7)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"flips": ["updown"]}, "Unsupported flips"),
        ({"crop_size": 0}, "positive integer"),
    ],
)
def test_options_without_a_meaning_are_refused(root, tmp_path, options, reason):
    with pytest.raises(ValueError, match=reason):
        sample(root, tmp_path, **options)


def test_crops_of_training_move(root, tmp_path):
    np.random.seed(0)
    corners = {sample(root, tmp_path, crop_size=2)["noisy"][0, 0] for _ in range(20)}
    assert len(corners) > 5


@pytest.mark.parametrize("name, axis", [("up_down", 0), ("left_right", 1)])
def test_all_images_of_a_sample_are_flipped_alike(root, tmp_path, name, axis):
    np.random.seed(0)
    flipped = 0
    for _ in range(20):
        found = sample(root, tmp_path, flips=[name])
        turned = found["noisy"][0, 0] != 0
        flipped += turned
        wanted = np.flip(whole(), axis) if turned else whole()
        for number, image in enumerate(found.values()):
            np.testing.assert_array_equal(image, wanted + 50 * number)
    assert 3 < flipped < 17
