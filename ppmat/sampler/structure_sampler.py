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

"""Generate structures with a trained model: from scratch, or by relaxing given ones."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import paddle
import paddle.distributed as dist
from ase import Atoms
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor
from tqdm import tqdm

from ppmat.datasets import build_dataloader
from ppmat.datasets.build_structure import BuildStructure
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.structure_dataset import StructureDataset
from ppmat.datasets.structure_reader import identity
from ppmat.datasets.structure_reader import to_records
from ppmat.datasets.transform import build_post_transforms
from ppmat.metrics import build_metric
from ppmat.models import build_graph_converter
from ppmat.models import build_trained_model
from ppmat.sampler.generation import Source
from ppmat.sampler.generation import generate
from ppmat.sampler.generation import positions_of_batch
from ppmat.sampler.generation import positions_of_records
from ppmat.sampler.generation import sample_arguments
from ppmat.sampler.generation import sample_batch
from ppmat.sampler.generation import wait_for_all
from ppmat.sampler.scoring import score
from ppmat.sampler.scratch_batches import MakeBatch
from ppmat.sampler.scratch_batches import batch_of_conditions
from ppmat.sampler.scratch_batches import batch_of_formula
from ppmat.sampler.scratch_batches import batch_of_num_atoms
from ppmat.sampler.structure_writer import RelaxedAtoms
from ppmat.sampler.structure_writer import StructureWriter
from ppmat.sampler.structure_writer import check_format
from ppmat.sampler.structure_writer import file_stem
from ppmat.sampler.structure_writer import result_to_atoms
from ppmat.utils import logger
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_call
from ppmat.utils.registry import check_keys
from ppmat.utils.result_store import Result

SAMPLE_KEYS = (
    "data",
    "build_structure_cfg",
    "graph_converter",
    "post_transforms",
    "metrics",
    "model_sample_params",
)
_GRAPH = "build_graph_cfg"


class StructureSampler:
    """Generates structures with a trained model.

    Give a registered ``model_name``, or ``config_path`` and ``checkpoint_path``.

    With ``save_path`` each batch is written as it is made (``<save_path>/results``),
    and the same call made again, with the same weights, data, seed and sizes, goes on
    where the last one stopped; the results are then read from there item by item. In
    several processes (started by ``paddle.distributed.launch``) each makes its share
    of the batches if ``save_path`` is given; without it every process makes them all.

    Args:
        model_name: A registered model.
        weights_name: File of the weights in the package of a registered model.
        config_path: YAML of a model of your own. Its section ``Sample``, which may be
            missing, holds ``data`` (a dataset block), ``graph_converter``,
            ``build_structure_cfg``, ``post_transforms``, ``metrics`` and
            ``model_sample_params`` (arguments of ``model.sample``).
        checkpoint_path: Its weights; None takes ``Predict.checkpoint_path``.
        config_overrides: ``KEY=VALUE`` with a dotted key.
        device: ``"cpu"``, ``"gpu"``, ``"gpu:0"``; Paddle's own choice when None.

    Raises:
        ConfigError: Arguments or YAML cannot be meant.
        CheckpointError: Weights that cannot be read or belong to another model.
    """

    def __init__(
        self,
        model_name: str | None = None,
        weights_name: str | None = None,
        config_path: str | None = None,
        checkpoint_path: str | None = None,
        config_overrides: Sequence[str] | None = None,
        device: str | None = None,
    ) -> None:
        if device is not None:
            paddle.set_device(device)
        self.model, self.config = build_trained_model(
            model_name, weights_name, config_path, checkpoint_path, config_overrides
        )
        if not callable(getattr(self.model, "sample", None)):
            raise ConfigError(
                f"Model: {type(self.model).__name__} has no method 'sample', so it "
                "cannot generate structures; use a predictor"
            )
        self.sample_config = self.config.get("Sample") or {}
        check_keys(self.sample_config, SAMPLE_KEYS, "Sample")
        self.post_transforms = build_post_transforms(
            self.sample_config.get("post_transforms"), "Sample.post_transforms"
        )
        cfg = self.sample_config.get("build_structure_cfg") or {
            "format": "array",
            "niggli": False,
            "canocial": False,
        }
        check_call(BuildStructure, cfg, "Sample.build_structure_cfg")
        self.structure_converter = BuildStructure(**cfg)

    # --- the model --------------------------------------------------------------

    def post_process(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return a model output after ``Sample.post_transforms``."""
        return data if self.post_transforms is None else self.post_transforms(data)

    def sample(
        self, data: Mapping[str, Any], sample_params: Mapping | None = None
    ) -> dict[str, Any]:
        """Run ``model.sample`` on one batch.

        Args:
            data: The batch.
            sample_params: Arguments of ``model.sample``; None takes
                ``Sample.model_sample_params``.

        Returns:
            ``{"result": [...]}``, one dict of lists and numbers a structure.
        """
        params = self._sample_params(sample_params)
        return self.post_process(self.model.sample(data, **params))

    def _sample_params(self, sample_params: Mapping | None) -> dict[str, Any]:
        if sample_params is None:
            sample_params = self.sample_config.get("model_sample_params") or {}
        where = "Sample.model_sample_params"
        if not isinstance(sample_params, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {sample_params!r}")
        arguments = sample_arguments(self.model)
        if arguments is not None:
            where = f"{where} ({type(self.model).__name__}.sample)"
            check_keys(sample_params, arguments, where)
        return dict(sample_params)

    # --- a data set -------------------------------------------------------------

    def compute_metric(
        self,
        save_path: str | None = None,
        split: str | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        num_samples: int | None = None,
        format: str | None = None,
        sample_params: Mapping | None = None,
    ) -> Any:
        """Generate for ``Sample.data`` and score the results.

        Arguments as in :meth:`sample_by_dataloader`. With ``save_path`` the numbers
        also go to ``metrics.yaml`` and, as a table beside copying the input, to
        ``metrics.txt``; figures are drawn if the data have relaxed positions.

        Returns:
            What ``Sample.metrics`` return: a dict from name to number for streaming
            metrics.

        Raises:
            ConfigError: ``Sample.metrics`` is missing, and see
                :meth:`sample_by_dataloader`.
        """
        if not self.sample_config.get("metrics"):
            raise ConfigError(
                "Sample.metrics is missing, so there is nothing to compute; name a "
                "metric, for instance {__class_name__: IS2RSMetric}"
            )
        results = self.sample_by_dataloader(
            save_path, split, batch_size, seed, num_samples, format, sample_params
        )
        return self.score(results, save_path)

    def score(self, results: Sequence, save_path: str | None = None) -> Any:
        """Score results with ``Sample.metrics``; see :meth:`compute_metric`."""
        metrics = build_metric(self.sample_config.get("metrics"), "Sample.metrics")
        return score(metrics, results, save_path)

    def sample_by_dataloader(
        self,
        save_path: str | None = None,
        split: str | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        num_samples: int | None = None,
        format: str | None = None,
        sample_params: Mapping | None = None,
    ) -> Sequence:
        """Generate one structure (or several) for each sample of ``Sample.data``.

        Args:
            save_path: Output folder; see the class.
            split: Replaces ``split`` of the data set.
            batch_size: Replaces that of the sampler block.
            seed: Names the noise; None leaves it to ``Sample.model_sample_params``.
            num_samples: Results for each sample.
            format: ``extxyz``, ``traj`` or ``cif``; None writes extxyz for slabs
                (results with tags), else CIF.
            sample_params: Arguments of ``model.sample``; None takes
                ``Sample.model_sample_params``.

        Returns:
            The results: dicts of lists and numbers as ``model.sample`` returns them,
            with ``cart_coords_initial`` and ``cart_coords_relaxed`` (Å) if the data
            have them. A list, or a sequence that reads from ``save_path``.

        Raises:
            ConfigError: No data block, or one that cannot be meant.
        """
        where, cfg = self._data_config()
        if split is not None:
            params = dict(cfg["dataset"].get("__init_params__") or {}, split=split)
            cfg = {**cfg, "dataset": {**cfg["dataset"], "__init_params__": params}}
        loader = build_dataloader(cfg, where=where, training=False)
        if isinstance(loader, dict):
            raise ConfigError(f"{where}: split_dataset_ratio has no meaning here")
        records = getattr(loader.dataset, "records", None)
        source = Source(
            loader.dataset,
            positions_of_batch,
            [cfg["dataset"], identity(records if records is not None else ())],
            loader.collate_fn,
            loader.num_workers,
        )
        return self._run(
            source,
            sample_params,
            batch_size or loader.batch_sampler.batch_size,
            seed,
            num_samples,
            save_path,
            format,
        )

    def _data_config(self) -> tuple:
        sections = [("Sample.data", self.sample_config.get("data"))]
        for split in ("test", "val"):
            block = (self.config.get("Dataset") or {}).get(split)
            sections.append((f"Dataset.{split}", block))
        for where, cfg in sections:
            if cfg:
                return where, cfg
        raise ConfigError(
            "no data to sample for: none of Sample.data, Dataset.test and Dataset.val "
            "is in the configuration"
        )

    # --- from scratch -----------------------------------------------------------

    def sample_by_num_atoms(
        self,
        num_atoms: int,
        save_path: str | None = None,
        sample_params: Mapping | None = None,
        num_samples: int = 1,
        batch_size: int = 16,
        seed: int | None = None,
        format: str = "cif",
    ) -> dict[str, Any]:
        """Generate structures of a given number of atoms.

        Args:
            num_atoms: Atoms in each structure.
            save_path: Output folder; None writes nothing.
            sample_params: Arguments of ``model.sample``; None takes
                ``Sample.model_sample_params``.
            num_samples: Number of structures.
            batch_size: Structures generated at once.
            seed: Names the noise.
            format: ``extxyz``, ``traj`` or ``cif``.

        Returns:
            ``{"result": [...]}``.

        Raises:
            NotImplementedError: The model cannot generate from a number alone.
        """
        batch = batch_of_num_atoms(self.model, num_atoms)
        return self._from_scratch(
            batch, save_path, sample_params, num_samples, batch_size, seed, format
        )

    def sample_by_chemical_formula(
        self,
        chemical_formula: str,
        save_path: str | None = None,
        sample_params: Mapping | None = None,
        num_samples: int = 1,
        batch_size: int = 16,
        seed: int | None = None,
        format: str = "cif",
    ) -> dict[str, Any]:
        """Generate structures of a given composition (``"LiMnO2"``).

        Other arguments and result as in :meth:`sample_by_num_atoms`.

        Raises:
            ConfigError: Not a formula with whole numbers of atoms.
            NotImplementedError: The model cannot generate from a formula alone.
        """
        batch = batch_of_formula(self.model, chemical_formula)
        return self._from_scratch(
            batch, save_path, sample_params, num_samples, batch_size, seed, format
        )

    def sample_by_condition(
        self,
        num_atoms: int,
        conditions: Mapping[str, Any],
        save_path: str | None = None,
        sample_params: Mapping | None = None,
        num_samples: int = 1,
        batch_size: int = 16,
        seed: int | None = None,
        format: str = "cif",
    ) -> dict[str, Any]:
        """Generate structures with wanted properties.

        Args:
            num_atoms: Atoms in each structure.
            conditions: Value by name, for each of the model's ``condition_names``: a
                number, a text, or a tensor for one structure.

        Other arguments and result as in :meth:`sample_by_num_atoms`.

        Raises:
            NotImplementedError: The model takes no conditions.
            ConfigError: Conditions are missing or unknown.
        """
        batch = batch_of_conditions(self.model, num_atoms, conditions)
        return self._from_scratch(
            batch, save_path, sample_params, num_samples, batch_size, seed, format
        )

    def _from_scratch(
        self,
        batch: MakeBatch,
        save_path: str | None,
        sample_params: Mapping | None,
        num_samples: int,
        batch_size: int,
        seed: int | None,
        format: str,
    ) -> dict[str, Any]:
        check_format(format)
        params = self._sample_params(sample_params)
        results: list[Result] = []
        starts = range(0, num_samples, batch_size)
        for number, start in enumerate(tqdm(starts, desc="sampling", disable=None)):
            count = min(batch_size, num_samples - start)
            results += sample_batch(self, batch(count), number, params, seed, 1)
        if save_path is not None and dist.get_rank() == 0:
            self._write(results, save_path, format)
        return {"result": results}

    # --- given structures -------------------------------------------------------

    def from_structures(
        self,
        structures: Atoms | Structure | OC20Record | Iterable,
        batch_size: int = 16,
        seed: int | None = None,
        num_samples: int | None = None,
        save_path: str | None = None,
        format: str = "extxyz",
        sample_params: Mapping | None = None,
        num_workers: int = 0,
        progress: bool = True,
    ) -> Atoms | Sequence:
        """Relax one structure or many.

        Args:
            structures: One or an iterable of ``ase.Atoms`` (tags: 0 sub-surface,
                1 surface, 2 adsorbate; ``FixAtoms`` for atoms that are held), pymatgen
                ``Structure`` (site properties ``tags`` and ``fixed``) or
                ``OC20Record``; an ``OC20LMDB`` is read row by row.
            batch_size: Structures relaxed at once.
            seed: Names the noise; the same seed gives the same structures.
            num_samples: Results for each structure, one after the other; None makes
                one, or as many as ``Sample.model_sample_params`` says.
            save_path: Output folder; see the class.
            format: ``extxyz``, ``traj`` or ``cif`` (which loses tags and constraints).
            sample_params: Arguments of ``model.sample``; None takes
                ``Sample.model_sample_params``.
            num_workers: Processes that search neighbours; 0 uses this one.
            progress: Show a progress bar for more than one structure.

        Returns:
            For one structure its relaxed ``ase.Atoms``: atoms in the same order, with
            tags, constraints and info, initial positions in
            ``arrays["initial_positions"]``. For an iterable, or several samples, all of
            them in the order of the input: a list, or with ``save_path`` a sequence
            that reads from there.

        Raises:
            ConfigError: No structure, or an unknown format.
            ValueError: A structure that cannot be used (no cell, NaN, unknown element
                ...); its position is named.
        """
        check_format(format)
        one = isinstance(structures, (Atoms, Structure, OC20Record))
        if one:
            structures = [structures]
        elif not hasattr(structures, "__len__"):
            structures = list(structures)
        if not len(structures):
            raise ConfigError("from_structures: there is no structure to relax")
        records = to_records(structures)
        graph = build_graph_converter(*self._graph_config())
        source = Source(
            StructureDataset(records, graph),
            lambda rows, batch: positions_of_records(records, rows),
            identity(records),
            num_workers=num_workers,
        )
        results = self._run(
            source,
            sample_params,
            batch_size,
            seed,
            num_samples,
            save_path,
            format,
            structures,
            progress and not one,
        )
        atoms = RelaxedAtoms(results, structures)
        if one and num_samples is None and len(atoms) == 1:
            return atoms[0]
        return list(atoms) if save_path is None else atoms

    def _graph_config(self) -> tuple:
        """Return block and YAML path of the converter the model was trained with."""
        for section in ("Sample", "Predict"):
            cfg = (self.config.get(section) or {}).get("graph_converter")
            if cfg:
                return cfg, f"{section}.graph_converter"
        blocks = {"Sample.data": self.sample_config.get("data")}
        for split in ("test", "val", "train"):
            block = (self.config.get("Dataset") or {}).get(split)
            blocks[f"Dataset.{split}"] = block
        for where, block in blocks.items():
            params = ((block or {}).get("dataset") or {}).get("__init_params__") or {}
            if params.get(_GRAPH):
                return params[_GRAPH], f"{where}.dataset.__init_params__.{_GRAPH}"
        return None, "Sample.graph_converter"

    # --- output -----------------------------------------------------------------

    def _run(
        self,
        source: Source,
        sample_params: Mapping | None,
        batch_size: int,
        seed: int | None,
        num_samples: int | None,
        save_path: str | None,
        format: str | None,
        templates: Sequence | None = None,
        progress: bool | None = None,
    ) -> Sequence:
        if format is not None:
            check_format(format)
        params = self._sample_params(sample_params)
        own_seed, own_number = params.pop("seed", None), params.pop("num_samples", 1)
        results = generate(
            self,
            source,
            params,
            batch_size,
            own_seed if seed is None else seed,
            own_number if num_samples is None else num_samples,
            save_path,
            progress,
        )
        if save_path is not None:
            if dist.get_rank() == 0:
                default = "extxyz" if "tags" in results[0] else "cif"
                self._write(results, save_path, format or default, templates)
            wait_for_all()
        return results

    def _write(
        self,
        results: Sequence,
        save_path: str,
        format: str,
        templates: Sequence | None = None,
    ) -> None:
        per_structure = len(results) // len(templates) if templates else 1
        lost = 0
        with StructureWriter(save_path, format) as writer:
            for i, result in enumerate(results):
                template = templates[i // per_structure] if templates else None
                try:
                    atoms = self._to_atoms(result, template)
                except (ValueError, KeyError, ZeroDivisionError) as error:
                    logger.warning(f"result {i} is no structure, not written: {error}")
                    lost += 1
                    continue
                writer.write(atoms, file_stem(result, atoms, i))
        logger.message(
            f"Wrote {len(results) - lost} structures to {writer.path}"
            + (f"; {lost} results were no structures" if lost else "")
        )

    def _to_atoms(self, result: Result, template: Any = None) -> Atoms:
        if "tags" in result or "cart_coords_initial" in result:
            return result_to_atoms(
                result, template if isinstance(template, Atoms) else None
            )
        structure = self.structure_converter(dict(result))
        if structure is None:
            raise ValueError("BuildStructure made nothing of it")
        return AseAtomsAdaptor.get_atoms(structure, msonable=False)
