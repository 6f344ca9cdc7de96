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

"""Calculators that label frames: a closed list, to which a program can add.

A YAML file names a teacher; nothing is imported from it. Teachers with weights are
optional packages, and run where they are installed.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Annotated
from typing import Any

from ase.calculators.calculator import Calculator

from ppmat.utils.errors import InputError
from ppmat.utils.errors import nearest
from ppmat.utils.ranges import Range
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_call

EXTERNAL = "external"  # the user's own code labels files
OPTIONAL = ("chgnet", "sevenn", "diep", "tblite")  # named by their packages


def emt() -> Calculator:
    """Return ASE's effective medium theory: Al, Cu, Ag, Au, Ni, Pd, Pt; H, C, N, O."""
    from ase.calculators.emt import EMT

    return EMT()


def chgnet(model: str = "0.3.0", device: str = "cpu") -> Calculator:
    """Return CHGNet: 89 elements, PBE(+U).

    Args:
        model: Weights of the package: ``0.3.0``, ``0.2.0``, ``r2scan``.
        device: Device of PyTorch.
    """
    _need("chgnet")
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    network = CHGNet.load(model_name=model, use_device=device, verbose=False)
    return CHGNetCalculator(network, use_device=device)


def sevenn(
    model: str = "7net-0", modal: str | None = None, device: str = "cpu"
) -> Calculator:
    """Return SevenNet.

    Args:
        model: Weights of the package: ``7net-0``, ``7net-mf-0``, ``7net-l3i5``.
        modal: Level of theory of ``7net-mf-0``: ``PBE`` or ``R2SCAN``.
        device: Device of PyTorch.
    """
    _need("sevenn")
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(model, device=device, modal=modal)


def diep(device: str = "cpu") -> Calculator:
    """Return DIEP with the weights of its package: 89 elements, r2SCAN.

    Args:
        device: Device of PyTorch.
    """
    _need("diep")
    from diep.pretrained import make_calculator

    return make_calculator(device=device)


def tblite(
    method: str = "GFN2-xTB",
    electronic_temperature: Annotated[float, Range(0, 10**5)] = 1000.0,
) -> Calculator:
    """Return extended tight binding.

    Args:
        method: ``GFN2-xTB`` or ``GFN1-xTB``.
        electronic_temperature: Of the electrons [K]; metals want 1000 K.
    """
    _need("tblite")
    from tblite.ase import TBLite

    return TBLite(
        method=method, electronic_temperature=electronic_temperature, verbosity=0
    )


def sfin(config_path: str, checkpoint_path: str) -> Calculator:
    """Return a trained potential of this package.

    Args:
        config_path: Its YAML.
        checkpoint_path: Its weights.
    """
    from ppmat.calculator import SFINCalculator

    return SFINCalculator(config_path, checkpoint_path)


def _need(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"teacher {package}: {error}", hint=f"pip install 'ppmat[{package}]'"
        ) from error


TEACHERS: dict[str, Callable[..., Calculator]] = {
    factory.__name__: factory for factory in (emt, chgnet, sevenn, diep, tblite, sfin)
}


def register(name: str, factory: Callable[..., Calculator]) -> None:
    """Make a teacher legal in YAML.

    Args:
        name: Its name.
        factory: Returns an ASE calculator; its arguments are the keys in YAML. Other
            processes import it, so it must be a function of a module.

    Raises:
        ConfigError: The name belongs to another factory.
    """
    if TEACHERS.get(name, factory) is not factory or name == EXTERNAL:
        raise ConfigError(f"teacher {name!r} is there already")
    TEACHERS[name] = factory


def check_teacher(block: Mapping[str, Any], where: str) -> None:
    """Check name and arguments of a teacher, ``{name: emt}``.

    Raises:
        ConfigError: They are not legal.
    """
    params = dict(block)
    name = params.pop("name", None)
    if name not in (legal := [*TEACHERS, EXTERNAL]):
        raise ConfigError(
            f"{where}.name is {name!r}",
            wanted=f"one of {', '.join(legal)}",
            hint=nearest(name, legal).strip(),
        )
    if name != EXTERNAL:
        check_call(TEACHERS[name], params, where)
    elif params:
        raise ConfigError(f"{where}: {EXTERNAL} takes no {', '.join(params)}")


class Source:
    """How to make a calculator in another process: a factory and its arguments.

    Args:
        factory: As in :func:`register`.
        **params: Its arguments.
    """

    def __init__(self, factory: Callable[..., Calculator], **params: Any) -> None:
        self.factory, self.params = factory, params

    def calculator(self) -> Calculator:
        """Return the calculator; a process makes it once."""
        return _made(self.factory, tuple(sorted(self.params.items())))


@functools.lru_cache(maxsize=2)
def _made(factory: Callable[..., Calculator], params: tuple) -> Calculator:
    return factory(**dict(params))
