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

"""Small valid image files of every format that is read, as bytes.

Formats that no package here writes are written by hand, after the descriptions in the
documentation of HyperSpy (DigitalMicrograph) and of TIA (``.ser``).
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from PIL import PngImagePlugin

from ppmat.stem.images.micrograph import write_micrograph

_SHAPE = (9, 12)


def _image(dtype: str = "uint16", shape: tuple = _SHAPE) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 250, shape)
    return values.astype(dtype)


def _in_file(suffix: str, write: Callable[[Path], Any]) -> bytes:
    """Return the bytes that ``write`` puts into a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"seed{suffix}"
        write(path)
        return path.read_bytes()


def png() -> list[bytes]:
    """Grey of 8 and 16 bits, palette, two levels, equal colours, text, two frames."""
    grey = Image.fromarray(_image("uint8"))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "microscope " * 30, zip=True)
    text.add_itxt("Title", "HAADF", zip=True)
    images: list[tuple[Image.Image, dict]] = [
        (grey, {}),
        (Image.fromarray(_image()), {}),
        (grey.quantize(16), {}),
        (grey.convert("1"), {}),
        (grey.convert("RGB"), {}),
        (grey, {"pnginfo": text, "icc_profile": bytes(500)}),
        (grey, {"save_all": True, "append_images": [grey.rotate(180)]}),
    ]
    found = []
    for image, options in images:
        out = io.BytesIO()
        image.save(out, "PNG", **options)
        found.append(out.getvalue())
    return found


def tiff() -> list[bytes]:
    """Files of this package, of ImageJ and OME; big, tiled, compressed, many pages."""
    stack = _image(shape=(3, *_SHAPE))
    kinds: list[tuple[np.ndarray, dict]] = [
        (_image("uint8"), {}),
        (_image("float32"), {"bigtiff": True}),
        (_image(shape=(32, 32)), {"tile": (16, 16), "compression": "zlib"}),
        (stack, {"photometric": "minisblack"}),
        (stack, {"imagej": True}),
        (stack, {"ome": True, "photometric": "minisblack"}),
        (stack, {"byteorder": ">", "photometric": "minisblack", "metadata": None}),
    ]
    own = {"pixel_size": (0.01, 0.01), "units": "nm", "metadata": {"voltage": 200}}
    found = [_in_file(".tif", lambda path: write_micrograph(path, stack, **own))]
    for array, options in kinds:
        options = {"metadata": {"axes": "YX" if array.ndim == 2 else "ZYX"}, **options}
        big = {key: options.pop(key) for key in _OF_THE_FILE & set(options)}
        out = io.BytesIO()
        with tifffile.TiffWriter(out, **big) as file:
            file.write(array, **options)
        found.append(out.getvalue())
    with_thumbnail = io.BytesIO()
    with tifffile.TiffWriter(with_thumbnail) as file:
        file.write(_image(), subifds=1, metadata=None)
        file.write(_image(shape=(4, 6)), subfiletype=1, metadata=None)
    return [*found, with_thumbnail.getvalue()]


_OF_THE_FILE = {"bigtiff", "imagej", "ome", "byteorder"}


def npy() -> list[bytes]:
    """Integers, floats, Fortran order, a stack."""
    found = []
    for array in (
        _image(),
        _image("float64"),
        np.asfortranarray(_image("int8")),
        _image(shape=(2, *_SHAPE)),
    ):
        out = io.BytesIO()
        np.save(out, array)
        found.append(out.getvalue())
    return found


def mrc() -> list[bytes]:
    """An image, a stack, a volume with an extended header."""
    import mrcfile

    def write(path: Path, array: np.ndarray, extended: bytes = b"") -> None:
        with mrcfile.new(path) as file:
            file.set_data(array)
            file.voxel_size = 1.5
            if extended:
                file.set_extended_header(np.frombuffer(extended, "V1"))

    arrays = _image("float32"), _image("int16", (2, *_SHAPE)), _image("int8")
    found = [_in_file(".mrc", lambda path, a=a: write(path, a)) for a in arrays]
    return [*found, _in_file(".mrc", lambda path: write(path, arrays[0], bytes(256)))]


class _Tags:
    """Writes the tag tree of DigitalMicrograph 3 or 4."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.size = ">q" if version == 4 else ">i"

    def number(self, value: int) -> bytes:
        """Return a length as this version writes it."""
        return struct.pack(self.size, value)

    def group(self, tags: list[tuple[str, bytes]]) -> bytes:
        """Return a group; each of its tags is a name and ``group`` or ``value``."""
        body = b""
        for name, content in tags:
            kind, content = content[:1], content[1:]
            body += kind + struct.pack(">h", len(name)) + name.encode() + content
        size = self.number(len(body)) if self.version == 4 else b""
        return b"\x14\x00\x00" + size + self.number(len(tags)) + body

    def value(self, info: list[int], data: bytes) -> bytes:
        """Return a data tag of this type."""
        content = b"%%%%" + self.number(len(info))
        content += b"".join(map(self.number, info)) + data
        size = self.number(len(content)) if self.version == 4 else b""
        return b"\x15" + size + content

    def long(self, value: int) -> bytes:
        """Return a number."""
        return self.value([5], struct.pack("<I", value))

    def text(self, text: str) -> bytes:
        """Return a text, an array of 16-bit characters."""
        return self.value([20, 4, len(text)], text.encode("utf-16-le"))

    def file(self, tags: list[tuple[str, bytes]]) -> bytes:
        """Return the file with these tags at its root."""
        root = self.group(tags)[1:]
        if self.version == 4:  # the root group has no size
            root = root[:2] + root[10:]
        head = struct.pack(">i", self.version) + self.number(len(root))
        return head + struct.pack(">i", 1) + root + bytes(8)


def dm(version: int) -> bytes:
    """Return a DigitalMicrograph file with one image and a few other tags."""
    tags = _Tags(version)
    image = _image()
    real = struct.pack("<f", 0.5)
    dimension = tags.group(
        [("Origin", tags.value([6], real)), ("Scale", tags.value([6], real))]
        + [("Units", tags.text("nm"))]
    )
    calibrations = [("Dimension", tags.group([("", dimension)] * 2))]
    calibrations += [("Brightness", dimension)]
    sizes = [("", tags.long(image.shape[1])), ("", tags.long(image.shape[0]))]
    data = [
        ("Calibrations", tags.group(calibrations)),
        ("Data", tags.value([20, 4, image.size], image.tobytes())),
        ("DataType", tags.long(10)),
        ("Dimensions", tags.group(sizes)),
        ("PixelDepth", tags.long(2)),
    ]
    area = tags.value([15, 0, 2, 0, 5, 0, 5], struct.pack("<II", 1, 2))
    areas = tags.value([20, 15, 0, 2, 0, 5, 0, 5, 3], struct.pack("<6I", *range(6)))
    listed = [
        ("ImageData", tags.group(data)),
        ("Name", tags.text("HAADF")),
        ("ImageTags", tags.group([("Area", area), ("Areas", areas)])),
    ]
    return tags.file(
        [("Version", tags.long(1))]
        + [("ImageList", tags.group([("", tags.group(listed))]))]
    )


def digital_micrograph() -> list[bytes]:
    """Versions 3 and 4."""
    return [dm(3), dm(4)]


def ser() -> list[bytes]:
    """One image and a series of two, with 32-bit and 64-bit offsets."""
    found = []
    for count in (1, 2):
        for version, form in ((0x210, "<I"), (0x220, "<Q")):
            image = _image()
            dimension = struct.pack("<IddIII", count, 0.0, 1.0, 0, 6, 0)[:-4]
            dimension += b"Number" + struct.pack("<I", 0)
            start = 26 + struct.calcsize(form) + len(dimension)
            element = struct.pack("<ddIddI", 0.0, 1e-10, 0, 0.0, 1e-10, 0)
            element += struct.pack("<HII", 2, *image.shape[::-1]) + image.tobytes()
            first = start + 2 * count * struct.calcsize(form)
            places = [first + i * len(element) for i in range(count)]
            tags = [first + count * len(element) + 8 * i for i in range(count)]
            head = struct.pack(
                "<HHhIIII", 0x4949, 0x197, version, 0x4122, 0x4152, count, count
            )
            head += struct.pack(form, start) + struct.pack("<I", 1) + dimension
            offsets = b"".join(struct.pack(form, place) for place in (*places, *tags))
            marks = struct.pack("<HxxI", 0x4152, 1_700_000_000) * count
            found.append(head + offsets + element * count + marks)
    return found


def emd() -> list[bytes]:
    """One file as Velox writes it, one as Berkeley does."""
    import h5py

    def velox(path: Path) -> None:
        with h5py.File(path, "w") as file:
            group = file.create_group("Data/Image/0123456789abcdef0123456789abcdef")
            group["Data"] = _image()[..., None]
            text = json.dumps(_VELOX).encode()
            column = np.zeros((2 * len(text), 1), np.uint8)
            column[: len(text), 0] = np.frombuffer(text, np.uint8)
            group["Metadata"] = column
            file["Version"] = np.array(
                [json.dumps({"format": "Velox", "version": "1.0"}).encode()]
            )

    def berkeley(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs.update({"version_major": 0, "version_minor": 2})
            group = file.create_group("data/image")
            group.attrs["emd_group_type"] = 1
            group.create_dataset("data", data=_image(), compression="gzip")
            for number, size in enumerate(_SHAPE, 1):
                group[f"dim{number}"] = np.arange(size) * 0.1
                group[f"dim{number}"].attrs.update(
                    {"name": "xy"[number - 1], "units": "nm"}
                )

    return [_in_file(".emd", velox), _in_file(".emd", berkeley)]


_VELOX = {
    "BinaryResult": {
        "PixelSize": {"width": "1e-10", "height": "1e-10"},
        "Offset": {"x": "0", "y": "0"},
        "PixelUnitX": "m",
        "PixelUnitY": "m",
        "Detector": "HAADF",
        "DetectorIndex": "0",
    },
    "Core": {},
    "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1700000000"}},
    "Instrument": {},
    "Optics": {"AccelerationVoltage": "200000"},
    "Stage": {},
    "Detectors": {"Detector-0": {"DetectorName": "HAADF"}},
}


def hspy() -> list[bytes]:
    """An image and a stack."""

    def write(path: Path, shape: tuple) -> None:
        write_micrograph(path, _image(shape=shape), (0.1, 0.1), "nm", {"voltage": 200})

    shapes = _SHAPE, (2, *_SHAPE)
    return [_in_file(".hspy", lambda path, s=shape: write(path, s)) for shape in shapes]
