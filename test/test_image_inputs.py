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

"""Image inputs: paths, folders, patterns, and reading one file at a time."""

from pathlib import Path

import numpy as np
import pytest

from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.image_inputs import find_images
from ppmat.stem.images.image_inputs import read_images
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.utils.errors import InputError


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    for name in "ab":
        write_micrograph(f"x/{name}.tif", np.eye(8, dtype=np.float32))


def test_inputs_are_found():
    Path("x/readme.txt").write_text("no image")
    found = [str(image) for image in find_images(["x/b.tif@1", "x/*.tif", "x"])]
    assert found == ["x/b.tif@1", "x/a.tif", "x/b.tif"]  # nothing twice
    Path("empty").mkdir()
    for item, message in {
        "empty": "holds no image",
        "y/*.tif": "no file matches",
        "x/aa.tif": "not found: x/aa.tif. Did you mean 'a.tif'",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images(item)
    with pytest.raises(InputError, match="no input image"):
        find_images([])


def test_a_file_that_cannot_be_read_stops_or_is_reported():
    Path("x/a.tif").write_text("no image")
    images = find_images("x")
    with pytest.raises(InputError, match="x/a.tif"):
        list(read_images(images))
    failed = []
    read = list(read_images(images, lambda image, _: failed.append(image)))
    assert failed == [ImageFile("x/a.tif")]
    assert [(str(image), found.data.shape) for image, found in read] == [
        ("x/b.tif", (8, 8))
    ]


def test_an_error_names_its_file():
    image = ImageFile("x/a.tif", 2)
    assert image.error_text(ValueError("full")) == "x/a.tif@2: full"
    assert image.error_text(ValueError("x/a.tif: full")) == "x/a.tif: full"
