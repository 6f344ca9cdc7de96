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


"""BuildImage: grey values as they are, in one channel."""

import inspect

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from ppmat.datasets.build_image import BuildImage
from ppmat.stem.images.micrograph import ImageFormatError
from ppmat.stem.images.micrograph import write_micrograph

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)


def mode_l(path):
    """Read an image the way that brings it to 8 bits."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype="float32")[None]


@given(values=hnp.arrays("u2", SHAPES))
@settings(max_examples=30, deadline=None)
def test_sixteen_bits_survive(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("png") / "a.png"
    Image.fromarray(values).save(path)
    image = BuildImage()(path)
    assert image.dtype == np.float32 and image.shape == (1, *values.shape)
    assert np.array_equal(image[0], values)


@given(values=hnp.arrays("f4", SHAPES, elements=st.floats(-0.0625, 0.25, width=32)))
@settings(max_examples=30, deadline=None)
def test_fractions_of_the_beam_survive(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("tif")
    for suffix in (".tif", ".npy", ".mrc"):
        write_micrograph(folder / f"a{suffix}", values)
        assert np.array_equal(BuildImage()(folder / f"a{suffix}")[0], values)


def test_broken_twin_in_mode_l_destroys_both(tmp_path):
    counts = np.linspace(1000, 60000, 12, dtype="u2").reshape(3, 4)
    Image.fromarray(counts).save(tmp_path / "a.png")
    fractions = np.linspace(0.001, 0.2, 12, dtype="f4").reshape(3, 4)
    tifffile.imwrite(tmp_path / "b.tif", fractions)
    assert len(np.unique(mode_l(tmp_path / "a.png"))) < 6
    assert not mode_l(tmp_path / "b.tif").any()
    for name in ("a.png", "b.tif"):
        assert len(np.unique(BuildImage()(tmp_path / name))) == 12


def test_a_list_keeps_its_order(tmp_path):
    paths = []
    for number in range(9):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], np.full((3, 4), number, "u1"))
    for num_cpus in (None, 1, 3):
        images = BuildImage(num_cpus=num_cpus, dtype="float64")(paths)
        assert [image[0, 0, 0] for image in images] == list(range(9))
        assert {(image.shape, image.dtype.name) for image in images} == {
            ((1, 3, 4), "float64")
        }
    assert BuildImage(num_cpus=2)([]) == []
    assert np.array_equal(BuildImage.build_one(paths[3]), BuildImage()(paths[3]))


def test_several_threads_are_used(tmp_path, monkeypatch):
    import concurrent.futures

    counts = []

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, count):
            counts.append(count)
            super().__init__(count)

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Pool)
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    BuildImage(num_cpus=3)([tmp_path / "a.npy"] * 2)
    assert counts == [3]


def test_an_error_names_the_file(tmp_path):
    np.save(tmp_path / "good.npy", np.ones((3, 4)))
    np.save(tmp_path / "stack.npy", np.ones((2, 3, 4)))
    for num_cpus in (1, 2):
        builder = BuildImage(num_cpus=num_cpus)
        with pytest.raises(ImageFormatError, match="stack.npy: is a stack"):
            builder([tmp_path / "good.npy", tmp_path / "stack.npy"])


def test_images_belong_to_the_caller(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4), "f4"))
    image = BuildImage()(tmp_path / "a.npy")
    image[:] = 7
    assert BuildImage()(tmp_path / "a.npy").max() == 1


@pytest.mark.parametrize(
    "name, value, legal",
    [
        ("mode", "RGB", "L"),
        ("mode", "I;16", "L"),
        ("format", "bytes", "image_file"),
        ("dtype", "uint8", "float32, float64"),
        ("num_cpus", 0, "at least 1"),
        ("num_cpus", 1.5, "at least 1"),
        ("num_cpus", True, "at least 1"),
    ],
)
def test_options_without_meaning_are_refused(name, value, legal):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; wanted .*{legal}"):
        BuildImage(**{name: value})


def test_arguments_are_those_of_upstream():
    parameters = inspect.signature(BuildImage).parameters
    assert {name: p.default for name, p in parameters.items()} == {
        "format": "image_file",
        "mode": "L",
        "dtype": "float32",
        "num_cpus": None,
    }
