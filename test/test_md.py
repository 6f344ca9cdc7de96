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

"""``md.py``, and several checkpoints in ``predict.py`` and ``relax.py``."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.build import fcc111
from ase.constraints import FixAtoms
from ase.io import read
from ase.io import write
from helpers_potential import write_potential
from PIL import Image

from ppmat.commands import md
from ppmat.commands import predict_potential
from ppmat.commands import relax

TASK = str(Path(__file__).resolve().parents[1] / "interatomic_potentials")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return the options of two potentials, and two structures."""
    folder = tmp_path_factory.mktemp("inputs")
    config, first = write_potential(folder, 3)
    second = write_potential(folder, 4)[1]
    slab = fcc111("Cu", (2, 1, 3), vacuum=4.0)
    slab.set_constraint(FixAtoms([0, 1]))
    write(folder / "slab.traj", slab)
    write(folder / "cell.extxyz", bulk("Cu", cubic=True))
    write(folder / "gold.extxyz", bulk("Au", cubic=True))
    one = [f"--config_path={config}", f"--checkpoint_path={first}"]
    return {
        "one": one,
        "two": [one[0], "--checkpoint_path", str(first), str(second)],
        "slab": str(folder / "slab.traj"),
        "cell": str(folder / "cell.extxyz"),
        "gold": str(folder / "gold.extxyz"),
    }


def lines(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_runs_goes_on_and_draws(inputs, tmp_path, capsys, caplog):
    out = tmp_path / "md"
    words = [*inputs["two"], "--input", inputs["slab"], inputs["cell"]]
    words += [f"--save_path={out}", "--interval=2", "--seed=1"]
    slab = [word for word in words if word != inputs["cell"]]
    assert md.main(TASK, [*slab, "--steps=2"]) == 0
    assert md.main(TASK, [*words, "--steps=4"]) == 0
    assert "slab: going on after step 2" in caplog.text
    shown = capsys.readouterr().out
    assert "cell: 4 steps, 0.004 ps, temperature" in shown and "spread" in shown
    for name, is_crystal in (("slab", False), ("cell", True)):
        frames, rows = read(out / f"{name}.traj", ":"), lines(out / f"{name}.csv")
        assert [row["step"] for row in rows] == ["0", "2", "4"]
        assert [float(row["time [fs]"]) for row in rows] == [0.0, 2.0, 4.0]
        assert bool(rows[0]["pressure [GPa]"]) == is_crystal
        for frame, row in zip(frames, rows, strict=True):
            total = frame.get_total_energy()
            assert float(row["total [eV]"]) == pytest.approx(total)
            assert float(row["forces_spread [eV/Å]"]) >= 0.0
        for picture in ("log", "distances"):
            with Image.open(out / f"{name}_{picture}.png") as image:
                assert min(image.size) > 250
                assert len(np.unique(np.asarray(image.convert("L")))) > 50
    before = (out / "slab.traj").read_bytes()
    assert md.main(TASK, [*words, "--steps=4", "--temperature=400"]) == 2
    assert "run with other temperature" in caplog.text
    assert (out / "slab.traj").read_bytes() == before


def test_one_stops_and_the_others_run(inputs, tmp_path, caplog):
    words = [*inputs["two"], "--input", inputs["cell"], inputs["slab"], inputs["gold"]]
    words += [f"--save_path={tmp_path}", "--steps=2", "--interval=1"]
    words += ["--temperature=1000", "--max_spread=0.35"]  # the slab has more
    assert md.main(TASK, words) == 1
    assert re.search("slab: stopped at step [12]: the structure leaves", caplog.text)
    assert "Au is not in the training data" in caplog.text
    assert (tmp_path / "slab_stopped.extxyz").exists()
    assert len(lines(tmp_path / "cell.csv")) == 3 > len(lines(tmp_path / "slab.csv"))


@pytest.mark.parametrize(
    "words, fault",
    [
        (["--steps=3", "--interval=2"], "wanted at least one interval"),
        (["--steps=0"], "wanted at least one interval"),
        (["--ensemble=nve", "--coupling_time=50"], "--coupling_time does nothing"),
        (["--ensemble=nvt", "--pressure=1"], "--pressure does nothing"),
        (["--temperature=-5"], "temperature is -5.0; wanted 0.001"),
        (["--max_temperature=200"], "wanted more than --temperature=300.0"),
        (["--max_spread=0.1"], "wants several --checkpoint_path"),
        (["--max_spread=-1"], "--max_spread=-1.0: wanted above 0"),
        (["--time_step=100"], "time_step is 100.0"),
        (["--ensemble=npt"], "a structure that is periodic in all directions"),
        (["--input", "no.traj"], "not found"),
        (["--input", "GOLD"], "Au is not in the training data"),
    ],
)
def test_wrong_options(inputs, tmp_path, words, fault, caplog):
    always = ["--input", inputs["slab"], "--steps=20"]
    always += [f"--save_path={tmp_path / 'new/md'}"]
    words = [inputs["gold"] if word == "GOLD" else word for word in words]
    assert md.main(TASK, [*inputs["one"], *always, *words]) == 2
    assert fault in caplog.text
    assert not (tmp_path / "new").exists()


def test_the_input_is_not_overwritten(inputs, tmp_path, caplog):
    path = tmp_path / "slab.traj"
    path.write_bytes(Path(inputs["slab"]).read_bytes())
    before = path.read_bytes()
    words = [*inputs["one"], "--input", str(path), "--steps=20"]
    assert md.main(TASK, [*words, f"--save_path={tmp_path}"]) == 2
    assert "no run of molecular dynamics wrote it" in caplog.text
    assert path.read_bytes() == before


def test_predict_and_relax_say_where_potentials_disagree(
    inputs, tmp_path, capsys, caplog
):
    words = [*inputs["two"], "--input", inputs["slab"], inputs["cell"]]
    out = tmp_path / "predicted.extxyz"
    predict = [*words, f"--save_path={out}"]
    assert predict_potential.main(TASK, predict) == 0
    assert "eV, spread" in capsys.readouterr().out.replace("eV/Å", "eV")
    slab, cell = read(out, ":")
    spread = slab.arrays["forces_spread"]
    assert spread[2:].max() > 0.02 > cell.arrays["forces_spread"].max()
    assert slab.info["energy_spread"] > 0.0
    assert predict_potential.main(TASK, [*predict, "--max_spread=0.02"]) == 1
    assert "do not know 1 structure (forces differ by more than 0.02 eV/Å): slab" in (
        caplog.text
    )
    caplog.clear()
    words = [*words, f"--save_path={tmp_path / 'relaxed'}", "--max_steps=1", "--fmax=9"]
    assert relax.main(TASK, words) == 0
    assert relax.main(TASK, [*words, "--max_spread=0.02"]) == 1
    assert "more than 0.02 eV/Å): slab" in caplog.text
    relaxed = read(tmp_path / "relaxed/relaxed.extxyz", ":")
    np.testing.assert_allclose(relaxed[0].arrays["forces_spread"], spread, atol=1e-5)
