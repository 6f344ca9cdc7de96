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

"""The keys of the section ``Distil``: names, types, defaults, meaning."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Annotated
from typing import Any
from typing import Literal

from ppmat.distillation.teachers import EXTERNAL
from ppmat.distillation.teachers import check_teacher
from ppmat.utils.ranges import Range
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_call

_Length = Annotated[float, Range(0, 5)]  # Å
_Count = Annotated[int, Range(0, 10**6)]
_Some = Annotated[int, Range(1, 10**6)]


@dataclass(frozen=True)
class Explore:
    """Trajectories of an iteration, of each start structure."""

    # That moves the atoms: the teacher, or the newest student, which is faster. Without
    # train.start the first iteration has no student and takes the teacher
    calculator: Literal["teacher", "student"] = "teacher"
    strain: Annotated[float, Range(0, below=0.5)] = 0.03  # of the start, largest
    displacement: _Length = 0.05  # of the start's atoms, standard deviation
    # Molecular dynamics: a trajectory for each temperature [K] and pressure [GPa];
    # pressure null keeps the cell
    temperatures: Annotated[list[float], Range(above=0, most=20_000)] = (300, 900)
    pressures: list[Annotated[float, Range(-1000, 1000)] | None] = (None,)
    steps: _Some = 200
    time_step: Annotated[float, Range(above=0, most=20)] = 2.0  # fs
    interval: _Some = 20  # steps between frames
    copies: _Count = 1  # of each such trajectory; 0 for none
    # Rattle and relax: in each round atoms are displaced and relaxed for some steps
    rattle_copies: _Count = 1  # trajectories; 0 for none
    rattle_rounds: _Some = 5
    rattle_displacement: _Length = 0.1  # standard deviation; the cell has ``strain``
    rattle_steps: _Count = 5


@dataclass(frozen=True)
class Filter:
    """Which frames are left out."""

    # Smallest distance of two atoms, over the sum of their covalent radii
    closest: Annotated[float, Range(above=0, most=2)] = 0.6
    largest_force: Annotated[float, Range(above=0, most=1000)] = 30.0  # eV/Å


@dataclass(frozen=True)
class Select:
    """Which frames are labelled and trained on."""

    frames: _Some = 100  # of an iteration, at most
    # A frame must be new by this much, see selection.py; the loop ends without any
    min_gain: Annotated[float, Range(0, 10)] = 0.1
    # Trajectories of the first iteration that are never trained on, share of all; one
    # at least for validation and one for the test
    held_out: Annotated[float, Range(above=0, most=0.5)] = 0.1
    held_out_frames: _Some = 100  # for validation, and for the test, at most


@dataclass(frozen=True)
class Train:
    """How the student is trained."""

    config: str = "configs/sfin/sfin_potential.yaml"
    overrides: list[str] = ()  # KEY=VALUE of that file
    # A trained potential to start from: its YAML and weights
    start: Mapping[str, str] | None = None
    begin: Literal["start", "previous"] = "start"  # of later iterations
    # Frames with labels of the trained potential's own teacher, against forgetting
    replay: str | None = None
    replay_frames: _Some = 100


@dataclass(frozen=True)
class Converged:
    """When the loop ends before ``max_iterations``."""

    # Error of the student's forces on the test over their standard deviation
    force_error: Annotated[float, Range(0, 10)] = 0.1


@dataclass(frozen=True)
class Executor:
    """Where exploration and labels are computed."""

    kind: Literal["processes", "dask"] = "processes"
    workers: Annotated[int, Range(1, 1024)] = 1
    address: str | None = None  # of a Dask scheduler; null starts one here


_PARTS = {
    "filter": Filter,
    "select": Select,
    "train": Train,
    "converged": Converged,
    "executor": Executor,
}


@dataclass(frozen=True)
class DistilSettings:
    """The section ``Distil``."""

    output_dir: str
    start: str | Sequence[str]  # structures: files, folders, patterns
    teacher: Mapping[str, Any]  # name, and arguments of teachers.py
    seed: Annotated[int, Range(0, 2**32 - 1)] = 42
    max_iterations: Annotated[int, Range(1, 100)] = 1
    # One block, or a list: of the first iteration, the second, ...; the last one stays
    explore: Any = field(default_factory=dict)
    filter: Mapping[str, Any] | Filter = field(default_factory=dict)
    select: Mapping[str, Any] | Select = field(default_factory=dict)
    train: Mapping[str, Any] | Train = field(default_factory=dict)
    converged: Mapping[str, Any] | Converged = field(default_factory=dict)
    executor: Mapping[str, Any] | Executor = field(default_factory=dict)

    @classmethod
    def from_dict(cls, config: Mapping, where: str = "Distil") -> DistilSettings:
        """Check a section and return it with its defaults.

        Raises:
            ConfigError: Unknown or missing key, or a value that cannot be.
        """
        check_call(cls, config, where)
        teacher = _block(config["teacher"], f"{where}.teacher")
        check_teacher(teacher, f"{where}.teacher")
        parts = {}
        for name, part in _PARTS.items():
            block = _block(config.get(name), f"{where}.{name}")
            check_call(part, block, f"{where}.{name}")
            parts[name] = part(**block)
        parts["explore"] = _explore(config.get("explore"), f"{where}.explore")
        result = cls(**{**config, **parts})
        train = result.train
        if train.start is not None:
            check_call(_trained, train.start, f"{where}.train.start")
        if teacher["name"] == EXTERNAL:
            students = [each.calculator == "student" for each in result.explore]
            if not all(students) or train.start is None:
                raise ConfigError(
                    f"{where}.teacher: external labels cannot move atoms",
                    wanted="explore.calculator: student, and train.start",
                )
        return result

    def explore_in(self, iteration: int) -> Explore:
        """Return what to explore in an iteration, from 0."""
        return self.explore[min(iteration, len(self.explore) - 1)]


def _trained(config_path: str, checkpoint_path: str) -> None:
    """Show the keys of a trained potential in its signature."""


_trained.__name__ = "start"  # errors name the owner of a key


def _block(block: Any, where: str) -> Mapping:
    """Return a block, empty for None.

    Raises:
        ConfigError: It is something else.
    """
    if block is not None and not isinstance(block, Mapping):
        raise ConfigError(f"{where}: {block!r}", wanted="a block of keys")
    return block or {}


def _explore(block: Any, where: str) -> tuple[Explore, ...]:
    """Return the stages of the exploration, checked."""
    stages = block if isinstance(block, list) and block else [block]
    found = []
    for number, stage in enumerate(stages):
        place = f"{where}.{number}" if stages is block else where
        stage = _block(stage, place)
        check_call(Explore, stage, place)
        explore = Explore(**stage)
        if not explore.copies and not explore.rattle_copies:
            raise ConfigError(
                f"{place}: copies and rattle_copies are 0, so there is no frame"
            )
        if explore.copies and explore.steps < explore.interval:
            raise ConfigError(
                f"{place}: steps {explore.steps} is less than interval "
                f"{explore.interval}, so there is no frame"
            )
        found.append(explore)
    return tuple(found)
