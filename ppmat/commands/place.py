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

"""``sample.py --mode=place``: where an adsorbate goes on a slab.

Placements are made, relaxed, checked and ranked by energy. Importing it loads no
Paddle.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import add_model_options
from ppmat.commands.options import announce_task_config
from ppmat.commands.options import counted
from ppmat.commands.options import lock_output
from ppmat.commands.options import new_parser
from ppmat.commands.options import parse_with_overrides
from ppmat.commands.options import refuse_if
from ppmat.commands.options import task_command
from ppmat.utils import logger
from ppmat.utils.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

_EPILOG = """\
The folder gets placements.csv and placements.extxyz, the best first, best.png, and in
relaxed/ each placement as it ends. The same command given again goes on where it
stopped.
Exit status: 0 done, 1 some placements were given up, 2 wrong input, 130 stopped.

examples:
  sample.py --mode=place --slab slab.cif --adsorbate CO --calculator emt
  sample.py --mode=place --slab slab.traj --adsorbate CO --source heuristic
            --calculator sfin_potential_chgnet_small --num_samples 50
  sample.py --mode=place --slab slab.cif --adsorbate OH --calculator emt
            -c configs/sfin/sfin_placement.yaml --checkpoint_path best.pdparams
"""
_HINT = "Choose another --save_path, or the options of before."
_NUM_DRAWN = 5  # of the best
SHIPPED_FLOW = "sfin_placement_emt_small"  # in ppmat/models/packages


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ``overrides`` holds the KEY=VALUE arguments."""
    about = "Place an adsorbate on a slab, relax the placements and rank them."
    parser = new_parser(about, _EPILOG)
    add = parser.add_argument
    add("--mode", choices=["place"], default="place", help="this one")
    add("--slab", required=True, metavar="FILE",
        help="clean slab, vacuum along c; FILE@INDEX picks a frame")  # fmt: skip
    add("--adsorbate", required=True, help="an element, a name of ASE's g2 set (CO), a "
        "file, or SMILES (needs ppmat[smiles]; smiles:CO if it is also a "
        "name)")  # fmt: skip
    add("--binding_atom", type=int, metavar="INDEX", help="atom of the adsorbate, from "
        "0, on which it stands; default: the one with most open valences, but any "
        "orientation for random")  # fmt: skip
    add("--source", choices=("flow", "heuristic", "random"), default="flow",
        help="a trained model moves random placements (default); ontop, bridge and "
        "hollow sites; or uniform points and orientations")  # fmt: skip
    add("--num_samples", type=int, default=50, help="placements")
    add("--seed", type=int, default=0, help="the same seed gives the same placements")
    add("--calculator", help="relaxes them: emt, chgnet, sevenn, diep, tblite, or "
        "a registered potential; without one there are no energies")  # fmt: skip
    add("--fmax", type=float, default=0.05,
        help="relaxed if no force is larger [eV/Å]")  # fmt: skip
    add("--max_steps", type=int, default=200,
        help="most steps of a relaxation; 0 only computes energies")  # fmt: skip
    add("--save_path", default="./output/place", metavar="FOLDER")
    add_model_options(parser)
    add("--checkpoint_path", help="weights that belong to --config_path, of the flow; "
        "without a model the shipped one is used")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the flow's YAML")
    return parse_with_overrides(parser, argv)


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; returns the exit status."""
    _check_options(args)
    from ppmat.datasets.adsorbates import read_adsorbate
    from ppmat.datasets.placements import check_room
    from ppmat.datasets.placements import clean_slab
    from ppmat.datasets.structure_reader import read_one

    adsorbate = read_adsorbate(args.adsorbate)
    refuse_if(
        args.binding_atom is not None and not 0 <= args.binding_atom < len(adsorbate),
        f"--binding_atom={args.binding_atom}: {args.adsorbate} has the atoms 0 to "
        f"{len(adsorbate) - 1} ({' '.join(adsorbate.get_chemical_symbols())})",
    )
    slab = clean_slab(read_one(args.slab, f"slab {args.slab}"))
    check_room(slab, adsorbate)
    calculator = _make_calculator(args.calculator)
    if calculator is not None:
        _check_elements(calculator, slab + adsorbate)
    with lock_output(args.save_path):
        return _place(args, task_dir, slab, adsorbate, calculator)


main = task_command(parse_args, run)


def _check_options(args: argparse.Namespace) -> None:
    for name, least in (("num_samples", 1), ("max_steps", 0), ("seed", 0)):
        value = getattr(args, name)
        refuse_if(value < least, f"--{name}={value}: wanted at least {least}")
    refuse_if(not 0 < args.fmax < 10, f"--fmax={args.fmax}: wanted 0 to 10 eV/Å")
    is_file = args.save_path.endswith((".csv", ".extxyz", ".traj", ".xyz"))
    refuse_if(not args.save_path.strip(), "--save_path is empty: wanted a folder")
    refuse_if(is_file, f"--save_path={args.save_path}: wanted a folder")
    refuse_if(
        args.checkpoint_path and not args.config_path,
        "--checkpoint_path goes with --config_path, the YAML of the model; weights of "
        "a registered model are chosen by --weights_name",
    )
    model = ("config_path", "model_name", "weights_name", "checkpoint_path")
    for name in (*model, "overrides"):
        unused = getattr(args, name) and args.source != "flow"
        refuse_if(unused, f"{name} goes with --source=flow, not {args.source}")
    if (args.config_path, args.model_name, args.checkpoint_path) == (None, None, None):
        args.model_name = SHIPPED_FLOW


def _make_calculator(name: str | None) -> Any:
    """Return a ``BatchCalculator``; None for None."""
    if name is None:
        return None
    from ppmat.calculator import AseBatch
    from ppmat.calculator import SFINCalculator
    from ppmat.distillation.teachers import OPTIONAL
    from ppmat.distillation.teachers import TEACHERS
    from ppmat.models import MODEL_REGISTRY
    from ppmat.utils.errors import check_choice

    if name in (named := ("emt", *OPTIONAL)):
        return AseBatch(TEACHERS[name]())
    potentials = [model for model in MODEL_REGISTRY if "potential" in model]
    check_choice("--calculator", name, (*named, *potentials))
    return SFINCalculator(model_name=name)


def _check_elements(calculator: Any, atoms: Atoms) -> None:
    """Refuse elements that the calculator does not know, where it says which it does.

    Raises:
        InputError: An element is unknown.
    """
    from ase.calculators.emt import EMT
    from ase.calculators.emt import parameters

    from ppmat.calculator import SFINCalculator

    if isinstance(calculator, SFINCalculator):
        try:
            calculator.check_elements(atoms)
        except InputError as error:
            hint = "Choose another --calculator."
            raise InputError(_without_hint(error), hint=hint) from error
    elif isinstance(calculator.calculator, EMT):
        unknown = sorted({atom.symbol for atom in atoms} - parameters.keys())
        if unknown:
            raise InputError(
                f"EMT does not know {', '.join(unknown)}",
                wanted=f"only {', '.join(parameters)}",
                hint="Choose another --calculator.",
            )


def _place(
    args: argparse.Namespace,
    task_dir: str,
    slab: Atoms,
    adsorbate: Atoms,
    calculator: Any,
) -> int:
    from ppmat.datasets.adsorbates import binding_atom
    from ppmat.datasets.placements import LARGEST_SHIFT
    from ppmat.datasets.placements import LONGEST_BOND
    from ppmat.datasets.placements import PLACEMENTS
    from ppmat.sampler.placement_ranking import find_repeated
    from ppmat.utils.files import RunManifest

    settings = {
        name: getattr(args, name)
        for name in ("source", "num_samples", "seed", "binding_atom", "calculator")
    }
    settings |= {"slab": _digest(slab), "adsorbate": _digest(adsorbate)}
    if calculator is not None:
        settings |= {"fmax": args.fmax, "max_steps": args.max_steps}
        settings["potential"] = calculator.fingerprints()
    sampler = None
    if args.source == "flow":
        sampler = _load_flow(args, task_dir)
        _warn_of_unseen(sampler.model, slab + adsorbate)
        settings |= {f"flow {k}": value for k, value in sampler.settings().items()}
        settings["credible"] = [LARGEST_SHIFT, LONGEST_BOND]
    manifest = RunManifest(Path(args.save_path) / "place.json", settings, _HINT)
    manifest.write()
    make = PLACEMENTS["heuristic" if args.source == "heuristic" else "random"]
    count, seed = args.num_samples, args.seed
    binding = args.binding_atom
    if binding is None and sampler is not None:  # as measured, docs/oc20/placement.md
        binding = binding_atom(adsorbate)
    initial = list(make(slab, adsorbate, count, seed, binding))
    placed = initial
    if sampler is not None:
        folder = os.path.join(args.save_path, "flow")
        placed = list(sampler.from_structures(initial, save_path=folder, seed=seed))
        placed = _with_credible_shapes(placed, initial)
    repeated = find_repeated(placed)
    logger.message(
        f"{args.source}: {count - len(repeated)} of {counted(count, 'placement')} "
        f"({len(repeated)} dropped as too close to another)"
    )
    kept = [atoms for i, atoms in enumerate(placed) if i not in repeated]
    ended = _relax(kept, calculator, args) if calculator is not None else kept
    return _report(ended, initial, Path(args.save_path))


def _digest(atoms: Atoms) -> str:
    """Return a text that is equal for equal structures."""
    held = [list(map(int, each.get_indices())) for each in atoms.constraints]
    parts = (atoms.positions.round(4), atoms.cell.array.round(4), atoms.get_tags())
    text = f"{atoms.numbers.tolist()} {held} {[(p + 0).tolist() for p in parts]}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load_flow(args: argparse.Namespace, task_dir: str) -> Any:
    """Return the ``StructureSampler`` of the flow."""
    from ppmat.models import package_label
    from ppmat.sampler.structure_sampler import StructureSampler

    sampler = StructureSampler(
        model_name=args.model_name,
        weights_name=args.weights_name,
        config_path=announce_task_config(
            args.config_path, task_dir, args.overrides, False
        ),
        checkpoint_path=args.checkpoint_path,
        config_overrides=args.overrides,
        device=args.device,
    )
    refuse_if(
        not getattr(sampler.model, "moves_far", False),
        f"{type(sampler.model).__name__} relaxes structures; --source=flow needs a "
        "trained SFINPlacement, see configs/sfin/sfin_placement.yaml",
    )
    label = package_label(args.model_name) if args.model_name else None
    if label is not None:
        logger.message(
            f"The flow is '{label['name']}', trained on {label['trained_on']}. Its "
            f"measured results: {label['results']}"
        )
    return sampler


def _warn_of_unseen(model: Any, atoms: Atoms) -> None:
    """Warn of elements that the flow was not trained on."""
    seen = model.elements_seen.numpy()
    unseen = sorted({atom.symbol for atom in atoms if not seen[atom.number]})
    if unseen:
        logger.warning(
            f"not in the training data of the flow: {', '.join(unseen)}; its "
            "placements may be no better than random ones, so compare with "
            "--source=heuristic"
        )


def _with_credible_shapes(placed: list[Atoms], initial: list[Atoms]) -> list[Atoms]:
    """Return placements of the flow, adsorbates as given where it deformed them."""
    from ppmat.datasets.placements import LARGEST_SHIFT
    from ppmat.datasets.placements import LONGEST_BOND
    from ppmat.datasets.placements import credible_shapes

    credible, count = credible_shapes(placed, initial)
    total = len(placed)
    if count:
        logger.message(
            f"flow: the shape of the adsorbate is not credible in {count} of {total} "
            f"placements (keeping its bonds moved atoms by more than "
            f"{LARGEST_SHIFT:g} Å, or a bond is longer than {LONGEST_BOND:g} x that "
            "given); there it is placed rigidly, as it was given"
        )
    if 2 * count > total:
        logger.warning(
            "the flow does not know this adsorbate on this slab; compare with "
            "--source=heuristic"
        )
    return credible


def _relax(placed: list[Atoms], calculator: Any, args: argparse.Namespace) -> list:
    """Return the placements where their relaxations ended, in their order.

    Those that an earlier command ended are read.
    """
    from ppmat.calculator import relax_batch
    from ppmat.distillation.labelling import write_frames
    from ppmat.utils.files import make_folder
    from ppmat.utils.progress import Progress

    folder = Path(args.save_path) / "relaxed"
    make_folder(folder)
    paths = [folder / f"{atoms.info['placement']:04d}.extxyz" for atoms in placed]
    ended = {i: _read_ended(p, placed[i]) for i, p in enumerate(paths) if p.exists()}
    todo = [i for i in range(len(placed)) if i not in ended]
    if ended:
        logger.message(f"{len(ended)} placements are relaxed already")
    structures = [placed[i] for i in todo]
    ending = relax_batch(structures, calculator, args.fmax, args.max_steps)
    for done in Progress(ending, "relaxing", total=len(todo), unit=" placements"):
        atoms = done.atoms.copy()
        atoms.info |= {"converged": done.converged, "force_calls": done.steps + 1}
        if done.fault is None:
            atoms.info["total_energy"] = float(done.results["energy"])
        else:
            atoms.info["fault"] = _without_hint(done.fault)
        number = todo[done.index]
        write_frames(paths[number], [atoms])
        ended[number] = _read_ended(paths[number], placed[number])
    return [ended[i] for i in range(len(placed))]


def _read_ended(path: Path, placed: Atoms) -> Atoms:
    """Read where the relaxation of a placement ended."""
    from ppmat.distillation.labelling import read_frames

    try:
        (atoms,) = read_frames(path)
        if atoms.numbers.tolist() != placed.numbers.tolist():
            raise ValueError("other atoms")
    except Exception as error:  # ASE raises many
        raise InputError(
            "is empty or damaged",
            where=str(path),
            hint="Delete it; the same command relaxes this placement again.",
        ) from error
    return atoms


def _without_hint(fault: Exception) -> str:
    """Return why a calculator gave up; its hint is for its callers in Python."""
    if isinstance(fault, InputError) and fault.hint:
        return str(fault).removesuffix(f". {fault.hint}")
    return str(fault)


def _report(ended: list[Atoms], initial: list[Atoms], folder: Path) -> int:
    """Write table, structures and picture; returns the exit status."""
    from ppmat.distillation.labelling import write_frames
    from ppmat.sampler.figures import draw_placements
    from ppmat.sampler.placement_ranking import add_checks
    from ppmat.sampler.placement_ranking import count_anomalies
    from ppmat.sampler.placement_ranking import is_valid
    from ppmat.sampler.placement_ranking import rank
    from ppmat.sampler.placement_ranking import write_table
    from ppmat.utils.files import replacing

    for atoms in ended:
        add_checks(atoms, initial[atoms.info["placement"]])
    ranked = rank(ended)
    valid = [atoms for atoms in ranked if is_valid(atoms)]
    distinct = write_table(folder / "placements.csv", ranked)
    write_frames(folder / "placements.extxyz", ranked)
    best = distinct[:_NUM_DRAWN]
    if best:
        with replacing(folder / "best.png") as temporary:
            titles = [_title(i, atoms) for i, atoms in enumerate(best, 1)]
            draw_placements(best, titles).savefig(temporary, dpi=150)
        for title in titles:
            print(title, flush=True)
    faults = [atoms for atoms in ended if "fault" in atoms.info]
    for atoms in faults:
        logger.error(f"placement {atoms.info['placement']}: {atoms.info['fault']}")
    late = sum(not atoms.info.get("converged", True) for atoms in valid)
    failed = f"{len(ended) - len(valid) - len(faults)} failed a check"
    if anomalies := count_anomalies(ended):
        failed += f" ({anomalies})"
    logger.message(
        f"{folder}: ranked {len(distinct)} of {counted(len(ended), 'placement')} "
        f"(those equal by symmetry count separately); {failed}, {len(faults)} were "
        f"given up, {late} valid ones did not converge"
    )
    _warn_of_lower(ranked, best)
    return EXIT_SOME_LEFT_OUT if faults or not valid else 0


def _warn_of_lower(ranked: list[Atoms], best: list[Atoms]) -> None:
    """Warn of a rejected placement whose energy is lower than that of rank 1."""
    from ppmat.sampler.placement_ranking import SAME_ENERGY
    from ppmat.sampler.placement_ranking import count_anomalies
    from ppmat.sampler.placement_ranking import is_valid

    rejected = [a for a in ranked if not is_valid(a) and "total_energy" in a.info]
    if not best or not rejected or "total_energy" not in best[0].info:
        return
    lowest = rejected[0].info  # they are in the order of their energies
    gain = best[0].info["total_energy"] - lowest["total_energy"]
    if gain > SAME_ENERGY:
        logger.warning(
            f"placement {lowest['placement']} is {gain:.3f} eV lower than rank 1, but "
            f"failed a check ({count_anomalies(rejected[:1])}); look at it"
        )


def _title(number: int, atoms: Atoms) -> str:
    text = f"{number}. placement {atoms.info['placement']}"
    energy = atoms.info.get("total_energy")
    return text if energy is None else f"{text}, {energy:.3f} eV"
