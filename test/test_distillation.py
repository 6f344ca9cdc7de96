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

"""The loop of distil.py: its data, its stops, and what is refused."""

import hashlib
import importlib.util
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.io import write
from helpers_potential import SMALL as SMALLER

from ppmat.calculator import SFINCalculator
from ppmat.commands import distil
from ppmat.commands import train
from ppmat.distillation import loop
from ppmat.distillation import teachers
from ppmat.distillation.loop import Distillation
from ppmat.distillation.settings import DistilSettings
from ppmat.utils.config import load_config
from ppmat.utils.errors import InputError
from ppmat.utils.files import StoredRunError
from ppmat.utils.registry import ConfigError

ROOT = Path(__file__).resolve().parents[1]
TASK = str(ROOT / "interatomic_potentials")
EXAMPLE = ROOT / "interatomic_potentials/example_data/emt"
SMALL = [*SMALLER, "Trainer.max_epochs=2"]
EXPLORE = {
    "temperatures": [300],
    "steps": 4,
    "interval": 2,
    "copies": 3,
    "rattle_copies": 2,
    "rattle_rounds": 2,
    "rattle_steps": 2,
}


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    """Return YAML and weights of a small potential."""
    out = tmp_path_factory.mktemp("potential") / "run"
    words = ["-c=configs/sfin/sfin_potential.yaml", *SMALL, "--processes=1"]
    words += [f"Global.data_root={EXAMPLE}", f"Trainer.output_dir={out}"]
    every = EXAMPLE / "train.extxyz.gz@::6"
    words += [f"Dataset.train.dataset.__init_params__.path={every}"]
    assert train.main(TASK, words) == 0
    return out / "sfin_potential.yaml", out / "checkpoints/best.pdparams"


def starts():
    return [bulk("Cu", cubic=True), bulk("Pt", cubic=True)]


def in_this_process(function, tasks, settings):
    """Stand for run_tasks, which test_executors.py tests; it starts no process."""
    for key, arguments in tasks.items():
        yield key, function(*arguments)


def section(folder, **more):
    return {
        "output_dir": str(folder),
        "start": "none",
        "teacher": {"name": "emt"},
        "explore": EXPLORE,
        "select": {"frames": 6, "min_gain": 0.0},
        "converged": {"force_error": 0.0},
        **more,
    }


def run(folder, potential, **more):
    """Run the loop, with a student that is trained already."""

    def train(config, words, out):
        out.mkdir(exist_ok=True)
        (out / "words.json").write_text(json.dumps(list(words)))
        return potential

    settings = DistilSettings.from_dict(section(folder, **more))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run_tasks", in_this_process)
        return Distillation(settings, starts(), train).run()


def data_of(folder):
    """Return a digest of each file that is trained on or scored with."""
    files = [*folder.glob("iteration_*/*.extxyz"), *folder.glob("held_out/*.extxyz")]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, potential):
    """Return the folder and the scores of two iterations without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, potential, max_iterations=2)


def test_held_out_trajectories_are_never_trained_on(whole):
    folder, _ = whole
    trained = read(folder / "iteration_01/data/train.extxyz.gz", ":")
    used = {frame.info["trajectory"] for frame in trained}
    for role in ("val", "test"):
        held = read(folder / f"held_out/{role}.extxyz", ":")
        assert held and not used & {frame.info["trajectory"] for frame in held}
    assert {name[0] for name in used} == {"0", "1"}  # of both iterations


def test_frames_have_the_labels_of_the_teacher(whole):
    folder, scores = whole
    frames = read(folder / "iteration_01/labelled.extxyz", ":")
    assert len(frames) == scores[1]["selected"] == 6
    for frame in frames:
        fresh = frame.copy()
        fresh.calc = EMT()
        assert np.allclose(frame.get_forces(), fresh.get_forces(), atol=1e-6)


def test_scores_are_those_of_the_predictions(whole):
    folder, scores = whole
    test = read(folder / "held_out/test.extxyz", ":")
    found = read(folder / "iteration_01/predicted.extxyz", ":")
    errors = [a.get_forces() - b.get_forces() for a, b in zip(test, found)]
    rmse = np.sqrt(np.mean(np.concatenate(errors) ** 2))
    std = np.concatenate([a.get_forces() for a in test]).std()
    assert scores[1]["force_rmse"] == pytest.approx(rmse, rel=1e-4)
    assert scores[1]["force_error"] == pytest.approx(rmse / std, rel=1e-4)
    assert set(scores[1]["force_rmse_of"]) <= {"Cu", "Pt"}


@pytest.mark.parametrize("stop", [2, 9, 13])
def test_a_killed_run_goes_on_with_the_same_data(
    whole, stop, tmp_path, potential, monkeypatch
):
    done = []
    real = loop.write_frames

    def write_until(path, frames):
        done.append(path)
        if len(done) == stop:
            raise KeyboardInterrupt
        real(path, frames)

    monkeypatch.setattr(loop, "write_frames", write_until)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, potential, max_iterations=2)
    monkeypatch.setattr(loop, "write_frames", real)
    scores = run(tmp_path, potential, max_iterations=2)
    assert data_of(tmp_path) == data_of(whole[0])
    assert scores == whole[1]


def test_more_iterations_go_on_and_other_settings_do_not(whole, tmp_path, potential):
    folder = tmp_path / "copy"
    shutil.copytree(whole[0], folder)
    with pytest.raises(StoredRunError, match="other seed"):
        run(folder, potential, max_iterations=2, seed=7)
    before = data_of(folder)
    assert len(run(folder, potential, max_iterations=3)) == 3
    assert before.items() <= data_of(folder).items()


def test_the_loop_ends_when_it_has_converged(whole, tmp_path, potential):
    folder = tmp_path / "copy"
    shutil.copytree(whole[0], folder)
    wanted = {"force_error": 10.0}
    assert len(run(folder, potential, max_iterations=9, converged=wanted)) == 2


def test_fine_tuning_starts_from_a_potential_and_replays(tmp_path, potential):
    config, weights = map(str, potential)
    block = {"start": {"config_path": config, "checkpoint_path": weights}}
    block |= {"replay": str(EXAMPLE / "train.extxyz.gz"), "replay_frames": 5}
    (scores,) = run(tmp_path, potential, train=block)
    frames = read(tmp_path / "iteration_00/data/train.extxyz.gz", ":")
    assert len(frames) == scores["frames"] + 5
    words = json.loads((tmp_path / "iteration_00/training/words.json").read_text())
    assert f"Trainer.pretrained_model_path={weights}" in words


def test_elements_that_new_labels_lack_are_unseen_after_fine_tuning(
    tmp_path, potential
):
    """Their energies are of the old reference, which the new labels do not have."""
    frames = [bulk("Cu", cubic=True) for _ in range(4)]
    for seed, frame in enumerate(frames):
        frame.rattle(0.1, seed=seed)
        frame.calc = EMT()
        labels = {"energy": frame.get_potential_energy()}
        labels |= {"forces": frame.get_forces(), "stress": frame.get_stress()}
        frame.calc = SinglePointCalculator(frame, **labels)
    for name, part in (
        ("train", frames[:2]),
        ("val", frames[2:3]),
        ("test", frames[3:]),
    ):
        write(tmp_path / f"{name}.extxyz.gz", part)
    words = ["-c=configs/sfin/sfin_potential.yaml", *SMALL, "--processes=1"]
    words += [f"Global.data_root={tmp_path}", f"Trainer.output_dir={tmp_path}/out"]
    words += [f"Trainer.pretrained_model_path={potential[1]}"]
    assert train.main(TASK, words) == 0
    tuned = SFINCalculator(potential[0], tmp_path / "out/checkpoints/best.pdparams")
    before = SFINCalculator(*potential)
    for calculator in (before, tuned):
        assert np.isfinite(calculator.get_potential_energy(frames[0].copy()))
    assert np.isfinite(before.get_potential_energy(bulk("Pt")))
    with pytest.raises(InputError, match="Pt is not in the training data"):
        tuned.get_potential_energy(bulk("Pt"))


def test_labels_of_another_code_are_awaited(tmp_path, potential):
    config, weights = map(str, potential)
    more = {
        "teacher": {"name": "external"},
        "explore": {**EXPLORE, "calculator": "student"},
        "train": {"start": {"config_path": config, "checkpoint_path": weights}},
    }
    with pytest.raises(loop.LabelsAwaitedError) as caught:
        run(tmp_path, potential, **more)
    assert caught.value.status == 4
    sent = {
        tmp_path / "held_out/val.to_label.extxyz": "val",
        tmp_path / "held_out/test.to_label.extxyz": "test",
        tmp_path / "iteration_00/selected.extxyz": "labelled",
    }
    for path, name in sent.items():
        answer(path, path.with_name(f"{name}.given.extxyz"))
    (scores,) = run(tmp_path, potential, **more)
    assert scores["frames"] == 6


def answer(path, given, sign=1):
    """Stand for the user's code: label the frames of a file."""
    frames = read(path, ":")
    assert frames and all(frame.calc is None for frame in frames)
    for frame in frames:
        frame.calc = EMT()
        labels = {"energy": frame.get_potential_energy()}
        labels["forces"] = sign * frame.get_forces()
        frame.calc = SinglePointCalculator(frame, **labels)
    write(given, frames)


def test_corrected_labels_are_read_again(tmp_path, potential, monkeypatch):
    """Also if a student was trained on the wrong ones, unless it is finished."""
    config, weights = map(str, potential)
    more = {
        "teacher": {"name": "external"},
        "explore": {**EXPLORE, "calculator": "student"},
        "train": {"start": {"config_path": config, "checkpoint_path": weights}},
    }
    with pytest.raises(loop.LabelsAwaitedError):
        run(tmp_path, potential, **more)
    held, own = tmp_path / "held_out", tmp_path / "iteration_00"
    for role in ("val", "test"):
        answer(held / f"{role}.to_label.extxyz", held / f"{role}.given.extxyz")
    given = own / "labelled.given.extxyz"
    answer(own / "selected.extxyz", given, sign=-1)
    monkeypatch.setattr(loop.Distillation, "_evaluate", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, potential, **more)
    (own / "training/old").touch()
    monkeypatch.undo()
    answer(own / "selected.extxyz", given)
    os.utime(given, (time.time() + 5, time.time() + 5))
    run(tmp_path, potential, **more)
    assert not (own / "training/old").exists()
    for frame in read(own / "data/train.extxyz.gz", ":"):
        right = frame.copy()
        right.calc = EMT()
        assert np.allclose(frame.get_forces(), right.get_forces(), atol=1e-6)


def test_a_killed_run_starts_from_the_student_before(whole, tmp_path, potential):
    """The newest potential is that of an iteration which is finished."""
    folder = tmp_path / "copy"
    shutil.copytree(whole[0], folder)
    before = {p.name: p.read_bytes() for p in (folder / "potential").iterdir()}
    other = [tmp_path / file.name for file in potential]
    for file in other:
        file.write_text("of a student that was not evaluated")
    with pytest.raises(Exception, match="not evaluated|cannot be read"):
        run(folder, other, max_iterations=3)
    assert before == {p.name: p.read_bytes() for p in (folder / "potential").iterdir()}


def test_frames_that_the_teacher_fails_on_are_left_out(
    tmp_path, potential, monkeypatch, caplog
):
    """The student explores, and the teacher gives up on some frames."""
    config, weights = map(str, potential)
    more = {"explore": {**EXPLORE, "calculator": "student"}}
    more["train"] = {"start": {"config_path": config, "checkpoint_path": weights}}
    count = [0]

    class Moody(EMT):
        def calculate(self, *args):
            count[0] += 1
            if count[0] % 3 == 0:
                raise KeyError("no convergence")
            super().calculate(*args)

    monkeypatch.setitem(teachers.TEACHERS, "emt", Moody)
    (scores,) = run(tmp_path, potential, **more)
    assert scores["frames"] == 4
    assert "failed on 2 of 6 frames" in caplog.text and "no convergence" in caplog.text

    class Sullen(EMT):
        def calculate(self, *args):
            raise KeyError("no convergence")

    monkeypatch.setitem(teachers.TEACHERS, "emt", Sullen)
    with pytest.raises(InputError, match="labelled no frame of .*no convergence"):
        run(tmp_path / "none", potential, **more)


def test_pressure_wants_periodic_starts(tmp_path, potential, monkeypatch):
    monkeypatch.setitem(globals(), "starts", lambda: [fcc111("Cu", (1, 1, 2), 3.6, 5)])
    with pytest.raises(InputError, match="pressures: a start structure is not period"):
        run(tmp_path / "out", potential, explore={**EXPLORE, "pressures": [None, 0.0]})
    assert not (tmp_path / "out").exists()


def test_a_start_of_another_architecture_is_refused_first(tmp_path, potential, capsys):
    write(tmp_path / "starts.extxyz", starts())
    start = dict(zip(("config_path", "checkpoint_path"), map(str, potential)))
    words = ["-c=configs/sfin/distil.yaml", f"Distil.output_dir={tmp_path / 'out'}"]
    words += [f"Distil.start={tmp_path / 'starts.extxyz'}"]
    words += [f"Distil.train.start={json.dumps(start)}"]
    assert distil.main(TASK, words) == 2
    assert "CheckpointError" in "".join(capsys.readouterr())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["no_labels.traj", "binary.extxyz", "nan.extxyz"])
def test_a_replay_that_cannot_be_used_is_refused_first(tmp_path, potential, name):
    path = tmp_path / name
    frame = starts()[0]
    if name == "nan.extxyz":
        forces = np.full((len(frame), 3), np.nan)
        frame.calc = SinglePointCalculator(frame, energy=0.0, forces=forces)
    if name == "binary.extxyz":
        path.write_bytes(bytes(range(256)))
    else:
        write(path, frame)
    words = "cannot be read|has no label|not finite"
    with pytest.raises(InputError, match=words):
        run(tmp_path / "out", potential, train={"replay": str(path)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": {"name": "emtt"}}, "emtt.*Did you mean 'emt'"),
        ({"teacher": {"name": "emt", "x": 1}}, "Distil.teacher.*unknown key 'x'"),
        (
            {"explore": {"temperature": [3]}},
            "Distil.explore.*key 'temperature'",
        ),
        ({"explore": [EXPLORE, {"steps": 1}]}, "explore.1: steps 1 is less than inter"),
        ({"explore": {"copies": 0, "rattle_copies": 0}}, "so there is no frame"),
        ({"explore": {"temperatures": [-3]}}, "temperatures: Explore wants above 0"),
        ({"select": {"frames": 0}}, "frames: Select wants 1 to 1,000,000, got 0"),
        (
            {"train": {"start": {"config_path": "a"}}},
            "train.start: start needs checkpoint_path",
        ),
        ({"teacher": {"name": "external"}}, "external labels cannot move atoms"),
        ({"executor": {"kind": "slurm"}}, "kind"),
    ],
)
def test_wrong_settings_name_their_place(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        DistilSettings.from_dict({**section(tmp_path), **changes})


@pytest.mark.parametrize("name", teachers.OPTIONAL)
def test_a_teacher_that_is_not_installed_says_how(name, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(teachers.importlib, "import_module", missing)
    with pytest.raises(InputError, match=rf"pip install 'ppmat\[{name}\]'"):
        teachers.TEACHERS[name]()


@pytest.mark.parametrize(
    "package, extra, words",
    [
        ("chgnet", "chgnet", ["Distil.teacher.name=chgnet"]),
        ("distributed", "cluster", ["Distil.executor.kind=dask"]),
        (None, "", ["Distil.teacher.name=chgnet", "Distil.executor.kind=dask",
                    "Distil.executor.address=127.0.0.1:1"]),
    ],
)  # fmt: skip
def test_what_is_not_installed_is_refused_first(
    package, extra, words, tmp_path, monkeypatch, capsys
):
    """The teacher of a cluster elsewhere is not looked for here."""
    specs = {"chgnet": None, "distributed": package != "distributed" or None}
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: specs[name] if name in specs else find(name, *more),
    )
    words = ["-c=configs/sfin/distil.yaml", *words, f"Distil.output_dir={tmp_path}/out"]
    assert distil.main(TASK, [*words, "Distil.start=nothing.traj"]) == 2
    missing = f"{package} is not installed. pip install 'ppmat[{extra}]'"
    shown = "".join(capsys.readouterr())
    assert (missing if package else "nothing.traj") in shown
    assert not (tmp_path / "out").exists()


def test_starts_that_cannot_be_read_are_all_listed(tmp_path, capsys):
    for name in ("a.traj", "b.traj"):
        (tmp_path / name).write_bytes(b"- of Ulm")
    words = ["-c=configs/sfin/distil.yaml", f"Distil.output_dir={tmp_path}/out"]
    assert distil.main(TASK, [*words, f"Distil.start={tmp_path}/*.traj"]) == 2
    shown = "".join(capsys.readouterr())
    assert all(f"{name}.traj: cannot be read as traj" in shown for name in "ab")
    assert "Distil.start: 2 structures cannot be read" in shown
    assert not (tmp_path / "out").exists()


def test_a_replay_that_is_missing_leaves_no_folder(tmp_path, capsys):
    write(tmp_path / "starts.extxyz", starts())
    words = ["-c=configs/sfin/distil.yaml", f"Distil.output_dir={tmp_path}/out"]
    words += [f"Distil.start={tmp_path}/starts.extxyz", "Distil.train.replay=no.extxyz"]
    assert distil.main(TASK, words) == 2
    assert "no.extxyz cannot be read" in "".join(capsys.readouterr())
    assert not (tmp_path / "out").exists()


def test_register_adds_a_teacher_once(monkeypatch):
    monkeypatch.setattr(teachers, "TEACHERS", dict(teachers.TEACHERS))
    teachers.register("mine", starts)
    teachers.register("mine", starts)
    teachers.check_teacher({"name": "mine"}, "Distil.teacher")
    with pytest.raises(ConfigError, match="'mine' is there already"):
        teachers.register("mine", section)


def test_command_distils_from_files(tmp_path, capsys):
    """The user's command, in which the student is really trained."""
    write(tmp_path / "starts.extxyz", starts())
    out = tmp_path / "out"
    config = load_config(f"{TASK}/configs/sfin/distil.yaml")["Distil"]
    words = ["-c=configs/sfin/distil.yaml", f"Distil.output_dir={out}"]
    words += [f"Distil.start={tmp_path / 'starts.extxyz'}", "Distil.max_iterations=1"]
    words += [f"Distil.explore.{key}={json.dumps(v)}" for key, v in EXPLORE.items()]
    words += [f"Distil.train.overrides={json.dumps(SMALL)}", "Distil.select.frames=8"]
    words += ["Distil.executor.workers=1"]
    assert config["train"]["config"] == "configs/sfin/sfin_potential.yaml"
    assert distil.main(TASK, words) == 0
    names = {path.name for path in out.iterdir()}
    assert {"parity.png", "learning_curve.png", "potential", "state.json"} <= names
    assert sorted(path.suffix for path in (out / "potential").iterdir()) == [
        ".pdparams",
        ".yaml",
    ]
    assert distil.main(TASK, [*words, "Distil.seed=3"]) == 2
    assert "belongs to a run with other seed" in "".join(capsys.readouterr())
