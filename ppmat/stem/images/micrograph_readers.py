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

"""Readers of the image formats; ``ppmat.stem.images.micrograph`` chooses one.

Each takes ``(path, index)`` and returns a ``Micrograph`` whose array is not checked
yet. The image libraries are imported when they are needed.

The pixel size of a TIFF file comes from the first of these that has one:

1. ImageJ's description with the resolution tags,
2. OME XML,
3. the tags of DigitalMicrograph (65003 to 65010),
4. the resolution tags alone, if their pixels are too small for a printer.

Sources: TIFF 6.0; the documentation of tifffile (BSD), which decodes the files; the tag
numbers of DigitalMicrograph in the documentation of HyperSpy.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import re
import threading
import xml.etree.ElementTree
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppmat.stem.images.declared_size import check_decoded_bytes
from ppmat.stem.images.declared_size import check_hdf5_heaps
from ppmat.stem.images.declared_size import check_mrc_size
from ppmat.stem.images.declared_size import check_png_frames
from ppmat.stem.images.declared_size import check_tiff_chain
from ppmat.stem.images.micrograph_base import ImageFormatError
from ppmat.stem.images.micrograph_base import Micrograph
from ppmat.stem.images.micrograph_base import checked_pixel_size
from ppmat.stem.images.micrograph_base import clean_units
from ppmat.stem.images.micrograph_base import grey_from_colour
from ppmat.stem.images.micrograph_base import jsonable
from ppmat.utils.errors import text_of

# Fields of the MRC header kept as metadata; the others describe the storage.
_MRC_HEADER = (
    "mode nxstart nystart nzstart cella cellb dmin dmax dmean rms ispg exttyp nversion "
    "origin"
).split()
_MIN_MAPPED_BYTES = 1 << 26  # larger .npy files are mapped instead of read

# Spectra are not read; those of Velox can be large, and need more packages.
_READER_OPTIONS = {"emd": {"select_type": "images"}}
# Readers of RosettaSciIO, by the names of ``ppmat.stem.images.micrograph``.
_PLUGINS = {"dm": "digitalmicrograph", "emd": "emd", "hspy": "hspy", "ser": "tia"}

OWN_KEY = "ppmat"  # in the JSON text that write_micrograph puts into ImageJ's "Info"
_MIN_PRINTER_PIXEL = 1000.0  # nm; resolution tags with larger pixels are for printers
_OME_DEFAULT_UNITS = "µm"
# Tags of TIFF that describe the storage; they are not kept as metadata.
_STORAGE_TAGS = (
    "ColorMap IJMetadata IJMetadataByteCounts StripByteCounts StripOffsets "
    "TileByteCounts TileOffsets"
).split()
# What to do, by a part of the library's error.
_HINTS = {
    "imagecodecs": "pip install imagecodecs (part of 'ppmat[stem]'), or save the image "
    "without compression",
    "decompression bomb": "Images as large as this are read from TIFF or npy",
}

# nm. Pixels of images are smaller; those of diffraction patterns seem to be 1e14 nm.
_MAX_SER_PIXEL = 1e6
_MOST_LISTED = 20  # images of a file named in an error

Scale = tuple[tuple[float, float] | None, str | None]
# Number from 0, or title, of an image in a file that holds several.
Index = int | str | None


@contextlib.contextmanager
def _reading(path: str, kind: str) -> Iterator[None]:
    """Report errors of an image library as ``ImageFormatError``."""
    try:
        yield
    except ImageFormatError:
        raise
    except MemoryError as error:
        raise ImageFormatError(
            f"{path}: is damaged, or larger than the memory: {error}"
        ) from error
    except Exception as error:  # damaged files raise many kinds of errors
        text = f"cannot be read as {kind}, damaged or truncated: {text_of(error)}"
        for part, hint in _HINTS.items():
            if part in str(error):
                text = f"{error}. {hint}"
        raise ImageFormatError(f"{path}: {text}") from error


def choose(
    path: str, titles: list[str], index: Index, shapes: Sequence[Any] | None = None
) -> int:
    """Return the number of the image to read from a file that holds these images.

    Args:
        path: The file.
        titles: Of the images; they may be equal or empty.
        index: What the user wants. A title counts without regard to case; a part of
            one is enough if no other title has it.
        shapes: Of the images, for the message.

    Raises:
        ImageFormatError: There is no such image, there are several, or ``index`` is
            None and there are several.
    """
    if not titles:
        raise ImageFormatError(f"{path}: holds no image")
    if isinstance(index, str):
        wanted = index.casefold()
        names = [title.casefold() for title in titles]
        found = [i for i, name in enumerate(names) if name == wanted]
        found = found or [i for i, name in enumerate(names) if wanted in name]
        if len(found) == 1:
            return found[0]
        what = f"has {len(found) or 'no'} images with {index!r} in the title; it "
    elif index is None:
        if len(titles) == 1:
            return 0
        what = ""
    elif 0 <= index < len(titles):
        return index
    else:
        what = f"has no image {index}, counted from 0; it "
    listing = [
        f"{i}: {title!r}" + ("" if shapes is None else f" {tuple(shapes[i])}")
        for i, title in enumerate(titles[:_MOST_LISTED])
    ]
    if len(titles) > _MOST_LISTED:
        listing.append(f"and {len(titles) - _MOST_LISTED} more")
    raise ImageFormatError(
        f"{path}: {what}holds {len(titles)} images ({'; '.join(listing)}); name one, "
        f"such as {path}@{_example(titles)} (in Python: index={_example(titles)!r})"
    )


def _example(titles: list[str]) -> int | str:
    """Return the first title if it names one image and is no number, else 0."""
    title = titles[0]
    clear = title and not title.isdecimal() and titles.count(title) == 1
    return title if clear and not re.search(r"\s", title) else 0


def read_png(path: str, index: Index) -> Micrograph:
    """Read grey PNG of 1 to 16 bits, and colour PNG whose channels are equal.

    Depths below 8 bits become 0..255, with black 0 and white 255 (PNG standard).
    """
    from PIL import Image

    with open(path, "rb") as file:
        head = file.read(26)
    if len(head) < 26:
        raise ImageFormatError(f"{path}: truncated PNG file ({len(head)} bytes)")
    depth, colour = head[24], head[25]
    if depth == 16 and colour != 0:
        raise ImageFormatError(
            f"{path}: is a colour PNG of 16 bits a channel, which Pillow would cut to "
            "8 bits; save it as 16-bit grey PNG or as TIFF"
        )
    with _reading(path, "PNG"), Image.open(path, formats=["PNG"]) as image:
        frames = getattr(image, "n_frames", 1)
        check_png_frames(path, frames)
        image.seek(choose(path, [f"frame {i}" for i in range(frames)], index))
        image.load()
        info = {"format": "PNG", "mode": image.mode, **image.info}
        if image.mode == "P" or "transparency" in image.info:
            image = image.convert("RGBA")
        data = np.array(image)
    if data.dtype == bool:
        data = data * np.uint8(255)
    elif data.dtype == np.int32:  # Pillow before 11.3 gives 16 bits as 32
        data = data.astype(np.uint16)
    if data.ndim == 3:
        data = grey_from_colour(data, int(data.shape[-1] in (2, 4)), path)
    return Micrograph(data, metadata=jsonable(info), path=path)


def read_npy(path: str, index: Index) -> Micrograph:
    """Read an array; arrays of pickled objects are refused."""
    choose(path, ["array"], index)
    with _reading(path, "npy array of numbers (not of Python objects)"):
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    if data.nbytes <= _MIN_MAPPED_BYTES:
        data = np.array(data)
    return Micrograph(data, metadata={"format": "NPY"}, path=path)


def read_mrc(path: str, index: Index) -> Micrograph:
    """Read MRC; the voxel size of its header is in Å. Rows stay in stored order."""
    import mrcfile

    choose(path, ["array"], index)
    check_mrc_size(path)
    with _reading(path, "MRC"), mrcfile.open(path, permissive=False) as file:
        data = np.array(file.data)
        with np.errstate(divide="ignore", invalid="ignore"):  # HyperSpy writes 0 cells
            sizes = (float(file.voxel_size.y), float(file.voxel_size.x))
        header = {name: file.header[name].tolist() for name in _MRC_HEADER}
        labels = file.get_labels()
    metadata = {"format": "MRC", "header": header, "labels": labels}
    scale = checked_pixel_size(sizes, ("Å", "Å"))
    return Micrograph(data, *scale, jsonable(metadata), path)


def rosettasciio_plugin(kind: str, path: str) -> Any:
    """Return the module of RosettaSciIO for a kind of file, if it is installed."""
    try:
        return importlib.import_module(f"rsciio.{_PLUGINS[kind]}")
    except ImportError as error:
        raise ImageFormatError(
            f"{path}: files of this kind are read and written through RosettaSciIO, "
            f"which cannot be imported: {error}; pip install 'ppmat[stem]' (from this "
            "tree: pip install '.[stem]')"
        ) from error


def kind_of_hdf5(path: str) -> str:
    """Return ``hspy`` or ``emd`` by the groups in an HDF5 file, whatever its name.

    HyperSpy keeps its signals in ``Experiments``. Velox has ``Data`` and ``Version``.
    Groups of Berkeley EMD have the attribute ``emd_group_type``.

    Raises:
        ImageFormatError: It is the file of another program, or damaged.
    """
    rosettasciio_plugin("hspy", path)  # which also brings h5py
    check_hdf5_heaps(path)
    import h5py

    def marked(name: str, item: Any) -> bool | None:
        return True if "emd_group_type" in item.attrs else None  # True ends the visit

    with _reading(path, "HDF5"), h5py.File(path, "r") as file:
        if "Experiments" in file:
            return "hspy"
        if {"Data", "Version"} <= set(file) or file.visititems(marked):
            return "emd"
        groups = ", ".join(list(file)[:_MOST_LISTED])
    raise ImageFormatError(
        f"{path}: is an HDF5 file, but neither HyperSpy's nor EMD of Velox or "
        f"Berkeley (it holds {groups or 'nothing'}); save the image as TIFF or npy"
    )


def read_rosettasciio(kind: str, path: str, index: Index) -> Micrograph:
    """Read one image or stack of a file through RosettaSciIO.

    Spectra and maps in the same file are ignored. The axes are put in the order
    [..., y, x] with the information of the file.
    """
    plugin = rosettasciio_plugin(kind, path)
    name = plugin.__name__.rpartition(".")[2]
    with _reading(path, f"{name} by RosettaSciIO"):
        signals = plugin.file_reader(path, **_READER_OPTIONS.get(kind, {}))
    images = [signal for signal in signals if len(_axes(signal)[1]) >= 2]
    if signals and not images:
        raise ImageFormatError(
            f"{path}: holds {len(signals)} data sets but no image (spectra only)"
        )
    shapes = [np.shape(signal["data"]) for signal in images]
    signal = images[choose(path, [_title(s) for s in images], index, shapes)]
    axes = sum(_axes(signal), [])
    data = np.asarray(signal["data"])
    data = data.transpose([axis["index_in_array"] for axis in axes])
    if data.dtype.names and set("RGB") <= set(data.dtype.names):
        colours = np.stack([data[name] for name in "RGB"], axis=-1)
        data = grey_from_colour(colours, 0, path)
    sizes, units = ([axis.get(key) for axis in axes[-2:]] for key in ("scale", "units"))
    if kind == "ser" and units == ["nm", "nm"] and min(sizes) > _MAX_SER_PIXEL:
        # RosettaSciIO takes the 1/m of diffraction patterns for m.
        sizes, units = [size * 1e-18 for size in sizes], ["1/nm", "1/nm"]
    scale = checked_pixel_size(sizes, units)
    metadata = {
        "format": name,
        "axes": axes,
        "metadata": signal.get("metadata", {}),
        "original_metadata": signal.get("original_metadata", {}),
    }
    return Micrograph(data, *scale, jsonable(metadata), path)


def _axes(signal: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    """Return the axes of the stack and those of one image, in the array's order."""
    axes = [{"index_in_array": i, **axis} for i, axis in enumerate(signal["axes"])]
    axes.sort(key=lambda axis: axis["index_in_array"])
    stacked = [axis for axis in axes if axis.get("navigate")]
    return stacked, [axis for axis in axes if not axis.get("navigate")]


def _title(signal: dict[str, Any]) -> str:
    return str(signal.get("metadata", {}).get("General", {}).get("title", ""))


def read_tiff(path: str, index: Index) -> Micrograph:
    """Read one image or stack of a TIFF file completely.

    Raises:
        ImageFormatError: The file is damaged or truncated (also a stack with missing
            pages), coloured, in an unknown compression, or holds several images and
            ``index`` is None.
    """
    import tifffile

    check_tiff_chain(path)
    with (
        _reading(path, "TIFF"),
        _logged_errors() as logged,
        tifffile.TiffFile(path) as file,
    ):
        # Thumbnails are ignored.
        found = [s for s in file.series if not s.keyframe.is_reduced]
        found = found or list(file.series)
        names = [str(series.name) for series in found]
        series = found[choose(path, names, index, [s.shape for s in found])]
        check_decoded_bytes(path, series.nbytes)
        page = series.keyframe
        data = _pixels(series, path)
        data = _grey(data, series.axes, page, bool(file.is_imagej), path)
        own = _own_information(file)
        scale = _scale(file, page)
        tags = {t.name: t.value for t in page.tags if t.name not in _STORAGE_TAGS}
        imagej = file.imagej_metadata or {}
    if logged:
        raise ImageFormatError(
            f"{path}: damaged or truncated TIFF file: {'; '.join(logged)[:300]}"
        )
    if own is None:
        metadata = jsonable({"format": "TIFF", "tags": tags, "imagej": imagej})
        return Micrograph(data, *scale, metadata, path)
    shape = own.get("shape")
    if isinstance(shape, list) and int(np.prod(shape)) == data.size:
        data = data.reshape(shape)
    return Micrograph(data, *scale, own.get("metadata", {}), path)


@contextlib.contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Collect errors that tifffile only logs, such as missing pages of a stack."""
    found: list[str] = []
    thread = threading.get_ident()
    collector = logging.Handler(logging.ERROR)
    collector.addFilter(lambda record: record.thread == thread)
    collector.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger("tifffile")
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)


def _pixels(series: Any, path: str) -> np.ndarray:
    if any(page is None for page in series.pages):
        raise ImageFormatError(
            f"{path}: planes of its stack are missing; they may be in other files that "
            "belong to it"
        )
    # tifffile would fill missing strips and tiles with zeros.
    chunks = math.prod(series.keyframe.chunked)
    for page in series.pages:
        if len(page.dataoffsets) != chunks or not all(page.databytecounts):
            raise ImageFormatError(
                f"{path}: parts of its pixels are missing ({len(page.dataoffsets)} of "
                f"{chunks} strips or tiles), damaged or truncated"
            )
    if not {"Y", "X"} <= set(series.axes):
        raise ImageFormatError(
            f"{path}: has the axes {series.axes!r} with shape {series.shape}; wanted Y "
            "and X"
        )
    return series.asarray().reshape(series.shape)


def _grey(
    data: np.ndarray, axes: str, page: Any, is_imagej: bool, path: str
) -> np.ndarray:
    """Return [..., H, W], colours and bilevel pictures as grey values."""
    ending = "YXS" if "S" in axes else "YX"
    leading = [i for i, axis in enumerate(axes) if axis not in ending]
    data = data.transpose(*leading, *(axes.index(axis) for axis in ending))
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if photometric == "PALETTE" and not is_imagej:
        # ImageJ uses colour tables for display only; in other files they are data.
        data = np.moveaxis(np.asarray(page.colormap)[:, data], 0, -1)
        return grey_from_colour(data, 0, path)
    if ending == "YXS":
        alphas = int(any(int(kind) in (1, 2) for kind in page.extrasamples))
        # Floats in separate planes are three images that a program stored as RGB.
        stack = page.planarconfig == 2 and data.dtype.kind == "f"
        if not stack and (photometric == "RGB" or data.shape[-1] == 1 + alphas):
            if page.planarconfig == 2:
                path = f"{path} (or a stack of {data.shape[-1]} images written as one)"
            return grey_from_colour(data, alphas, path)
        if not stack and photometric not in ("MINISBLACK", "MINISWHITE"):
            raise ImageFormatError(
                f"{path}: is a colour picture ({photometric}); export the image of the "
                "detector as grey TIFF"
            )
        return np.moveaxis(data, -1, -3)
    if data.dtype == bool:
        return (data != (photometric == "MINISWHITE")) * np.uint8(255)
    return data


def _own_information(file: Any) -> dict[str, Any] | None:
    """Return the record of ``write_micrograph``; None for files of other programs."""
    try:
        own = json.loads(file.imagej_metadata["Info"])[OWN_KEY]
    except (KeyError, TypeError, ValueError):
        return None
    return own if isinstance(own, dict) else None


def _scale(file: Any, page: Any) -> Scale:
    def value(tag: str | int, default: Any = None) -> Any:
        return page.tags[tag].value if tag in page.tags else default

    # Unit lengths a pixel along (y, x).
    ratios = [value(f"{axis}Resolution", (0, 0)) for axis in "YX"]
    sizes = [below / above if above else math.nan for above, below in ratios]
    if file.is_imagej:
        units = clean_units((file.imagej_metadata or {}).get("unit"))
        if units in ("inch", "in"):
            return _printable(sizes, 2.54)
        return checked_pixel_size(sizes, (units, units))
    scale = _scale_of_ome(file.ome_metadata) if file.is_ome else (None, None)
    if scale[0] is None:  # DigitalMicrograph
        y, x, y_units, x_units = map(value, (65010, 65009, 65004, 65003))
        scale = checked_pixel_size((y, x), (y_units, x_units))
    if scale[0] is None:
        centimetres = {2: 2.54, 3: 1.0}.get(int(value("ResolutionUnit", 2)), math.nan)
        scale = _printable(sizes, centimetres)
    return scale


def _printable(sizes: list[float], centimetres: float) -> Scale:
    """Return a scale in nm, or None if its pixels are as large as a printer's."""
    scale = checked_pixel_size([size * centimetres for size in sizes], ("cm", "cm"))
    return scale if scale[0] and max(scale[0]) < _MIN_PRINTER_PIXEL else (None, None)


def _scale_of_ome(text: str) -> Scale:
    try:
        root = xml.etree.ElementTree.fromstring(text)
    except xml.etree.ElementTree.ParseError:
        return None, None
    scales = {
        checked_pixel_size(
            [pixels.get(f"PhysicalSize{axis}") for axis in "YX"],
            [
                pixels.get(f"PhysicalSize{axis}Unit", _OME_DEFAULT_UNITS)
                for axis in "YX"
            ],
        )
        for pixels in root.findall("{*}Image/{*}Pixels")
    }
    return scales.pop() if len(scales) == 1 else (None, None)
