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

"""The command average.py."""

import json

import numpy as np
import pytest
import tifffile

from ppmat.commands.average import main
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.utils.download import hash_of_file

SIDE, COUNT, NOISE = 96, 4, 8.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stack of four frames with their pixel size, and the same as single files."""
    folder = tmp_path_factory.mktemp("series")
    rng = np.random.default_rng(0)
    y, x = (g.ravel() for g in np.mgrid[-28:130:14.0, -28:130:14.0])
    frames = []
    for i in range(COUNT):
        ones = np.ones(len(y))
        columns = AtomColumns(y + 1.2 * i, x - 0.6 * i, 100 * ones, 2.8 * ones)
        clean = columns.render((SIDE, SIDE), 40.0)
        frames.append(np.float32(clean + rng.normal(0, NOISE, clean.shape)))
    write_micrograph(folder / "stack.tif", np.array(frames), (0.02, 0.02), "nm")
    for i, frame in enumerate(frames):
        write_micrograph(folder / f"frame_{i}.tif", frame, (20.0, 20.0), "pm")
    write_micrograph(folder / "other_size.tif", frames[0][1:], (0.02, 0.02), "nm")
    write_micrograph(folder / "other_scale.tif", frames[0], (0.05, 0.05), "nm")
    return folder


def test_a_stack_becomes_an_average_with_its_record(folder, tmp_path, capsys) -> None:
    output = tmp_path / "average.tif"
    command = [str(folder / "stack.tif"), "-o", str(output), "--standard_error"]
    assert main(command) == 0
    names = ["average.error.tif", "average.tif", "average.tif.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    found = read_micrograph(output)
    assert found.data.dtype == np.float32
    assert found.pixel_size == pytest.approx((0.02, 0.02))
    state = json.loads((tmp_path / "average.tif.json").read_text())
    assert state["output"]["sha256"] == hash_of_file(output)
    assert state["input"][0]["sha256"] == hash_of_file(folder / "stack.tif")
    last = state["record"]["frames"][-1]
    assert last["shift_px"] == pytest.approx([3.6, -1.8], abs=0.1)
    assert last["shift_nm"] == pytest.approx([0.072, -0.036], abs=0.002)
    noise = NOISE / np.sqrt(COUNT)
    assert state["record"]["noise_of_average"] == pytest.approx(noise, rel=0.1)
    error = read_micrograph(tmp_path / "average.error.tif").data
    assert np.sqrt(np.mean(error**2)) == pytest.approx(noise, rel=0.1)
    assert "average of 4 frames" in capsys.readouterr().out
    # Nothing is replaced unasked; with --overwrite the result is the same.
    before = output.read_bytes()
    assert main(command) == 2
    assert main([*command, "--overwrite"]) == 0
    assert output.read_bytes() == before


def test_files_and_a_stack_give_the_same(folder, tmp_path) -> None:
    for name, inputs in (("a", "stack.tif"), ("b", "frame_?.tif")):
        assert main([str(folder / inputs), "-o", str(tmp_path / f"{name}.tif")]) == 0
    first, second = (tifffile.imread(tmp_path / f"{n}.tif") for n in "ab")
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["frame_0.tif"], "has 1 frame"),
        (["frame_0.tif", "other_size.tif"], "frames of one size"),
        (["frame_0.tif", "other_scale.tif"], "one magnification"),
        (["frame_?.tif", "--reach", "0"], "--reach"),
        (["missing.tif"], "not found"),
    ],
)
def test_bad_input_ends_with_2_and_writes_nothing(
    folder, tmp_path, arguments, text, capfd
) -> None:
    arguments = [str(folder / a) if a.endswith("tif") else a for a in arguments]
    assert main([*arguments, "-o", str(tmp_path / "average.tif")]) == 2
    assert text in capfd.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["frame_0.tif", "average.png"])
def test_a_frame_is_never_replaced(folder, name) -> None:
    before = sorted((p.name, hash_of_file(p)) for p in folder.iterdir())
    command = [str(folder / "frame_?.tif"), "-o", str(folder / name), "--overwrite"]
    assert main(command) == 2
    assert sorted((p.name, hash_of_file(p)) for p in folder.iterdir()) == before
