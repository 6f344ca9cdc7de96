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

"""Regions and masks of images."""

import numpy as np
import pytest

from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.image_inputs import find_images
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.stem.images.micrograph_base import Micrograph
from ppmat.stem.images.selection import Selection
from ppmat.stem.images.selection import apply_mask
from ppmat.stem.images.selection import cut_region
from ppmat.utils.errors import InputError

VALUES = np.arange(2 * 7 * 9, dtype=np.uint16).reshape(2, 7, 9)
MASK = np.zeros((7, 9), bool)
MASK[2:5, 3:8] = True


@pytest.fixture
def image(tmp_path):
    write_micrograph(
        tmp_path / "a.tif", VALUES, (0.2, 0.3), "nm", {"dwell": 3}, dtype="uint16"
    )
    return read_micrograph(tmp_path / "a.tif")


def test_a_region_keeps_type_pixel_size_and_place(image):
    part = cut_region(image, (1, 2, 4, 5))
    assert np.array_equal(part.data, VALUES[:, 1:5, 2:7])
    assert part.data.dtype == np.uint16 and part.offset == (1, 2)
    assert (part.pixel_size, part.units) == ((0.2, 0.3), "nm")
    assert part.metadata == {"dwell": 3} and image.offset == (0, 0)
    inner = cut_region(part, (2, 1, 2, 2))  # a region of a region
    assert inner.offset == (3, 3)
    assert np.array_equal(inner.data, VALUES[:, 3:5, 3:5])


@pytest.mark.parametrize(
    "region", [(0, 0, 8, 9), (0, 0, 7, 10), (-1, 0, 3, 3), (2, 2, 0, 3), (7, 0, 1, 1)]
)
def test_a_region_outside_is_refused(image, region):
    with pytest.raises(InputError, match=r"a.tif: .* not inside its 7 x 9 pixels"):
        cut_region(image, region)


def test_pixels_outside_the_mask_are_missing(image):
    part = apply_mask(image, MASK)
    assert part.data.dtype == np.float32
    assert np.array_equal(np.isfinite(part.data), np.stack([MASK, MASK]))
    assert np.array_equal(part.data[:, MASK], VALUES[:, MASK])
    large = Micrograph(np.array([[2**31, 1]], np.int64))
    assert apply_mask(large, np.array([[1, 0]])).data[0, 0] == 2**31
    with pytest.raises(InputError, match="has 3 x 3 pixels; wanted 7 x 9 as .*a.tif"):
        apply_mask(image, np.ones((3, 3)))
    with pytest.raises(InputError, match="zero everywhere"):
        apply_mask(image, 0 * MASK)


@pytest.mark.parametrize("kind", ["npy", "tif", "png"])
def test_mask_and_region_of_files(image, tmp_path, kind):
    path = tmp_path / f"mask.{kind}"
    if kind == "npy":
        np.save(path, MASK)
    elif kind == "tif":
        write_micrograph(path, MASK.astype("u1"), dtype="uint8")
    else:
        from PIL import Image

        Image.fromarray(MASK).save(path)
    selection = Selection((1, 2, 5, 5), str(path))
    (found,) = find_images(image.path, selection)
    part = found.read()
    wanted = np.where(MASK, VALUES, np.nan)[:, 1:6, 2:7]
    assert np.array_equal(part.data, wanted, equal_nan=True)
    assert part.offset == (1, 2)
    record = found.record("0")["selection"]
    assert record["region"] == [1, 2, 5, 5]
    assert record["mask"]["path"] == str(path)
    # The hash is that of the used pixels, whatever the format.
    np.save(tmp_path / "same.npy", MASK)
    same = Selection(None, str(tmp_path / "same.npy")).record()
    assert same["mask"]["sha256"] == record["mask"]["sha256"]
    np.save(tmp_path / "other.npy", ~MASK)
    other = Selection(None, str(tmp_path / "other.npy")).record()
    assert other["mask"]["sha256"] != record["mask"]["sha256"]


def test_images_found_before_keep_their_selection(image):
    region = Selection((0, 0, 2, 2))
    files = find_images(image.path, region)
    assert find_images(files) == files == [ImageFile(image.path, None, region)]
    both = find_images([*files, image.path])
    assert [file.read().data.shape for file in both] == [(2, 2, 2), (2, 7, 9)]
