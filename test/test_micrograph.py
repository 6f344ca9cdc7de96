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


"""Microscope images: every format, what is kept, and what is refused."""

import io
import itertools
import json
import struct
import sys
import types
import zlib

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from ppmat.stem.images import micrograph_readers
from ppmat.stem.images.micrograph import ImageFormatError
from ppmat.stem.images.micrograph import check_writable
from ppmat.stem.images.micrograph import image_from
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.stem.images.micrograph_base import checked_pixel_size
from ppmat.stem.images.micrograph_base import clean_units
from ppmat.stem.images.micrograph_base import convert_pixel_size
from ppmat.stem.images.micrograph_base import jsonable
from ppmat.utils.errors import InputError

NUMBERS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
RNG = np.random.default_rng(0)


def grey(shape=(6, 5), dtype="u1", seed=0):
    """Numbers that fill the range of an integer type, or fractions of a beam."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(0.02, 0.01, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def png(path, colour, depth, rows, palette=b""):
    """Write a PNG file chunk by chunk, since Pillow does not write all kinds."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    width = len(rows[0]) * 8 // (depth * samples)

    def chunk(name, body):
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + (chunk(b"PLTE", palette) if palette else b"")
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )
    return path


# PNG -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_grey_png_keeps_depth_and_values(tmp_path, dtype):
    values = grey((7, 4), dtype)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_micrograph(tmp_path / "a.png")
    assert image.data.dtype == np.dtype(dtype)
    assert np.array_equal(image.data, values)
    assert image.pixel_size is None and image.units is None
    assert image.path == str(tmp_path / "a.png")


@pytest.mark.parametrize(
    "depth, row, expected",
    [
        (1, b"\xa0", [255, 0, 255, 0, 0, 0, 0, 0]),
        (2, b"\x1b", [0, 85, 170, 255]),
        (4, b"\x1f", [17, 255]),
    ],
)
def test_low_depths_fill_the_range(tmp_path, depth, row, expected):
    image = read_micrograph(png(tmp_path / "a.png", 0, depth, [row, row]))
    assert image.data.dtype == np.uint8
    assert image.data.tolist() == [expected] * 2


def test_colour_png_of_a_grey_image_is_one_channel(tmp_path):
    values = grey()
    for mode in ("LA", "RGB", "RGBA", "P"):
        Image.fromarray(values).convert(mode).save(tmp_path / f"{mode}.png")
        image = read_micrograph(tmp_path / f"{mode}.png")
        assert np.array_equal(image.data, values), mode
    ramp = bytes(itertools.chain.from_iterable((255 - i,) * 3 for i in range(256)))
    image = read_micrograph(png(tmp_path / "p.png", 3, 8, [b"\0\1\xff"], ramp))
    assert image.data.tolist() == [[255, 254, 0]]


def test_real_colours_are_refused_with_a_way_out(tmp_path):
    colours = np.stack([grey(seed=i) for i in range(3)], axis=-1)
    Image.fromarray(colours).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    Image.fromarray(colours).quantize(16).save(tmp_path / "p.png")
    for name in ("a.png", "a.tif", "p.png"):
        with pytest.raises(ImageFormatError, match="colour picture.*export.*grey"):
            read_micrograph(tmp_path / name)


def test_transparency_is_refused(tmp_path):
    values = np.dstack([grey(), np.full((6, 5), 255, "u1")])
    values[0, 0, 1] = 254
    Image.fromarray(values, "LA").save(tmp_path / "a.png")
    with pytest.raises(ImageFormatError, match="transparent"):
        read_micrograph(tmp_path / "a.png")


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_deep_colour_png_is_not_cut_to_eight_bits(tmp_path, colour):
    samples = {2: 3, 4: 2, 6: 4}[colour]
    path = png(tmp_path / "a.png", colour, 16, [b"\x12\x34" * samples * 3])
    assert np.asarray(Image.open(path)).dtype == np.uint8  # what Pillow would do
    with pytest.raises(ImageFormatError, match="16 bits a channel"):
        read_micrograph(path)


def test_truncated_png(tmp_path):
    values = grey((64, 64))
    Image.fromarray(values).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for size in np.linspace(9, len(whole) - 30, 40).astype(int):
        (tmp_path / "b.png").write_bytes(whole[:size])
        with pytest.raises(ImageFormatError, match="truncated"):
            read_micrograph(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes(whole[:-12])  # without its end mark
    assert np.array_equal(read_micrograph(tmp_path / "b.png").data, values)


# TIFF ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("order", "<>")
def test_tiff_of_any_type(tmp_path, dtype, order):
    values = grey((3, 6, 5), dtype)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", byteorder=order
    )
    image = read_micrograph(tmp_path / "a.tif")
    assert image.data.dtype == np.dtype(dtype) and image.data.dtype.isnative
    assert np.array_equal(image.data, values)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib"},
        {"rowsperstrip": 7},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"imagej": True},
        {"metadata": None},
        {"ome": True},
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("shape", [(33, 20), (4, 33, 20), (2, 2, 33, 20)])
def test_tiff_however_it_is_stored(tmp_path, options, shape):
    values = grey(shape, "f4")
    options = {"photometric": "minisblack", **options}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    image = read_micrograph(tmp_path / "a.tif")
    flat = options.get("metadata", 0) is None and len(shape) == 4
    assert np.array_equal(image.data, values.reshape(4, 33, 20) if flat else values)
    json.dumps(image.metadata, allow_nan=False)


def test_pages_of_one_stack_written_one_by_one(tmp_path):
    pages = grey((3, 6, 5), "u2")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, contiguous=False, metadata=None)
    assert np.array_equal(read_micrograph(tmp_path / "a.tif").data, pages)


def test_several_images_in_one_file_are_asked_for(tmp_path):
    first, second = grey((6, 5)), grey((4, 3), "u2")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(first)
        file.write(second)
    with pytest.raises(ImageFormatError, match=r"holds 2 images \(0:.*1:.*index"):
        read_micrograph(tmp_path / "a.tif")
    assert np.array_equal(read_micrograph(tmp_path / "a.tif", 1).data, second)
    with pytest.raises(
        ImageFormatError, match="has no image 2, counted from 0; it holds 2"
    ):
        read_micrograph(tmp_path / "a.tif", 2)


def test_colour_tiff_of_a_grey_image(tmp_path):
    values = grey((6, 5), "u2")
    for planar in ("contig", "separate"):
        axis = -1 if planar == "contig" else 0
        rgb = np.stack([values] * 3, axis=axis)
        tifffile.imwrite(
            tmp_path / "a.tif", rgb, photometric="rgb", planarconfig=planar
        )
        assert np.array_equal(read_micrograph(tmp_path / "a.tif").data, values)
    rgba = np.stack([values] * 3 + [np.full_like(values, 65535)], axis=-1)
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", rgba, **options)
    assert np.array_equal(read_micrograph(tmp_path / "a.tif").data, values)
    rgba[1, 1, 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", rgba, **options)
    with pytest.raises(ImageFormatError, match="transparent"):
        read_micrograph(tmp_path / "a.tif")


def test_three_images_that_the_writer_took_for_colours(tmp_path):
    values = np.stack([grey((6, 5), "f4")] * 3)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="rgb", planarconfig="separate"
    )
    assert np.array_equal(read_micrograph(tmp_path / "a.tif").data, values)
    values = grey((3, 6, 5), "u2")
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="rgb", planarconfig="separate"
    )
    with pytest.raises(ImageFormatError, match="or a stack of 3 images.*colour"):
        read_micrograph(tmp_path / "a.tif")


def test_palette_and_bilevel_tiff(tmp_path):
    values = grey((6, 8))
    ramp = np.stack([np.arange(65535, -1, -257, dtype="u2")] * 3)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="palette", colormap=ramp)
    found = read_micrograph(tmp_path / "a.tif").data
    assert np.array_equal(found, (255 - values.astype("u2")) * 257)
    for photometric, black in (("minisblack", False), ("miniswhite", True)):
        tifffile.imwrite(tmp_path / "b.tif", values > 99, photometric=photometric)
        found = read_micrograph(tmp_path / "b.tif").data
        assert np.array_equal(found, np.where((values > 99) != black, 255, 0))


def tiff_kinds():
    """Writers of the layouts whose truncation shows in different ways."""

    def one_by_one(path, values):
        with tifffile.TiffWriter(path) as file:
            for page in values:
                file.write(page, contiguous=False, metadata=None)

    def with_options(**options):
        return lambda path, values: tifffile.imwrite(
            path, values, photometric="minisblack", **options
        )

    return {
        "plain": with_options(),
        "imagej": with_options(imagej=True),
        "zlib": with_options(compression="zlib"),
        "tiles": with_options(tile=(16, 16)),
        "ome": with_options(ome=True),
        "pages": one_by_one,
    }


@pytest.mark.parametrize("kind", list(tiff_kinds()))
def test_truncated_tiff_is_never_half_read(tmp_path, kind):
    values = grey((3, 24, 20), "f4")
    tiff_kinds()[kind](tmp_path / "a.tif", values)
    whole = (tmp_path / "a.tif").read_bytes()
    assert np.array_equal(read_micrograph(tmp_path / "a.tif").data, values)
    for size in np.linspace(4, len(whole) - 1, 60).astype(int):
        (tmp_path / "b.tif").write_bytes(whole[:size])
        try:
            found = read_micrograph(tmp_path / "b.tif").data
        except ImageFormatError as error:
            assert "b.tif" in str(error)
        else:  # the last bytes may be padding
            assert np.array_equal(found, values), size


def test_broken_twin_reads_half_a_stack(tmp_path):
    tiff_kinds()["imagej"](tmp_path / "a.tif", grey((3, 24, 20), "f4"))
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(whole[: len(whole) // 2])
    assert tifffile.imread(tmp_path / "b.tif").shape == (24, 20)
    with pytest.raises(ImageFormatError, match="damaged or truncated"):
        read_micrograph(tmp_path / "b.tif")


def imagej_file(path, units, resolution=(1 / 0.012, 1 / 0.0118)):
    tifffile.imwrite(
        path,
        grey((6, 5), "f4"),
        imagej=True,
        resolution=resolution,
        metadata={"unit": units} if units else {},
    )


@pytest.mark.parametrize(
    "written, units",
    [
        ("nm", "nm"),
        ("micron", "µm"),
        ("um", "µm"),
        ("\\u00B5m", "µm"),
        ("angstrom", "Å"),
        ("\\u00C5", "Å"),
        ("1/nm", "1/nm"),
    ],
)
def test_scale_of_imagej(tmp_path, written, units):
    imagej_file(tmp_path / "a.tif", written)
    image = read_micrograph(tmp_path / "a.tif")
    assert image.pixel_size == pytest.approx((0.0118, 0.012), rel=1e-8)
    assert image.units == units


def test_uncalibrated_imagej_file_has_no_scale(tmp_path):
    for units in (None, "pixel"):
        imagej_file(tmp_path / "a.tif", units, resolution=(1, 1))
        image = read_micrograph(tmp_path / "a.tif")
        assert (image.pixel_size, image.units) == (None, None)


def test_scale_of_ome(tmp_path):
    details = {"PhysicalSizeX": 12.0, "PhysicalSizeXUnit": "pm"}
    details |= {"PhysicalSizeY": 0.118, "PhysicalSizeYUnit": "Å"}
    tifffile.imwrite(tmp_path / "a.tif", grey(), ome=True, metadata=details)
    image = read_micrograph(tmp_path / "a.tif")
    assert image.pixel_size == pytest.approx((11.8, 12.0)) and image.units == "pm"


def test_scale_of_digital_micrograph(tmp_path):
    tags = [(65003, "s", 0, "nm", True), (65004, "s", 0, "nm", True)]
    tags += [(65009, "d", 1, 0.012, True), (65010, "d", 1, 0.0118, True)]
    tifffile.imwrite(tmp_path / "a.tif", grey(), extratags=tags)
    image = read_micrograph(tmp_path / "a.tif")
    assert image.pixel_size == (0.0118, 0.012) and image.units == "nm"


def test_resolution_of_a_printer_is_no_pixel_size(tmp_path):
    for density, unit in ((300, "INCH"), (72, "INCH"), (118, "CENTIMETER")):
        tifffile.imwrite(
            tmp_path / "a.tif",
            grey(),
            resolution=(density, density),
            resolutionunit=unit,
        )
        assert read_micrograph(tmp_path / "a.tif").pixel_size is None
    tifffile.imwrite(
        tmp_path / "a.tif", grey(), resolution=(1e9, 5e8), resolutionunit="CENTIMETER"
    )
    image = read_micrograph(tmp_path / "a.tif")
    assert image.pixel_size == pytest.approx((0.02, 0.01)) and image.units == "nm"


def test_tags_of_a_tiff_are_metadata(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", grey(), software="the microscope")
    assert read_micrograph(tmp_path / "a.tif").metadata["tags"]["Software"] == (
        "the microscope"
    )


# npy and MRC -----------------------------------------------------------------------


def test_npy_is_read_without_unpickling(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    np.save(tmp_path / "a.npy", np.array([Hostile()], object), allow_pickle=True)
    with pytest.raises(ImageFormatError, match="Python objects"):
        read_micrograph(tmp_path / "a.npy")
    assert not (tmp_path / "made").exists()


def test_large_npy_is_mapped(tmp_path, monkeypatch):
    values = grey((3, 6, 5), ">f4")
    np.save(tmp_path / "big.npy", values.astype("f4"))
    np.save(tmp_path / "other.npy", values)
    assert type(read_micrograph(tmp_path / "big.npy").data) is np.ndarray
    monkeypatch.setattr(micrograph_readers, "_MIN_MAPPED_BYTES", 100)
    assert isinstance(read_micrograph(tmp_path / "big.npy").data, np.memmap)
    for name in ("big.npy", "other.npy"):
        found = read_micrograph(tmp_path / name).data
        assert found.dtype.isnative and np.array_equal(found, values)


def test_mrc_of_other_programs(tmp_path):
    for dtype in ("i1", "i2", "u2", "f2", "f4"):
        values = grey((2, 6, 5), dtype)
        with mrcfile.new(tmp_path / "a.mrc", values, overwrite=True) as file:
            file.voxel_size = (0.12, 0.118, 1)
            file.add_label("by hand")
        image = read_micrograph(tmp_path / "a.mrc")
        assert image.data.dtype == np.dtype(dtype)
        assert np.array_equal(image.data, values)
        assert image.pixel_size == pytest.approx((0.118, 0.12)) and image.units == "Å"
        assert "by hand" in image.metadata["labels"]
        json.dumps(image.metadata, allow_nan=False)


@pytest.mark.parametrize("suffix", [".npy", ".mrc"])
def test_truncated_npy_and_mrc(tmp_path, suffix):
    write_micrograph(tmp_path / f"a{suffix}", grey((20, 20), "f4"))
    whole = (tmp_path / f"a{suffix}").read_bytes()
    for size in (3, 60, 900, 1030, len(whole) - 1):
        (tmp_path / f"b{suffix}").write_bytes(whole[:size])
        with pytest.raises(ImageFormatError, match="trunc|none of|damaged"):
            read_micrograph(tmp_path / f"b{suffix}")


# What is no image ------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, reason",
    [
        (np.ones((4, 4), "c8"), "complex numbers.*magnitude"),
        (np.ones((4, 4), bool), "mask"),
        (np.array([["a"]]), "integers or floats"),
        (np.ones(5), r"shape \(5,\); wanted an image"),
        (np.float32(3), "wanted an image"),
        (np.ones((0, 5)), "no pixels"),
    ],
)
def test_arrays_that_are_no_image(tmp_path, values, reason):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ImageFormatError, match=reason) as error:
        read_micrograph(tmp_path / "a.npy")
    assert "a.npy" in str(error.value)


def test_odd_images_are_read(tmp_path):
    for number, values in enumerate(
        [
            np.full((5, 6), np.nan, "f4"),
            np.zeros((5, 6), "f4"),
            grey((1, 9), "f4"),
            grey((9, 1), "f4"),
            grey((1, 1), "f4"),
        ]
    ):
        for suffix in (".tif", ".npy", ".mrc"):
            write_micrograph(tmp_path / f"{number}{suffix}", values)
            found = read_micrograph(tmp_path / f"{number}{suffix}").data
            assert np.array_equal(found, values, equal_nan=True)


def test_files_that_are_no_image(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(grey((20, 20))).save(buffer, "JPEG")
    np.savez(tmp_path / "z.npz", a=grey())
    contents = {
        "empty.tif": (b"", "the file is empty"),
        "picture.png": (buffer.getvalue(), "JPEG picture, whose compression"),
        "z.npy": ((tmp_path / "z.npz").read_bytes(), "zip archive"),
        "text.tif": (b"not an image at all", "none of PNG, TIFF.*begins with b'not"),
        "short.tif": (b"II*\0", "damaged or truncated"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageFormatError, match=reason) as error:
            read_micrograph(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(ImageFormatError, match="is a folder"):
        read_micrograph(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing.tif"):
        read_micrograph(tmp_path / "nothing.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".mrc"])
def test_damaged_bytes_give_an_image_or_the_one_error(tmp_path, suffix):
    values = grey((20, 17), "u2")
    if suffix == ".png":
        Image.fromarray(values).save(tmp_path / "a.png")
    elif suffix == ".tif":
        tifffile.imwrite(tmp_path / "a.tif", values, tile=(16, 16), compression="zlib")
    else:
        write_micrograph(tmp_path / f"a{suffix}", values, dtype="uint16")
    whole = (tmp_path / f"a{suffix}").read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 600), 3):
            damaged[place] = rng.integers(0, 256)
        (tmp_path / f"b{suffix}").write_bytes(damaged)
        try:
            read_micrograph(tmp_path / f"b{suffix}")
        except ImageFormatError:
            refused += 1
    assert refused > 5


def test_content_counts_and_not_the_name(tmp_path):
    values = grey((6, 5), "u2")
    Image.fromarray(values).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", values)
    np.save(tmp_path / "c.npy", values)
    for name, other in (("a.png", "a.tif"), ("b.tif", "b.png"), ("c.npy", "c.mrc")):
        (tmp_path / name).rename(tmp_path / other)
        assert np.array_equal(read_micrograph(tmp_path / other).data, values)


def test_a_stack_where_one_image_was_meant(tmp_path):
    np.save(tmp_path / "a.npy", grey((3, 6, 5)))
    with pytest.raises(ImageFormatError, match=r"a.npy: is a stack of shape \(3, 6, 5"):
        image_from(read_micrograph(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", grey((1, 6, 5)))
    assert image_from(read_micrograph(tmp_path / "b.npy")).shape == (6, 5)


# RosettaSciIO ----------------------------------------------------------------------

DM4 = b"\0\0\0\x04" + b"0" * 300


def axis(size, position, navigate=False, scale=1.0, units=None):
    return {
        "size": size,
        "index_in_array": position,
        "navigate": navigate,
        "scale": scale,
        "offset": 0.0,
        "units": units,
        "name": "",
    }


def signal(data, axes, title="HAADF"):
    original = {"counts": np.arange(5000), "dwell": np.float64(2e-6), "raw": b"\xff\0"}
    metadata = {"General": {"title": title}}
    return {
        "data": data,
        "axes": axes,
        "metadata": metadata,
        "original_metadata": original,
    }


@pytest.fixture
def plugin(monkeypatch):
    """Stand in for the reader of RosettaSciIO; ``found`` is what it finds."""
    module = types.SimpleNamespace(
        __name__="rsciio.digitalmicrograph", found=[], file_reader=None
    )
    module.file_reader = lambda path, **options: module.found
    monkeypatch.setattr(
        micrograph_readers, "rosettasciio_plugin", lambda kind, path: module
    )
    return module


def test_image_through_rosettasciio(tmp_path, plugin):
    (tmp_path / "a.dm4").write_bytes(DM4)
    data = grey((5, 6, 3), "i4")  # y, x and, last in the file, the frames
    axes = [
        axis(5, 0, scale=0.0118, units="nm"),
        axis(6, 1, scale=0.012, units="nm"),
        axis(3, 2, navigate=True),
    ]
    spectrum = signal(grey((9,)), [axis(9, 0, scale=0.1, units="eV")], "EELS")
    plugin.found = [spectrum, signal(data, axes)]
    image = read_micrograph(tmp_path / "a.dm4")
    assert image.data.dtype == np.int32
    assert np.array_equal(image.data, np.moveaxis(data, 2, 0))
    assert image.pixel_size == (0.0118, 0.012) and image.units == "nm"
    original = image.metadata["original_metadata"]
    assert original["dwell"] == 2e-6
    assert original["counts"] == "left out: array of shape (5000,), int64"
    assert original["raw"] == "left out: 2 bytes"
    json.dumps(image.metadata, allow_nan=False)


def test_several_detectors_in_one_file(tmp_path, plugin):
    (tmp_path / "a.dm4").write_bytes(DM4)
    axes = [axis(5, 0), axis(6, 1)]
    plugin.found = [
        signal(grey((5, 6), seed=seed), axes, title)
        for seed, title in enumerate(("HAADF", "BF"))
    ]
    with pytest.raises(ImageFormatError, match=r"0: 'HAADF' \(5, 6\); 1: 'BF'"):
        read_micrograph(tmp_path / "a.dm4")
    image = read_micrograph(tmp_path / "a.dm4", index=1)
    assert np.array_equal(image.data, grey((5, 6), seed=1))
    assert image.pixel_size is None


def test_a_title_names_an_image(tmp_path, plugin):
    (tmp_path / "a.dm4").write_bytes(DM4)
    axes = [axis(5, 0), axis(6, 1)]
    titles = ("HAADF", "BF", "DF2", "DF4", "DF4")
    plugin.found = [
        signal(grey((5, 6), seed=seed), axes, title)
        for seed, title in enumerate(titles)
    ]
    for wanted, seed in {"haadf": 0, "BF": 1, "df2": 2, "AAD": 0}.items():
        image = read_micrograph(tmp_path / "a.dm4", wanted)
        assert np.array_equal(image.data, grey((5, 6), seed=seed)), wanted
    for wanted, what in {"DF4": "2", "DF": "3", "ABF": "no"}.items():
        # "DF" is also a part of "HAADF"; that is one more.
        what = "4" if wanted == "DF" else what
        with pytest.raises(
            ImageFormatError, match=f"has {what} images with '{wanted}'"
        ):
            read_micrograph(tmp_path / "a.dm4", wanted)
    with pytest.raises(ImageFormatError, match=r"such as .*a.dm4@HAADF \(in Python"):
        read_micrograph(tmp_path / "a.dm4")


@pytest.mark.parametrize(
    "units, what", [("1/nm", "diffraction pattern or"), ("mrad", "diffraction pattern")]
)
def test_a_diffraction_pattern_is_said_to_be_one(tmp_path, plugin, caplog, units, what):
    (tmp_path / "a.dm4").write_bytes(DM4)
    axes = [axis(5, i, scale=0.03, units=units) for i in range(2)]
    plugin.found = [signal(grey((5, 5)), axes)]
    image = read_micrograph(tmp_path / "a.dm4")
    assert image.units == units
    assert convert_pixel_size(image.pixel_size, image.units, "nm") is None
    assert what in caplog.text and "a.dm4" in caplog.text
    caplog.clear()
    plugin.found = [
        signal(grey((5, 5)), [axis(5, i, scale=0.03, units="nm") for i in range(2)])
    ]
    read_micrograph(tmp_path / "a.dm4")
    assert not caplog.text


def hdf5(path, fill):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        fill(file)
    return str(path)


def test_content_of_hdf5_counts_and_not_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr(micrograph_readers, "rosettasciio_plugin", lambda *a: None)
    kind = micrograph_readers.kind_of_hdf5
    path = hdf5(tmp_path / "a.emd", lambda f: f.create_group("Experiments/x"))
    assert kind(path) == "hspy"

    def velox(file):
        file.create_group("Data/Image/0")
        file["Version"] = "{}"

    assert kind(hdf5(tmp_path / "b.hspy", velox)) == "emd"

    def berkeley(file):
        file.create_group("data/image").attrs["emd_group_type"] = 1

    assert kind(hdf5(tmp_path / "c.h5", berkeley)) == "emd"
    path = hdf5(tmp_path / "d.hdf5", lambda f: f.create_group("other"))
    with pytest.raises(ImageFormatError, match="neither HyperSpy's.*holds other"):
        kind(path)
    (tmp_path / "e.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 300)
    with pytest.raises(ImageFormatError, match="e.hdf5: cannot be read as HDF5"):
        kind(str(tmp_path / "e.hdf5"))


@pytest.mark.parametrize("suffix", ["hdf5", "hspy", "emd"])
def test_a_file_of_hyperspy_by_any_name(tmp_path, suffix):
    pytest.importorskip("rsciio.hspy")
    write_micrograph(tmp_path / "a.hspy", grey((6, 5), "f4"), (0.2, 0.3), "nm")
    path = tmp_path / f"b.{suffix}"
    (tmp_path / "a.hspy").rename(path)
    image = read_micrograph(path)
    assert np.array_equal(image.data, grey((6, 5), "f4"))
    assert (image.pixel_size, image.units) == ((0.2, 0.3), "nm")


def test_colours_through_rosettasciio(tmp_path, plugin):
    (tmp_path / "a.dm4").write_bytes(DM4)
    data = np.zeros((5, 6), [(name, "u1") for name in "RGBA"])
    for name in "RGB":
        data[name] = grey((5, 6))
    plugin.found = [signal(data, [axis(5, 0), axis(6, 1)])]
    assert np.array_equal(read_micrograph(tmp_path / "a.dm4").data, grey((5, 6)))
    data["G"][0, 0] ^= 1
    with pytest.raises(ImageFormatError, match="colour picture"):
        read_micrograph(tmp_path / "a.dm4")


def test_spectra_and_damaged_files(tmp_path, plugin):
    (tmp_path / "a.dm4").write_bytes(DM4)
    plugin.found = [signal(grey((9,)), [axis(9, 0)])]
    with pytest.raises(ImageFormatError, match="no image .spectra only"):
        read_micrograph(tmp_path / "a.dm4")

    def fail(path, **options):
        raise struct.error("unpack requires 4 bytes")

    plugin.file_reader = fail
    with pytest.raises(ImageFormatError, match="damaged or truncated: error: unpack"):
        read_micrograph(tmp_path / "a.dm4")


def test_without_rosettasciio_the_extra_is_named(tmp_path, monkeypatch):
    plugins = [f"rsciio.{x}" for x in micrograph_readers._PLUGINS.values()]
    for name in ("rsciio", *plugins):
        monkeypatch.setitem(sys.modules, name, None)
    files = {"a.dm4": DM4, "a.ser": b"II\x97\x01", "a.emd": b"\x89HDF\r\n\x1a\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageFormatError, match=r"pip install 'ppmat\[stem\]'"):
            read_micrograph(tmp_path / name)
    with pytest.raises(ImageFormatError, match=r"pip install 'ppmat\[stem\]'"):
        check_writable(tmp_path / "out.hspy")


@pytest.mark.parametrize("shape", [(6, 5), (3, 6, 5), (2, 1, 6, 5)])
def test_hspy_round_trip(tmp_path, shape):
    pytest.importorskip("rsciio.hspy")
    values = grey(shape, "f4")
    metadata = {"dose": 1e4, "steps": [1, 2], "nested": {"a": None}}
    write_micrograph(tmp_path / "a.hspy", values, (0.0118, 0.012), "nm", metadata)
    image = read_micrograph(tmp_path / "a.hspy")
    assert np.array_equal(image.data, values) and image.data.dtype == np.float32
    assert image.pixel_size == (0.0118, 0.012) and image.units == "nm"
    assert image.metadata["original_metadata"] == metadata


def test_hyperspy_reads_the_scale_of_our_tiff(tmp_path):
    hyperspy = pytest.importorskip("hyperspy.api")
    values = grey((6, 5), "f4")
    for pixel_size, units in (((0.0118, 0.012), "nm"), ((1e-5, 2e-5), "µm")):
        write_micrograph(tmp_path / "a.tif", values, pixel_size, units)
        found = hyperspy.load(tmp_path / "a.tif")
        x, y = found.axes_manager.signal_axes
        assert (y.scale, x.scale) == pytest.approx(pixel_size)
        assert x.units == y.units == units
        assert np.array_equal(found.data, values)


# Writing ---------------------------------------------------------------------------


def shapes(most=5):
    return hnp.array_shapes(min_dims=2, max_dims=most, min_side=1, max_side=5)


@given(
    data=hnp.arrays("f4", shapes(), elements=st.floats(width=32)),
    pixel_size=st.one_of(
        st.none(), st.tuples(*[st.floats(1e-5, 900, allow_subnormal=False)] * 2)
    ),
    units=st.sampled_from(["pm", "nm", "Å", "µm"]),
)
@settings(max_examples=60, deadline=None)
def test_tiff_round_trip(tmp_path_factory, data, pixel_size, units):
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    metadata = {"scaling": {"offset": -0.25, "scale": 1e-3}, "title": "Å µm 電"}
    write_micrograph(path, data, pixel_size, units, metadata)
    image = read_micrograph(path)
    assert image.data.shape == data.shape and image.data.dtype == np.float32
    assert np.array_equal(image.data, data, equal_nan=True)
    assert image.metadata == metadata
    if pixel_size is None:
        assert image.pixel_size is None
    else:
        found = convert_pixel_size(image.pixel_size, image.units, units)
        assert found == pytest.approx(pixel_size, rel=1e-9)
    assert [path.name] == [p.name for p in path.parent.iterdir()]


@given(
    data=st.sampled_from(NUMBERS).flatmap(lambda dtype: hnp.arrays(dtype, shapes(4)))
)
@settings(max_examples=40, deadline=None)
def test_npy_keeps_any_type(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    write_micrograph(path, data, dtype=data.dtype)
    found = read_micrograph(path).data
    assert found.dtype == data.dtype and found.shape == data.shape
    assert found.tobytes() == data.tobytes()


def test_imagej_finds_what_we_write(tmp_path):
    values = grey((4, 6, 5), "f4")
    write_micrograph(tmp_path / "a.tif", values, (0.0118, 0.012), "µm", {"a": 1})
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_imagej and file.series[0].axes == "TYX"
        assert file.imagej_metadata["unit"] == "micron"
        assert json.loads(file.imagej_metadata["Info"])["ppmat"]["metadata"] == {"a": 1}
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert denominator / numerator == pytest.approx(0.012, rel=1e-8)
        assert np.array_equal(file.asarray(), values)


def test_scale_changed_in_another_program_wins(tmp_path):
    write_micrograph(tmp_path / "a.tif", grey((6, 5), "f4"), (0.01, 0.01), "nm")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        info = file.imagej_metadata["Info"]
    tifffile.imwrite(
        tmp_path / "b.tif",
        grey((6, 5), "f4"),
        imagej=True,
        resolution=(50.0, 50.0),
        metadata={"unit": "nm", "Info": info},
    )
    assert read_micrograph(tmp_path / "b.tif").pixel_size == pytest.approx((0.02, 0.02))


def test_mrc_round_trip(tmp_path):
    for shape in ((6, 5), (3, 6, 5)):
        values = grey(shape, "f4")
        write_micrograph(tmp_path / "a.mrc", values, (11.8, 12.0), "pm")
        image = read_micrograph(tmp_path / "a.mrc")
        assert np.array_equal(image.data, values)
        assert image.pixel_size == pytest.approx((0.118, 0.12)) and image.units == "Å"
    with pytest.raises(ImageFormatError, match="MRC holds images and stacks"):
        write_micrograph(tmp_path / "b.mrc", grey((2, 2, 6, 5), "f4"))


def test_integers_are_rounded_and_never_wrap_around(tmp_path):
    values = np.array([[-3.0, 0.4, 0.6, 254.5], [255.4, 256.0, 1e9, 1.0]])
    write_micrograph(tmp_path / "a.tif", values, dtype="uint8")
    found = read_micrograph(tmp_path / "a.tif").data
    assert found.tolist() == [[0, 0, 1, 254], [255, 255, 255, 1]]
    limits = np.array([[2**63 - 1, -(2**63)]], "i8")
    write_micrograph(tmp_path / "b.npy", limits, dtype="uint64")
    assert read_micrograph(tmp_path / "b.npy").data.tolist() == [[2**63 - 1, 0]]
    write_micrograph(tmp_path / "c.npy", limits.astype("f8"), dtype="int64")
    assert read_micrograph(tmp_path / "c.npy").data.tolist() == limits.tolist()
    with pytest.raises(ImageFormatError, match="1 pixels are NaN.*write float32"):
        write_micrograph(tmp_path / "d.tif", np.array([[np.nan, 1]]), dtype="uint16")


def test_floats_that_do_not_fit(tmp_path):
    with pytest.raises(ImageFormatError, match="1 values are too large for float32"):
        write_micrograph(tmp_path / "a.npy", np.array([[1e300, np.inf]]))
    write_micrograph(tmp_path / "b.npy", np.array([[1e300, np.inf]]), dtype="float64")
    assert read_micrograph(tmp_path / "b.npy").data.tolist() == [[1e300, np.inf]]


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.tif").mkdir()
    refused = {
        "a.png": ".png is not written",
        "a": "a name without suffix is not written",
        "a.dm4": "wanted one of .tif",
    }
    for name, reason in refused.items():
        with pytest.raises(ImageFormatError, match=reason):
            check_writable(tmp_path / name)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_writable(tmp_path / "folder.tif")
    with pytest.raises(FileNotFoundError, match="no such folder|does not exist"):
        check_writable(tmp_path / "missing" / "a.tif")
    for dtype in ("float64", "int32", "complex64", "bool"):
        with pytest.raises(ImageFormatError, match=f"{dtype} is not written to .tif"):
            check_writable(tmp_path / "a.tif", dtype=dtype)
    for pixel_size in ((0, 1), (1, -1), (np.nan, 1), (1,), 3):
        with pytest.raises(ImageFormatError, match="wanted two positive numbers"):
            check_writable(tmp_path / "a.tif", pixel_size, "nm")
    with pytest.raises(ImageFormatError, match="keeps pixel sizes in Å"):
        check_writable(tmp_path / "a.mrc", (1, 1), "1/nm")
    with pytest.raises(ImageFormatError, match="complex"):
        write_micrograph(tmp_path / "a.tif", np.ones((2, 2), "c8"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.tif"]


def test_failed_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    write_micrograph(path, grey((6, 5), "f4"))
    before = path.read_bytes()

    def fail(name, *args, **kwargs):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(InputError, match="No space left"):
        write_micrograph(path, grey((6, 5), "f4", seed=1))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


# Units and metadata ----------------------------------------------------------------


def test_units_have_one_spelling():
    for text in ("um", "µm", "μm", "micron", "\\u00B5m", b"\xb5m", "Micrometer"):
        assert clean_units(text) == "µm", text
    for text in ("Å", "Å", "A", "angstrom", "\\u00C5"):
        assert clean_units(text) == "Å", text
    for text, units in {
        "[n_m]": "nm",
        "n_m": "nm",
        "p_m": "pm",
        "[u_m]": "µm",
        "1 / nm": "1/nm",
        "[1/n_m]": "1/nm",
        "[n_m^-1]": "1/nm",
        "nm^-1": "1/nm",
        "nm⁻¹": "1/nm",
        "1/A": "1/Å",
        "Å^-1": "1/Å",
        "mrad": "mrad",
        "1/s": "1/s",
        "eV": "eV",
    }.items():
        assert clean_units(text) == units, text
    for text in (None, "", "pixel", "<undefined>", "[]", 3):
        assert clean_units(text) is None
    assert clean_units("1/nm") == "1/nm"


def test_checked_pixel_size():
    assert checked_pixel_size((2, 3), ("nm", "nm")) == ((2, 3), "nm")
    assert checked_pixel_size((20, 3), ("pm", "Å")) == (pytest.approx((0.2, 3)), "Å")
    assert checked_pixel_size((1e-9, 2e-9), ("m", "m")) == (pytest.approx((1, 2)), "nm")
    assert checked_pixel_size((-1, 2), ("nm", "nm")) == ((1, 2), "nm")
    for sizes, units in [
        ((1, 1), (None, None)),
        ((0, 1), ("nm", "nm")),
        ((np.nan, 1), ("nm", "nm")),
        (("x", 1), ("nm", "nm")),
        ((None, None), ("nm", "nm")),
        ((1, 2), ("nm", "eV")),
        ((4e7, 4e7), ("m", "m")),
    ]:
        assert checked_pixel_size(sizes, units) == (None, None)
    assert checked_pixel_size((0.5, 0.5), (None, "px")) == ((0.5, 0.5), None)


def test_metadata_become_plain_values():
    found = jsonable(
        {
            1: np.float32(0.5),
            "nan": np.nan,
            "list": (np.int64(1), [np.bool_(True)]),
            "bytes": b"text\0",
            "binary": b"\xff\xfe",
            "long": "x" * 200_000,
            "array": np.arange(3),
            "table": np.zeros((100, 100)),
            "object": object(),
            "kind": tifffile.PHOTOMETRIC.RGB,
        }
    )
    json.dumps(found, allow_nan=False)
    assert found["1"] == 0.5 and found["nan"] == "nan"
    assert found["list"] == [1, [True]] and found["array"] == [0, 1, 2]
    assert found["bytes"] == "text" and found["kind"] == "RGB"
    for key in ("binary", "long", "table", "object"):
        assert found[key].startswith("left out: "), key
