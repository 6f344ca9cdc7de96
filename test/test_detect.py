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


"""The detecting command: files, formats, models, exit status."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_image import write_image_model

from ppmat.commands.detect import main
from ppmat.predictor.static_program import StaticProgramError
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.utils.files import locked


def write_crystal(path, pixel_size=(0.0118, 0.0118), sign=1):
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(*[np.arange(5)] * 2), -1).reshape(-1, 2)
    y, x = np.concatenate([14.0 * index + 4, 14.0 * index + 11]).T
    height = np.repeat([100.0, 50.0], len(index)) * rng.normal(1, 0.03, len(y))
    columns = AtomColumns(y, x, height, np.full(len(y), 2.5))
    image = columns.render((70, 66), 20.0) + rng.normal(0, 6, (70, 66))
    units = None if pixel_size is None else "nm"
    write_micrograph(path, (sign * image).astype("f4"), pixel_size, units)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    write_crystal("in/a.tif")
    return lambda *options: main("task", list(options))


def test_one_image_with_all_it_can_give(run, capsys):
    options = ["--overlay", "--export", "atomap", "ase", "pymatgen"]
    command = ["in/a.tif", "-o", "c.csv", "--raw", *options, "--elements", "Sr", "Ti"]
    assert run(*command) == 0
    text = capsys.readouterr().out
    assert "c.csv: " in text and "sigma 2.5" in text and " pm)" in text
    table = ColumnTable.from_csv("c.csv")
    assert 40 <= len(table) <= 50
    assert table.pixel_size == pytest.approx((0.0118, 0.0118))
    np.testing.assert_array_equal(np.load("c.atomap.npy"), table.positions[:, ::-1])
    assert "Sr" in Path("c.extxyz").read_text()
    structure = json.loads(Path("c.structure.json").read_text())
    assert structure["@class"] == "Structure" and len(structure["sites"]) == 2
    record = json.loads(Path("c.csv.json").read_text())
    assert record["columns"] == len(table) and record["detection"]["mode"] == "haadf"
    assert Path("c.overlay.png").read_bytes().startswith(b"\x89PNG")
    assert run(*command) == 2
    text = capsys.readouterr().out
    assert "c.csv, c.csv.json" in text and "are there already" in text
    assert run(*command, "--overwrite") == 0


@pytest.mark.parametrize("output", ["out", "c.csv"])
def test_an_output_that_another_process_writes_to(run, capsys, output):
    if output == "out":
        Path(output).mkdir()
    with locked(output):
        assert run("in/a.tif", "-o", output, "--raw") == 2
    assert "another process is writing there" in capsys.readouterr().out
    assert sorted(p.name for p in Path().rglob("*.csv")) == []
    assert run("in/a.tif", "-o", output, "--raw") == 0


def test_several_images_without_pixel_size(run, capsys):
    write_crystal("in/b.tif", None, sign=-1)
    assert run("in/*.tif", "-o", "out", "--raw", "--mode=bf") == 0
    text = capsys.readouterr().out
    assert text.count("the pixel size is unknown: in/b.tif.") == 1
    table = ColumnTable.from_csv("out/b.csv")
    assert table.pixel_size is None and (table.height < 0).all()
    given = ["--pixel_size", "0.012", "--units", "nm"]
    assert run("in/b.tif", "-o", "b.csv", "--raw", "--mode=bf", *given) == 0
    assert ColumnTable.from_csv("b.csv").pixel_size == pytest.approx((0.012, 0.012))


def test_a_failed_export_does_not_take_the_table_along(run, capsys):
    write_crystal("in/b.tif", None)
    Path("out").mkdir()
    Path("out/b.extxyz").write_text("of an earlier table")
    options = ["-o", "out", "--raw", "--overlay", "--overwrite"]
    assert (
        run("in", *options, "--export", "ase", "atomap", "--elements", "Sr", "Ti") == 1
    )
    text = capsys.readouterr().out
    assert "in/b.tif: not exported to ase: the pixel size is unknown, so" in text
    assert "some results were left out: 1 of 2 files; their tables were" in text
    assert "failed" not in text
    names = {path.name for path in Path("out").iterdir()}
    b = {"b.csv", "b.csv.json", "b.overlay.png", "b.atomap.npy"}
    assert names == {name.replace("b.", "a.", 1) for name in b} | b | {"a.extxyz"}
    record = json.loads(Path("out/b.csv.json").read_text())
    assert list(record["left_out"]) == ["not exported to ase"]
    # Nothing but the export fails, and it is the only image.
    assert run("in/a.tif", "-o", "c.csv", "--raw", "--export=ase", "--elements=Sr") == 1
    assert "1 elements (Sr) for 2 groups" in capsys.readouterr().out
    assert Path("c.csv").exists() and not Path("c.extxyz").exists()


def write_stack(path, frames):
    images = []
    for k in range(frames):
        write_crystal("in/frame.npy", None)
        images.append(np.load("in/frame.npy") + k)
    Path("in/frame.npy").unlink()
    np.save(path, np.stack(images))


def test_a_stack_is_one_table(run, capsys):
    write_stack("s.npy", 3)
    images = np.load("s.npy")
    np.save("s.npy", np.append(images, np.zeros((1, 70, 66), "f4"), axis=0))
    options = ["--raw", "--overlay", "--export", "atomap"]
    assert run("s.npy", "-o", "s.csv", *options) == 1
    text = capsys.readouterr().out
    assert "s.npy: frame 3: image: all pixels are equal" in text
    table = ColumnTable.from_csv("s.csv")
    frame = table.extra["frame [1]"]
    assert frame.dtype == int and np.unique(frame).tolist() == [0, 1, 2]
    np.save("one.npy", images[1])
    assert run("one.npy", "-o", "one.csv", "--raw") == 0
    one = ColumnTable.from_csv("one.csv")
    np.testing.assert_array_equal(table.select(frame == 1).positions, one.positions)
    np.testing.assert_array_equal(
        np.load("s.frame_001.atomap.npy"), one.positions[:, ::-1]
    )
    names = {path.name for path in Path().glob("s*")}
    of_frames = {
        f"s.frame_00{k}{end}"
        for k in range(3)
        for end in (".overlay.png", ".atomap.npy")
    }
    assert names == {"s.npy", "s.csv", "s.csv.json"} | of_frames
    record = json.loads(Path("s.csv.json").read_text())
    assert [f["frame"] for f in record["frames"]] == [0, 1, 2]
    assert list(record["left_out"]) == ["frame 3"]
    Path("s.csv").unlink(), Path("s.csv.json").unlink()
    assert run("s.npy", "-o", "s.csv", *options) == 2
    text = capsys.readouterr().out
    assert "s.frame_000.atomap.npy" in text and "are there already" in text
    assert not Path("s.csv").exists()
    assert run("s.npy", "-o", "s.csv", "--enhanced", "one.npy") == 1
    assert "frame 1: one.npy has 1 frame; wanted as many" in capsys.readouterr().out


def test_analyses_and_their_figures(run, capsys):
    analysis = ["--analysis", "displacement", "strain", "voronoi", "--maps"]
    overlay = ["--overlay", "--overlay_color", "sublattice"]
    assert run("in/a.tif", "-o", "a.csv", "--raw", *analysis, *overlay) == 0
    table = ColumnTable.from_csv("a.csv")
    label = table.extra["sublattice [1]"]
    assert (label >= 0).all() and (table.intensity[label == 0] > 800).mean() > 0.9
    assert {"displacement_y [nm]", "e_xy [1]", "voronoi_area [px^2]"} < set(table.extra)
    assert np.nanmedian(abs(table.extra["e_yy [1]"])) < 0.02
    assert np.nanmedian(table.extra["voronoi_area [px^2]"]) == pytest.approx(98, abs=5)
    for name in ("overlay", "displacement", "strain"):
        assert Path(f"a.{name}.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(Path("a.csv.json").read_text())
    (lattice,) = record["detection"]["lattices"]
    assert lattice["columns"] == (label >= 0).sum()
    # A region: only what is computed from the lattice changes.
    region = ["--reference_region", "0", "40", "0", "66"]
    assert run("in/a.tif", "-o", "b.csv", "--raw", "--analysis=strain", *region) == 0
    other = ColumnTable.from_csv("b.csv").extra["e_yy [1]"]
    assert np.nanmax(abs(other - table.extra["e_yy [1]"])) > 1e-5
    np.save("noise.npy", np.random.default_rng(0).normal(size=(40, 40)))
    assert run("noise.npy", "-o", "n.csv", "--raw", *analysis, *overlay) == 1
    text = capsys.readouterr().out
    assert "noise.npy: no displacement, strain: there are no columns" in text
    assert "no overlay figure: there is no sublattice [1] for its colours" in text
    assert len(ColumnTable.from_csv("n.csv")) == 0
    assert not list(Path().glob("n.*.png"))


def test_a_reference_region_is_that_of_the_whole_image(run, monkeypatch):
    seen = []

    def stop(table, names, image, region):
        seen.append((image.shape, region))
        return table

    monkeypatch.setattr("ppmat.commands.detect.analyse", stop)
    reference = ["--analysis", "strain", "--reference_region", "20", "60", "30", "70"]
    region = ["--region", "10", "6", "56", "60"]
    assert run("in/a.tif", "-o", "a.csv", "--raw", *region, *reference) == 0
    assert seen == [((56, 60), [10.0, 50.0, 24.0, 64.0])]


def test_warnings_are_printed(run, capsys):
    np.save("noise.npy", np.random.default_rng(0).normal(size=(40, 40)))
    assert run("noise.npy", "-o", "n.csv", "--raw") == 0
    record = json.loads(Path("n.csv.json").read_text())
    (warning,) = record["detection"]["warnings"]
    assert f"noise.npy: {warning}" in capsys.readouterr().out
    assert "noise" in warning


def test_a_network_says_where_to_look(run):
    model = write_image_model("task/configs")
    options = [f"--{name}={value}" for name, value in model.items()]
    assert run("in/a.tif", "-o", "net.csv", *options) == 0
    assert run("in/a.tif", "-o", "raw.csv", "--raw") == 0
    net, raw = ColumnTable.from_csv("net.csv"), ColumnTable.from_csv("raw.csv")
    record = json.loads(Path("net.csv.json").read_text())
    assert record["enhanced"]["tile"] == [16, 16]
    assert record["detection"]["seeds_from"] == "enhanced"
    sure = net.select((net.snr > 8) & ~net.edge)
    nearest = np.hypot(*(sure.positions[:, None] - raw.positions).T).min(axis=0)
    assert len(sure) > 20 and nearest.max() < 0.1
    assert run("in/a.tif", "-o", "given.csv", "--enhanced", "in/a.tif") == 0


def test_a_wrong_engine_ends_the_run(run, capsys, monkeypatch):
    def fail(*args):
        raise StaticProgramError("differs from its layers")

    monkeypatch.setattr("ppmat.predictor.static_program.StaticProgram", fail)
    assert run("in/a.tif", "-o", "a.csv") == 2
    text = capsys.readouterr().out
    assert "StaticProgramError: differs" in text and "failed" not in text


def test_bad_files_are_left_out_and_listed(run, capsys):
    np.save("in/flat.npy", np.zeros((30, 30)))
    np.save("in/noise.npy", np.random.default_rng(0).normal(size=(40, 40)))
    np.save("in/stack.npy", np.zeros((2, 30, 30)))
    assert run("in", "-o", "out", "--raw") == 1
    text = capsys.readouterr().out
    assert "in/flat.npy: image: all pixels are equal" in text
    assert "in/stack.npy: no frame could be measured, frame 0: image: all" in text
    assert "failed: 2 of 4 files" in text
    assert "no columns found" in text and "nothing above its noise" in text
    assert len(ColumnTable.from_csv("out/noise.csv")) == 0
    assert not Path("out/flat.csv").exists()
    assert run("in/flat.npy", "-o", "x.csv", "--raw") == 2


@pytest.mark.parametrize(
    "options, message",
    [
        (["-o", "x.csv", "--raw", "--model_name=a"], "--raw and --model_name exclude"),
        (["in/a.tif", "in/b.tif", "-o", "x.csv", "--raw"], "there are 2 images"),
        (["-o", "x.txt", "--raw"], "wanted a name with .csv, or a folder"),
        (["-o", "no/x.csv", "--raw"], "no does not exist"),
        (["-o", "x.csv", "--raw", "--pixel_size", "-1"], "wanted one number above 0"),
        (["-o", "x.csv", "--raw", "--units", "nm"], "--units goes with --pixel_size"),
        (["-o", "x.csv", "--map"], "--map goes with --enhanced"),
        (["-o", "x.csv", "--raw", "--min_score=2"], "--min_score=2.0"),
        (["-o", "x.csv", "--raw", "--sigma=0"], "--sigma=0.0: wanted at least half"),
        (["-o", "x.csv", "--raw", "--elements", "Sr"], "--elements goes with"),
        (
            ["-o", "x.csv", "--raw", "--export=ase", "--elements", "Sr", "Qq"],
            "--elements: Qq is no symbol of an element",
        ),
        (["-o", "x.csv", "--enhanced", "in/a.tif", "in/b.tif"], "2 images for 1"),
        (["-o", "x.csv", "--raw", "--maps"], "--maps needs --analysis displacement"),
        (["-o", "x.csv", "--raw", "--overlay_color=score"], "needs --overlay"),
        (
            ["-o", "x.csv", "--raw", "--overlay", "--overlay_color=sublattice"],
            "sublattice needs --analysis displacement or strain or sublattices",
        ),
        (
            "-o x.csv --raw --analysis strain --reference_region 9 1 0 9".split(),
            "wanted Y0 Y1 X0 X1 with Y0 < Y1",
        ),
        (["in/c.tif", "-o", "x.csv", "--raw"], "not found: in/c.tif"),
    ],
)
def test_options_that_cannot_be_meant(run, capsys, options, message):
    Path("in/b.tif").write_bytes(Path("in/a.tif").read_bytes())
    given = options if options[0].startswith("in/") else ["in/a.tif", *options]
    assert run(*given) == 2
    assert message in capsys.readouterr().out
