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

"""``sample.py --mode=place`` on slabs of ASE with EMT."""

import csv
import json
from pathlib import Path

import paddle
import pytest
from ase.build import fcc111
from ase.build import molecule
from ase.io import read
from ase.io import write

from ppmat.commands import place
from ppmat.commands import sample
from ppmat.commands.options import EXIT_STOPPED
from ppmat.models import build_model
from ppmat.sampler.placement_ranking import ANOMALIES
from ppmat.utils.config import save_config
from ppmat.utils.errors import InputError

TASK = str(Path(__file__).parents[1] / "structure_generation")


@pytest.fixture(scope="module")
def slab(tmp_path_factory):
    path = tmp_path_factory.mktemp("slab") / "cu.cif"
    write(path, fcc111("Cu", (2, 2, 3), vacuum=8))
    return str(path)


def run(slab, folder, *options, adsorbate="O"):
    argv = ["--mode=place", "--slab", slab, "--adsorbate", adsorbate]
    argv += ["--source=random"]  # unless the options say otherwise
    return sample.main(TASK, [*argv, f"--save_path={folder}", *options])


def table(folder):
    with open(folder / "placements.csv", newline="") as stream:
        return list(csv.DictReader(stream))


EMT = ("--calculator=emt", "--num_samples=5", "--fmax=0.1")


def test_placements_are_relaxed_and_ranked(slab, tmp_path):
    assert run(slab, tmp_path, *EMT, "--source=heuristic") == 0
    rows = table(tmp_path)
    ranked = [row for row in rows if row["rank"]]
    energies = [float(row["total_energy"]) for row in ranked]
    assert energies == sorted(energies) and len(energies) > 1
    assert all(row["converged"] == "True" for row in ranked)
    best = read(tmp_path / "placements.extxyz", 0)
    assert best.info["total_energy"] == pytest.approx(energies[0], abs=1e-3)
    # the hollow site, as every reference has it for O on Cu(111)
    distances = best.get_distances(-1, range(8, 12), mic=True)
    assert sum(distances < distances.min() + 0.2) == 3
    assert (tmp_path / "best.png").stat().st_size > 10_000


def test_a_stopped_run_goes_on_to_the_same_result(slab, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(slab, whole, *EMT) == 0
    from ppmat.calculator import batch_relaxation

    step = batch_relaxation.FIRE.step

    def stop(self, *args):
        if len(list((parts / "relaxed").iterdir())) > 1:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(batch_relaxation.FIRE, "step", stop)
    assert run(slab, parts, *EMT) == EXIT_STOPPED
    monkeypatch.undo()
    assert not (parts / "placements.csv").exists()
    before = {p.name: p.stat().st_mtime_ns for p in (parts / "relaxed").iterdir()}
    assert run(slab, parts, *EMT) == 0
    assert 1 < len(before) < 5
    after = {p.name: p.stat().st_mtime_ns for p in (parts / "relaxed").iterdir()}
    assert all(after[name] == time for name, time in before.items())
    assert table(parts) == table(whole)


def test_another_run_is_not_mixed_in(slab, tmp_path, caplog):
    assert run(slab, tmp_path, "--num_samples=2") == 0
    assert run(slab, tmp_path, "--num_samples=2", "--seed=1") == 2
    assert run(slab, tmp_path, "--num_samples=2", adsorbate="H") == 2
    state = json.loads((tmp_path / "place.json").read_text())
    assert state["settings"]["seed"] == 0


def test_without_calculator_there_are_no_energies(slab, tmp_path):
    assert run(slab, tmp_path, "--num_samples=3", adsorbate="OH") == 0
    rows = table(tmp_path)
    assert len(rows) == 3 and not any(row["total_energy"] for row in rows)


@pytest.mark.parametrize("calculator", ["emt", "sfin_potential_chgnet_small"])
def test_an_element_that_the_calculator_lacks_is_refused(
    slab, tmp_path, monkeypatch, calculator
):
    said = []
    monkeypatch.setattr(place.logger, "error", said.append)
    options = [f"--calculator={calculator}", "--num_samples=1"]
    assert run(slab, tmp_path / "out", *options, adsorbate="Cl") == 2
    assert "Choose another --calculator" in said[-1]
    assert "allow_unseen" not in said[-1]
    assert not (tmp_path / "out").exists()


def test_a_placement_that_the_calculator_cannot_relax_is_given_up(
    slab, tmp_path, monkeypatch
):
    from ppmat.calculator import AseBatch

    def refuse(self, atoms, known=None):
        raise InputError("no convergence", hint="Try others.")

    monkeypatch.setattr(AseBatch, "pairs_of", refuse)
    assert run(slab, tmp_path, *EMT) == 1
    assert {row["fault"] for row in table(tmp_path)} == {"no convergence"}


def test_a_rejected_placement_of_lower_energy_is_named(monkeypatch):
    said = []
    monkeypatch.setattr(place.logger, "warning", said.append)
    passed = dict.fromkeys(ANOMALIES, False)
    best, other = (fcc111("Cu", (1, 1, 2)) for _ in "ab")
    best.info = {"placement": 0, "total_energy": 1.0, **passed}
    other.info = {"placement": 7, "total_energy": 0.5, **passed, "dissociated": True}
    place._warn_of_lower([best, other], [best])
    assert len(said) == 1 and "placement 7 is 0.500 eV lower than rank 1" in said[0]
    other.info["total_energy"] = 1.5
    place._warn_of_lower([best, other], [best])
    assert len(said) == 1


def test_the_last_message_counts_the_checks_that_failed(slab, tmp_path, monkeypatch):
    from ppmat.commands.place import logger

    said = []
    monkeypatch.setattr(logger, "message", said.append)
    options = ("--calculator=emt", "--num_samples=10", "--max_steps=100")
    assert run(slab, tmp_path, *options, adsorbate="OH") in (0, 1)
    broken = sum(row["dissociated"] == "True" for row in table(tmp_path))
    assert broken and f"dissociated {broken}" in said[-1]


@pytest.mark.parametrize("text", ["", "5\nno frame\n"])
def test_a_damaged_relaxation_is_refused(slab, tmp_path, caplog, text):
    assert run(slab, tmp_path, *EMT) == 0
    before = table(tmp_path)
    path = tmp_path / "relaxed" / "0003.extxyz"
    path.write_text(text)
    assert run(slab, tmp_path, *EMT) == 2
    assert "0003.extxyz: is empty or damaged" in caplog.text
    assert path.read_text() == text
    path.unlink()
    assert run(slab, tmp_path, *EMT) == 0
    assert table(tmp_path) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--num_samples=0"],
        ["--fmax=0"],
        ["--seed=-1"],
        ["--binding_atom=1"],
        ["--calculator=unknown"],
        ["--source=flow", "--checkpoint_path=x.pdparams"],
        ["--config_path=x.yaml"],
        ["--weights_name=x.pdparams"],
        ["--save_path=x.csv"],
        ["--save_path="],
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(slab, tmp_path, options):
    assert run(slab, tmp_path / "out", *options) == 2
    assert not (tmp_path / "out").exists()


def test_a_model_of_relaxations_is_no_flow_of_placements(slab, tmp_path, monkeypatch):
    from ppmat.sampler import structure_sampler

    class Sampler:
        def __init__(self, **options):
            self.model = object()

    monkeypatch.setattr(structure_sampler, "StructureSampler", Sampler)
    options = ["--source=flow", "-c", "configs/sfin/oc20_flow.yaml"]
    assert run(slab, tmp_path / "out", *options) == 2


def test_weights_without_their_yaml_are_refused_before_the_slab(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(place.logger, "error", said.append)
    options = ("--source=flow", "--checkpoint_path=x.pdparams")
    assert run("none.cif", tmp_path / "out", *options) == 2
    assert "--checkpoint_path goes with --config_path" in said[-1]


def test_a_molecule_that_the_flow_deforms_stays_rigid(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(place.logger, "warning", said.append)
    write(tmp_path / "slab.cif", fcc111("Cu", (4, 4, 3), vacuum=8))
    argv = ["--mode=place", f"--slab={tmp_path}/slab.cif", "--num_samples=3"]
    argv += ["--adsorbate=C6H6", f"--save_path={tmp_path}/out"]
    assert sample.main(TASK, argv) == 0
    assert "--source=heuristic" in said[-1]
    given = molecule("C6H6").get_all_distances()
    for atoms in read(tmp_path / "out" / "placements.extxyz", ":"):
        own = atoms[atoms.get_tags() == 2]
        assert abs(own.get_all_distances() - given).max() < 1e-3
        assert atoms.info["closest_distance"] > 1.0
    for row in table(tmp_path / "out"):
        assert row["dissociated"] == row["overlap"] == "False"


@pytest.mark.parametrize(("metal", "adsorbate"), [("Pt", "OH"), ("Rh", "Cl")])
def test_the_shipped_flow_is_the_default_and_says_what_it_never_saw(
    tmp_path, monkeypatch, metal, adsorbate
):
    said = {"message": [], "warning": []}
    for level, lines in said.items():
        monkeypatch.setattr(place.logger, level, lines.append)
    write(tmp_path / "slab.cif", fcc111(metal, (2, 2, 3), vacuum=8))
    argv = ["--mode=place", f"--slab={tmp_path}/slab.cif", "--num_samples=2"]
    argv += [f"--adsorbate={adsorbate}", f"--save_path={tmp_path}/out"]
    assert sample.main(TASK, argv) == 0
    state = json.loads((tmp_path / "out" / "place.json").read_text())
    assert state["settings"]["source"] == "flow"
    assert any("EMT, not DFT" in line for line in said["message"])
    warned = [line for line in said["warning"] if "not in the training" in line]
    assert warned == [] if metal == "Pt" else "of the flow: Cl, Rh;" in warned[0]


def write_flow(folder):
    """Write YAML and weights of a small SFINPlacement that moves atoms by 0.1 Å."""
    params = {"cutoff": 4.0, "max_neighbors": None, "k_cut": 0.7}
    graph = {"__class_name__": "PeriodicGraphConverter", "__init_params__": params}
    sizes = {"channels": 8, "vectors": 4, "messages": 4, "num_blocks": 1}
    scheduler = {"__class_name__": "FlowMatchingScheduler", "__init_params__": {}}
    block = {
        "__class_name__": "SFINPlacement",
        "__init_params__": {
            "backbone_cfg": {**sizes, "cutoff": 4.0, "k_cut": 0.7},
            "scheduler_cfg": scheduler,
            "graph_cfg": graph,
            "num_inference_steps": 2,
        },
    }
    paddle.seed(1)
    model = build_model(block)
    weight = model.displacement_head.weight
    weight.set_value(0.1 * paddle.randn(weight.shape))
    config = {"Model": block, "Sample": {"graph_converter": graph}}
    save_config(config, str(folder / "flow.yaml"))
    paddle.save(model.state_dict(), str(folder / "flow.pdparams"))
    return ["-c", f"{folder}/flow.yaml", f"--checkpoint_path={folder}/flow.pdparams"]


def test_a_flow_moves_the_random_placements(slab, tmp_path):
    model = write_flow(tmp_path)
    options = ("--num_samples=3", "--seed=4", "--binding_atom=0")
    assert run(slab, tmp_path / "random", *options, adsorbate="OH") == 0
    assert (
        run(slab, tmp_path / "f", *options, "--source=flow", *model, adsorbate="OH")
        == 0
    )
    pairs = zip(
        *(
            sorted(
                read(tmp_path / name / "placements.extxyz", ":"),
                key=lambda atoms: atoms.info["placement"],
            )
            for name in ("random", "f")
        )
    )
    for before, after in pairs:
        moved = abs(after.positions - before.positions).max(axis=1)
        assert moved[:8].max() < 1e-4  # held
        assert 0.001 < moved[-2:].max() < 3
        assert after.get_tags().tolist() == before.get_tags().tolist()
    stored = tmp_path / "f" / "flow" / "results"
    times = {p.name: p.stat().st_mtime_ns for p in stored.iterdir()}
    assert (
        run(slab, tmp_path / "f", *options, "--source=flow", *model, adsorbate="OH")
        == 0
    )
    assert times == {p.name: p.stat().st_mtime_ns for p in stored.iterdir()}


@pytest.mark.parametrize(
    "override",
    [
        "Sample.model_sample_params.num_inference_steps=1",
        "Model.__init_params__.num_inference_steps=1",
        "Sample.graph_converter.__init_params__.cutoff=3.5",
    ],
)
def test_a_flow_with_other_settings_changes_nothing(slab, tmp_path, caplog, override):
    options = ("--num_samples=2", "--source=flow", *write_flow(tmp_path))
    folder = tmp_path / "out"
    assert run(slab, folder, *options) == 0
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert run(slab, folder, *options, override) == 2
    assert "belongs to a run with other flow" in caplog.text
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit):
        sample.main(TASK, ["--mode", "place", "--help"])
    assert "--binding_atom" in capsys.readouterr().out
    assert place.parse_args(["--slab", "a", "--adsorbate", "O"]).source == "flow"
