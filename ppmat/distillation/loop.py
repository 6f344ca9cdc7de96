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

"""The loop: explore, filter, select, label, train, evaluate, until it converges.

Each step of an iteration leaves a file, written whole or not at all, and a step whose
file is there is not done again. All random numbers come from the seed and the number
of the trajectory. So a run that was killed goes on and has the same data::

    state.json                  settings, and the scores of the iterations
    iteration_00/explored/      frames of each trajectory
    iteration_00/selected.extxyz, labelled.extxyz
    iteration_00/data/          train, val, test: all that is labelled up to here
    iteration_00/training/      the student, as train.py writes it
    iteration_00/scores.json
    held_out/val.extxyz, test.extxyz    trajectories that are never trained on
    potential/                  YAML and weights of the newest student
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ppmat.distillation.executors import run_tasks
from ppmat.distillation.exploration import Trajectory
from ppmat.distillation.exploration import label
from ppmat.distillation.exploration import plan
from ppmat.distillation.exploration import run_trajectory
from ppmat.distillation.frame_filter import filtered
from ppmat.distillation.labelling import match
from ppmat.distillation.labelling import read_frames
from ppmat.distillation.labelling import read_labelled
from ppmat.distillation.labelling import write_frames
from ppmat.distillation.references import aligned
from ppmat.distillation.scores import force_scores
from ppmat.distillation.selection import Selection
from ppmat.distillation.settings import DistilSettings
from ppmat.distillation.teachers import EXTERNAL
from ppmat.distillation.teachers import TEACHERS
from ppmat.distillation.teachers import Source
from ppmat.distillation.teachers import sfin
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.files import RunManifest
from ppmat.utils.files import replacing
from ppmat.utils.progress import Progress

_LABELS_AT_ONCE = 20  # frames of a task

# Trains a student: (YAML, overrides, folder) to its merged YAML and its weights
Trainer = Callable[[str, Sequence[str], Path], tuple[Path, Path]]


class LabelsAwaitedError(InputError):
    """Frames wait for labels of another code."""

    status = 4


class Distillation:
    """A run of the loop in a folder.

    Args:
        settings: What to do.
        starts: The start structures.
        train: Trains a student; goes on if its folder has a training that was stopped.

    Raises:
        StoredRunError: The folder has a run with other settings.
        InputError: Start structures that cannot be explored so.
    """

    def __init__(
        self, settings: DistilSettings, starts: Sequence[Atoms], train: Trainer
    ) -> None:
        self.settings, self.starts, self.train = settings, list(starts), train
        self.folder = Path(settings.output_dir)
        decides = asdict(settings)
        # These change neither the data nor a step that is done
        for name in ("output_dir", "executor", "max_iterations", "converged"):
            decides.pop(name)
        decides["structures"] = [
            [atoms.get_chemical_formula(), np.round(atoms.positions.sum(), 4)]
            for atoms in self.starts
        ]
        self.manifest = RunManifest(
            self.folder / "state.json",
            decides,
            hint="Choose another Distil.output_dir, or remove that one.",
        )
        self.iterations: list[dict] = self.manifest.state.get("iterations", [])
        pressed = any(p is not None for e in settings.explore for p in e.pressures)
        if pressed and not all(atoms.pbc.all() for atoms in self.starts):
            raise InputError(
                "a start structure is not periodic in all directions",
                where="Distil.explore.pressures",
                wanted="[null], as a pressure has no meaning there",
            )
        params = dict(settings.teacher)
        name = params.pop("name")
        replay = settings.train.replay
        self.replay = [] if replay is None else read_labelled(Path(replay))
        self.awaited: list[str] = []  # frames that wait for labels
        self.teacher = None if name == EXTERNAL else Source(TEACHERS[name], **params)

    def folder_of(self, iteration: int) -> Path:
        """Return the folder of an iteration, from 0."""
        return self.folder / f"iteration_{iteration:02d}"

    def run(self) -> list[dict]:
        """Run what is missing; returns the scores of the iterations."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manifest.write(iterations=self.iterations)
        self._warn_of_late_labels()
        while len(self.iterations) < self.settings.max_iterations:
            if self.iterations and (reason := self._finished(self.iterations[-1])):
                logger.message(reason)
                break
            number = len(self.iterations)
            logger.message(f"Iteration {number}")
            found = self._iterate(number)
            self.iterations.append(found)
            self.manifest.write(iterations=self.iterations)
            logger.message(
                f"Iteration {number}: {found['frames']} frames, force RMSE "
                f"{found['force_rmse']:.4f} eV/Å, {found['force_error']:.1%} of the "
                f"forces' standard deviation; energy RMSE "
                f"{1000 * found['energy_rmse']:.2f} meV/atom"
            )
        return self.iterations

    def _warn_of_late_labels(self) -> None:
        """Warn of labels that were corrected after their iteration was finished."""
        folders = [self.folder / "held_out"] if self.iterations else []
        folders += map(self.folder_of, range(len(self.iterations)))
        for given in (file for f in folders for file in f.glob("*.given.extxyz")):
            done = given.with_name(given.name.replace(".given", ""))
            if _is_newer(given, done):
                logger.warning(
                    f"{given} has changed after its iteration was finished, and is not "
                    "read again; begin in another output_dir to use it"
                )

    def _finished(self, last: dict) -> str:
        """Return why the loop ends, or ''."""
        wanted = self.settings.converged.force_error
        if last["force_error"] <= wanted:
            return f"Converged: a force error of {wanted:.0%} was wanted"
        if not last["selected"]:
            return "No frame is new enough: the loop ends"
        return ""

    # An iteration --------------------------------------------------------------------

    def _iterate(self, number: int) -> dict:
        folder = self.folder_of(number)
        (folder / "explored").mkdir(parents=True, exist_ok=True)
        before = self._labelled_before(number)
        explored = self._explore(folder, number)
        if number == 0:
            self._hold_out(explored)
        selected, gains = self._select(folder, explored["train"], before)
        new = self._label(folder / "selected.extxyz", selected, folder)
        if self.awaited:
            raise LabelsAwaitedError(
                "frames wait for labels",
                hint="Compute energies and forces, and run the same command again: "
                + "; ".join(self.awaited),
            )
        frames = [*before, *new]
        if not frames:
            raise InputError("no frame is left to train on", hint="See Distil.filter.")
        stress = self._write_data(folder / "data", frames)
        config, weights = self._train(folder, number, stress)
        scores = self._evaluate(folder, Source(sfin, **_paths(config, weights)))
        target = self.folder / "potential"  # that of the iteration before, up to here
        target.mkdir(exist_ok=True)
        for file in (config, weights):
            with replacing(target / file.name) as temporary:
                shutil.copyfile(file, temporary)
        return {
            "frames": len(frames),
            "selected": len(new),
            "first_gain": gains[0] if gains else None,
            "last_gain": gains[-1] if gains else None,
            **scores,
        }

    def _labelled_before(self, number: int) -> list[Atoms]:
        """Return what the iterations before this one labelled."""
        files = self._labelled_files(number)
        return [frame for file in files for frame in read_frames(file)]

    def _labelled_files(self, iterations: int) -> list[Path]:
        """Return the files of what the first iterations labelled."""
        return [self.folder_of(n) / "labelled.extxyz" for n in range(iterations)]

    def _student(self, number: int) -> Source | None:
        """Return the newest student, or the potential to start from."""
        if number:
            return Source(sfin, **_paths(*_potential(self.folder)))
        start = self.settings.train.start
        return Source(sfin, **start) if start else None

    def _explore(self, folder: Path, number: int) -> dict[str, list[Atoms]]:
        """Return the frames of all trajectories, filtered, by role."""
        settings = self.settings
        held_out = settings.select.held_out if number == 0 else 0.0
        explore = settings.explore_in(number)
        todo = plan(explore, len(self.starts), settings.seed, number, held_out)
        source = self._student(number)
        if explore.calculator == "teacher" or source is None:
            source = self.teacher
        files = {i: folder / "explored" / f"{i:05d}.extxyz" for i, _ in enumerate(todo)}
        tasks = {
            i: (trajectory, self.starts[trajectory.start], explore, source)
            for i, trajectory in enumerate(todo)
            if not files[i].exists()
        }
        faults: list[str] = []
        done = len(todo) - len(tasks)
        bar = Progress(desc="exploring", total=len(todo), initial=done)
        for i, found in run_tasks(run_trajectory, tasks, settings.executor):
            frames = found.frames
            if source is not self.teacher:  # labels of a student are not kept
                frames = [frame.copy() for frame in frames]
            if found.fault:
                faults.append(found.fault)
                logger.info(f"trajectory {i} of {folder.name}: {found.fault}")
            write_frames(files[i], frames)
            bar.update()
        bar.close()
        if faults:
            logger.warning(
                f"{len(faults)} of {len(todo)} trajectories ended early, for "
                f"instance: {faults[0]}"
            )
        return self._filtered(todo, files)

    def _filtered(
        self, todo: Sequence[Trajectory], files: dict[int, Path]
    ) -> dict[str, list[Atoms]]:
        roles: dict[str, list[Atoms]] = {"train": [], "val": [], "test": []}
        for i, trajectory in enumerate(todo):
            roles[trajectory.role] += read_frames(files[i])
        left_out: Counter[str] = Counter()
        for role, frames in roles.items():
            roles[role], reasons = filtered(frames, self.settings.filter)
            left_out += reasons
        counts = ", ".join(
            f"{len(kept)} {role}" for role, kept in roles.items() if kept
        )
        reasons = ", ".join(f"{why} {n}" for why, n in left_out.items()) or "none"
        logger.message(f"Explored: {counts}. Left out: {reasons}")
        return roles

    def _hold_out(self, explored: dict[str, list[Atoms]]) -> None:
        """Label some frames of the trajectories that are never trained on."""
        folder = self.folder / "held_out"
        folder.mkdir(exist_ok=True)
        for role in ("val", "test"):
            frames = explored[role]
            if not frames:
                raise InputError(f"the trajectories for {role} have no frame left")
            wanted = self.settings.select.held_out_frames
            step = -(-len(frames) // wanted)
            self._label(
                folder / f"{role}.to_label.extxyz", frames[::step], folder, role
            )

    def _select(
        self, folder: Path, frames: list[Atoms], before: list[Atoms]
    ) -> tuple[list[Atoms], list[float]]:
        """Return the frames to label, and their gains."""
        path, gains_path = folder / "selected.extxyz", folder / "gains.json"
        if not path.exists():
            limits = self.settings.select
            chosen, gains = [], []
            if frames:
                selection = Selection(frames, before)
                chosen, gains = selection.choose(limits.frames, limits.min_gain)
            finite = [gain for gain in gains if np.isfinite(gain)]
            _write_json(gains_path, finite)
            write_frames(path, [frames[i] for i in chosen])
        selected, gains = read_frames(path), json.loads(gains_path.read_text())
        ends = f", gain {gains[0]:.3f} to {gains[-1]:.3f}" if gains else ""
        logger.message(f"Selected {len(selected)} of {len(frames)} frames{ends}")
        return selected, gains

    def _label(
        self, path: Path, frames: list[Atoms], folder: Path, name: str = "labelled"
    ) -> list[Atoms]:
        """Return frames with the teacher's labels; those of exploration are taken."""
        done, given = folder / f"{name}.extxyz", folder / f"{name}.given.extxyz"
        if done.exists() and not _is_newer(given, done):
            return read_frames(done)
        if self.teacher is None:
            write_frames(path, frames)
            if not given.exists():
                self.awaited.append(f"{len(frames)} of {path} as {given}")
                return []
            found, missing = match(frames, given)
            if missing:
                logger.warning(f"{given}: {missing} frames have no labels")
            found, left_out = filtered(found, self.settings.filter)
            for reason, count in left_out.items():
                logger.warning(f"{given}: {count} frames left out: {reason}")
        else:
            found = list(frames)
            bare = [i for i, frame in enumerate(frames) if frame.calc is None]
            parts = [
                bare[i : i + _LABELS_AT_ONCE]
                for i in range(0, len(bare), _LABELS_AT_ONCE)
            ]
            tasks = {
                i: ([frames[j] for j in part], self.teacher)
                for i, part in enumerate(parts)
            }
            bar = Progress(desc="labelling", total=len(bare))
            for i, result in run_tasks(label, tasks, self.settings.executor):
                for j, frame in zip(parts[i], result):
                    found[j] = frame
                bar.update(len(result))
            bar.close()
            faults = [frame.info["fault"] for frame in found if frame.calc is None]
            if faults and len(faults) == len(found):
                raise InputError(
                    f"the teacher labelled no frame of {path}: {faults[0]}"
                )
            if faults:
                logger.warning(
                    f"{path}: the teacher failed on {len(faults)} of {len(found)} "
                    f"frames, which are left out, for instance: {faults[0]}"
                )
            labelled = [frame for frame in found if frame.calc is not None]
            found, _ = filtered(labelled, self.settings.filter)
        write_frames(done, found)
        return found

    def _write_data(self, folder: Path, frames: list[Atoms]) -> bool:
        """Write what the student is trained on; returns whether all has a stress."""
        folder.mkdir(exist_ok=True)
        train = self.settings.train
        if old := self.replay:
            rng = np.random.default_rng(self.settings.seed)
            picked = rng.permutation(len(old))[: train.replay_frames]
            frames = [*frames, *aligned([old[i] for i in sorted(picked)], old, frames)]
        write_frames(folder / "train.extxyz.gz", frames)
        held = {
            role: read_frames(self.folder / "held_out" / f"{role}.extxyz")
            for role in ("val", "test")
        }
        for role, own in held.items():
            write_frames(folder / f"{role}.extxyz.gz", own)
        return all("stress" in f.calc.results for f in [*frames, *held["val"]])

    def _train(self, folder: Path, number: int, stress: bool) -> tuple[Path, Path]:
        """Train the student of an iteration; returns its YAML and weights."""
        train = self.settings.train
        words = [f"Global.data_root={folder / 'data'}"]
        words += [f"Trainer.seed={self.settings.seed}"]
        if not stress:
            logger.info("some frames have no stress, so none is learned")
            words += ["Global.label_names=[energy,forces]"]
            words += ["Model.__init_params__.stress_weight=[0,0]"]
        first = train.start["checkpoint_path"] if train.start else None
        if number and train.begin == "previous":
            first = _potential(self.folder)[1]
        if first is not None:
            words += [f"Trainer.pretrained_model_path={first}"]
        words += train.overrides
        self._drop_outdated(folder, number)
        return self.train(train.config, words, folder / "training")

    def _drop_outdated(self, folder: Path, number: int) -> None:
        """Remove a training on labels that the user has corrected since, and scores."""
        files = [
            self.folder / "held_out" / f"{role}.extxyz" for role in ("val", "test")
        ]
        files += self._labelled_files(number + 1)
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
        path = folder / "labels.sha256"
        if path.exists() and path.read_text() != digest.hexdigest():
            logger.message(f"The labels have changed: {folder.name} is trained anew")
            shutil.rmtree(folder / "training", ignore_errors=True)
            (folder / "scores.json").unlink(missing_ok=True)
        path.write_text(digest.hexdigest())

    def _evaluate(self, folder: Path, student: Source) -> dict[str, Any]:
        """Return the errors of a student on the test."""
        path = folder / "scores.json"
        if not path.exists():
            frames = read_frames(self.folder / "held_out" / "test.extxyz")
            task = {0: ([frame.copy() for frame in frames], student)}
            ((_, found),) = run_tasks(label, task, self.settings.executor)
            for frame in found:
                if frame.calc is None:
                    raise InputError(f"the student fails: {frame.info['fault']}")
            write_frames(folder / "predicted.extxyz", found)
            _write_json(path, force_scores(frames, found))
        return json.loads(path.read_text())


def _is_newer(file: Path, other: Path) -> bool:
    """Return whether a file is there and was written after the other one."""
    return file.exists() and file.stat().st_mtime > other.stat().st_mtime


def _paths(config: Path, weights: Path) -> dict[str, str]:
    return {"config_path": str(config), "checkpoint_path": str(weights)}


def _potential(folder: Path) -> tuple[Path, Path]:
    """Return YAML and weights of the newest student in the folder of a run."""
    (config,) = (folder / "potential").glob("*.yaml")
    (weights,) = (folder / "potential").glob("*.pdparams")
    return config, weights


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")
