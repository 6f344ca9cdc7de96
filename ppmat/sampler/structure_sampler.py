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

import inspect
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from typing import Literal

import paddle.distributed as dist
from ase import Atoms
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets import DATASETS
from ppmat.datasets import build_dataloader
from ppmat.datasets.build_structure import BuildStructure
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.prepared_records import ON_ERROR
from ppmat.datasets.prepared_records import PreparedRecords
from ppmat.datasets.prepared_records import Templates
from ppmat.datasets.structure_dataset import StructureDataset
from ppmat.datasets.structure_reader import fingerprint_rows
from ppmat.datasets.transform import build_post_transforms
from ppmat.metrics import build_metric
from ppmat.models import build_graph_converter
from ppmat.models import build_trained_model
from ppmat.sampler.distance_projection import projection_of
from ppmat.sampler.generation import SampleOptions
from ppmat.sampler.generation import Source
from ppmat.sampler.generation import generate
from ppmat.sampler.generation import positions_of_records
from ppmat.sampler.generation import sample_arguments
from ppmat.sampler.generation import sample_batch
from ppmat.sampler.scoring import score
from ppmat.sampler.scratch_batches import MakeBatch
from ppmat.sampler.scratch_batches import batch_of_conditions
from ppmat.sampler.scratch_batches import batch_of_formula
from ppmat.sampler.scratch_batches import batch_of_num_atoms
from ppmat.sampler.slab_results import summarise
from ppmat.sampler.structure_writer import RelaxedAtoms
from ppmat.sampler.structure_writer import StructureWriter
from ppmat.sampler.structure_writer import check_format
from ppmat.sampler.structure_writer import file_stem
from ppmat.sampler.structure_writer import result_to_atoms
from ppmat.utils import logger
from ppmat.utils.errors import check_choice
from ppmat.utils.misc import choose_device
from ppmat.utils.misc import wait_for_all
from ppmat.utils.progress import Progress
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_call
from ppmat.utils.registry import check_keys
from ppmat.utils.result_store import Result
from ppmat.utils.save_load import fingerprint

SAMPLE_KEYS = (
    "data",
    "build_structure_cfg",
    "graph_converter",
    "post_transforms",
    "projection",
    "metrics",
    "model_sample_params",
)
_GRAPH = "build_graph_cfg"
_BATCH_SIZE = 16  # structures, unless the caller or a sampler block says otherwise


class StructureSampler:
    """Generates structures with a trained model::

        sampler = StructureSampler(config_path="oc20.yaml",
                                   checkpoint_path="best.pdparams")
        relaxed = sampler.from_structures(slabs, seed=1)

    With ``save_path`` each batch is written as it is made (``<save_path>/results``).
    The same call with the same weights, data, seed and sizes resumes an interrupted
    run. The results are then read from there item by item. In several processes
    (started by ``paddle.distributed.launch``) each process generates its share of the
    batches if ``save_path`` is given. Without it every process generates all of them.

    The methods take the fields of :class:`~ppmat.sampler.generation.SampleOptions` as
    keywords.

    Args:
        model_name: As in :class:`ppmat.predictor.BasePredictor`, like all arguments.
        weights_name: File of the weights of a registered model.
        config_path: YAML of another model. Its section ``Sample``, which may be
            missing, holds ``data`` (a dataset block), ``graph_converter``,
            ``build_structure_cfg``, ``post_transforms``, ``metrics``,
            ``model_sample_params`` (arguments of ``model.sample``) and ``projection``
            (arguments of ``DistanceProjection``, or false for the positions of the
            model; without the key it is on).
        checkpoint_path: Its weights.
        config_overrides: ``KEY=VALUE`` with a dotted key.
        device: Where the model runs.

    Attributes:
        left_out: One line for each record of a data set that the last
            :meth:`sample_by_dataloader` left out.

    Raises:
        ConfigError: The arguments or the YAML are not valid.
        CheckpointError: The weights cannot be read or belong to another model.
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
        choose_device(device)
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
        self.left_out: list[str] = []
        self.projection = projection_of(self.sample_config.get("projection", True))

    def settings(self) -> dict[str, Any]:
        """Return what decides samples of given structures, besides seed and sizes."""
        scoring = ("data", "metrics")
        return {
            "weights": fingerprint(self.model),
            "model": self.config.get("Model"),
            "sample": {k: v for k, v in self.sample_config.items() if k not in scoring},
            "graph": self._graph_config()[0],
        }

    # --- the model --------------------------------------------------------------

    def post_process(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return a model output after ``Sample.post_transforms``."""
        return data if self.post_transforms is None else self.post_transforms(data)

    def sample(
        self, data: Mapping[str, Any], sample_params: Mapping | None = None
    ) -> dict[str, Any]:
        """Run ``model.sample`` on one batch, with ``sample_params`` as its arguments.

        Returns:
            ``{"result": [...]}``, one dict of lists and numbers for each structure.
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
        self, save_path: str | None = None, split: str | None = None, **options: Any
    ) -> Any:
        """Generate for ``Sample.data`` and score the results.

        Arguments as in :meth:`sample_by_dataloader`. With ``save_path`` the metrics
        are also written to ``metrics.yaml`` and, as a table beside those of the
        unchanged input, to ``metrics.txt``. Figures are drawn if the data have relaxed
        positions.

        Returns:
            What ``Sample.metrics`` return: number by name for streaming metrics.
        """
        if not self.sample_config.get("metrics"):
            raise ConfigError(
                "Sample.metrics is missing, so there is nothing to compute; name a "
                "metric, for instance {__class_name__: IS2RSMetric}"
            )
        results = self.sample_by_dataloader(save_path, split, **options)
        return self.score(results, save_path)

    def score(self, results: Sequence, save_path: str | None = None) -> Any:
        """Score results with ``Sample.metrics``; see :meth:`compute_metric`."""
        metrics = build_metric(self.sample_config.get("metrics"), "Sample.metrics")
        return score(metrics, results, save_path)

    def sample_by_dataloader(
        self,
        save_path: str | None = None,
        split: str | None = None,
        on_error: Literal["raise", "flag"] = "raise",
        **options: Any,
    ) -> Sequence:
        """Generate one structure (or several) for each sample of ``Sample.data``.

        Args:
            save_path: Output folder; see the class.
            split: Replaces ``split`` of the data set.
            on_error: For a record that cannot be used: as the data set says, or
                ``flag`` to leave it out unless the YAML says otherwise.
                :attr:`left_out` lists it.
            **options: See :class:`~ppmat.sampler.generation.SampleOptions`.

        Returns:
            The results: dicts of lists and numbers as ``model.sample`` returns them. A
            list, or a sequence that reads from ``save_path``.

        Raises:
            ConfigError: The data block is missing or not valid.
        """
        where, cfg = self._data_config()
        check_choice("on_error", on_error, ON_ERROR)
        params = dict(cfg["dataset"].get("__init_params__") or {})
        if split is not None:
            params["split"] = split
        if on_error == "flag" and _can_skip(cfg["dataset"], where):
            params.setdefault("on_error", "skip")
        cfg = {**cfg, "dataset": {**cfg["dataset"], "__init_params__": params}}
        loader = build_dataloader(cfg, where=where, training=False)
        if isinstance(loader, dict):
            raise ConfigError(f"{where}: split_dataset_ratio has no meaning here")
        self.left_out = list(getattr(loader.dataset, "skipped", ()))
        rows = getattr(loader.dataset, "records", None)
        data = fingerprint_rows(rows) if isinstance(rows, OC20LMDB) else None
        source = Source(
            loader.dataset,
            [cfg["dataset"], data],
            loader.collate_fn,
            loader.num_workers,
        )
        wanted = SampleOptions(save_path, **options)
        return self._run(source, wanted, loader.batch_sampler.batch_size)

    def _data_config(self) -> tuple[str, Mapping]:
        for where, block in self._data_blocks("test", "val").items():
            if block:
                return where, block
        raise ConfigError(
            "no data to sample for: none of Sample.data, Dataset.test and Dataset.val "
            "is in the configuration"
        )

    def _data_blocks(self, *splits: str) -> dict[str, Mapping | None]:
        """Return the dataset blocks by YAML path; None if missing."""
        section = self.config.get("Dataset") or {}
        blocks = {f"Dataset.{split}": section.get(split) for split in splits}
        return {"Sample.data": self.sample_config.get("data"), **blocks}

    # --- from scratch -----------------------------------------------------------

    def sample_by_num_atoms(
        self,
        num_atoms: int,
        save_path: str | None = None,
        sample_params: Mapping | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Generate structures of a given number of atoms.

        Args:
            num_atoms: Atoms in each structure.
            save_path: Output folder; None writes nothing.
            sample_params: Arguments of ``model.sample``; None takes
                ``Sample.model_sample_params``.
            **options: See :class:`~ppmat.sampler.generation.SampleOptions`.

        Returns:
            ``{"result": [...]}``.

        Raises:
            InputError: The model cannot generate from a number alone.
        """
        batch = batch_of_num_atoms(self.model, num_atoms)
        return self._from_scratch(batch, save_path, sample_params, options)

    def sample_by_chemical_formula(
        self,
        chemical_formula: str,
        save_path: str | None = None,
        sample_params: Mapping | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Generate structures of a given composition (``"LiMnO2"``).

        Other arguments and result as in :meth:`sample_by_num_atoms`.

        Raises:
            ConfigError: Not a formula with whole numbers of atoms.
            InputError: The model cannot generate from a formula alone.
        """
        batch = batch_of_formula(self.model, chemical_formula)
        return self._from_scratch(batch, save_path, sample_params, options)

    def sample_by_condition(
        self,
        num_atoms: int,
        conditions: Mapping[str, Any],
        save_path: str | None = None,
        sample_params: Mapping | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Generate structures with wanted properties.

        Other arguments and result as in :meth:`sample_by_num_atoms`.

        Args:
            conditions: Value by name, for each of the model's ``condition_names``: a
                number, a text, or a tensor for one structure.

        Raises:
            InputError: The model takes no conditions.
            ConfigError: Conditions are missing or unknown.
        """
        batch = batch_of_conditions(self.model, num_atoms, conditions)
        return self._from_scratch(batch, save_path, sample_params, options)

    def _from_scratch(
        self, make_batch: MakeBatch, save_path: Any, sample_params: Any, options: dict
    ) -> dict[str, Any]:
        params = self._sample_params(sample_params)
        options = SampleOptions(save_path, sample_params=params, **options)
        check_format(options.format or "cif")
        total = 1 if options.num_samples is None else options.num_samples
        size = options.batch_size or _BATCH_SIZE
        one = replace(options, num_samples=1)
        results: list[Result] = []
        starts = range(0, total, size)
        for number, start in enumerate(Progress(starts, desc="sampling")):
            batch = make_batch(min(size, total - start))
            results += sample_batch(self, batch, number, one)
        if options.save_path is not None and dist.get_rank() == 0:
            self._write(results, options.save_path, options.format or "cif")
        return {"result": results}

    # --- given structures -------------------------------------------------------

    def from_structures(
        self,
        structures: Atoms | Structure | OC20Record | Iterable,
        batch_size: int | None = _BATCH_SIZE,
        seed: int | None = None,
        progress: bool = True,
        *,
        on_error: Literal["raise", "flag"] = "raise",
        missing_tags: Literal["raise", "guess"] = "raise",
        **options: Any,
    ) -> Atoms | Sequence:
        """Relax one structure or many.

        Args:
            structures: One or an iterable of ``ase.Atoms`` (tags: 0 sub-surface,
                1 surface, 2 adsorbate; ``FixAtoms`` for fixed atoms), pymatgen
                ``Structure`` (site properties ``tags`` and ``fixed``) or
                ``OC20Record``; an ``OC20LMDB`` is read row by row; ``PreparedRecords``
                are taken as they are.
            batch_size: See :class:`~ppmat.sampler.generation.SampleOptions`, as all
                others.
            seed: The same seed gives the same structures.
            progress: Show a progress bar for more than one structure.
            on_error: For a structure that cannot be used: ``raise``, before any is
                relaxed, or ``flag`` to leave it out. The log and ``left_out`` of the
                result name it.
            missing_tags: For structures without tags, or with layer numbers instead:
                ``raise``, or ``guess`` as in
                :func:`~ppmat.datasets.surface_tags.guess_tags`.
            **options: Other options.

        Returns:
            For one structure its relaxed ``ase.Atoms``: atoms in the same order, with
            tags, constraints and info, initial positions in
            ``arrays["initial_positions"]``. For an iterable, or several samples, all of
            them in the order of the input: a list, or with ``save_path`` or
            ``on_error="flag"`` a
            :class:`~ppmat.sampler.structure_writer.RelaxedAtoms`.

        Raises:
            ConfigError: No structure, an unknown format, or several samples of a model
                that returns the same structure each time.
            InputError: Structures that cannot be used (no cell, NaN, unknown element,
                no tags ...); it names them.
        """
        one = isinstance(structures, (Atoms, Structure, OC20Record))
        if one:
            structures = [structures]
        elif not hasattr(structures, "__len__"):
            structures = list(structures)
        records = structures
        if not isinstance(records, PreparedRecords):
            records = PreparedRecords(structures, missing_tags)
        if not len(records.structures):
            raise ConfigError("from_structures: there is no structure to relax")
        if hasattr(self.model, "max_sites"):
            records.leave_out_larger(self.model.max_sites)
        records.check(on_error)
        wanted = SampleOptions(
            batch_size=batch_size, seed=seed, progress=progress and not one, **options
        )
        wanted = replace(wanted, format=wanted.format or "extxyz")
        for fault in records.left_out:
            logger.error(f"left out: {fault}")
        if records.all_free:
            logger.warning(
                f"{records.all_free} of {len(records)} structures have no fixed atoms: "
                "all of their atoms may move"
            )
        source = Source(
            StructureDataset(records, build_graph_converter(*self._graph_config())),
            records.fingerprint(),
            num_workers=wanted.num_workers,
            annotate=partial(_known_of_records, records),
        )
        templates = Templates(records)
        results = self._run(source, wanted, _BATCH_SIZE, templates)
        atoms = RelaxedAtoms(results, templates, records.left_out)
        if one and wanted.num_samples is None and len(atoms) == 1:
            return atoms[0]
        as_list = wanted.save_path is None and on_error == "raise"
        return list(atoms) if as_list else atoms

    def _graph_config(self) -> tuple[Mapping | None, str]:
        """Return block and YAML path of the converter the model was trained with."""
        for section in ("Sample", "Predict"):
            cfg = (self.config.get(section) or {}).get("graph_converter")
            if cfg:
                return cfg, f"{section}.graph_converter"
        for where, block in self._data_blocks("test", "val", "train").items():
            params = ((block or {}).get("dataset") or {}).get("__init_params__") or {}
            if params.get(_GRAPH):
                return params[_GRAPH], f"{where}.dataset.__init_params__.{_GRAPH}"
        return None, "Sample.graph_converter"

    # --- output -----------------------------------------------------------------

    def _run(
        self,
        source: Source,
        options: SampleOptions,
        batch_size: int,
        templates: Sequence | None = None,
    ) -> Sequence:
        """Generate for ``source`` and write the structures."""
        if options.format is not None:
            check_format(options.format)
        params = self._sample_params(options.sample_params)
        defaults = {
            "seed": params.pop("seed", None),
            "num_samples": params.pop("num_samples", 1),
            "batch_size": batch_size,
        }
        unset = {k: v for k, v in defaults.items() if getattr(options, k) is None}
        options = replace(options, sample_params=params, **unset)
        _check_num_samples(self.model, options.num_samples)
        wanted = self.projection if options.projection is None else options.projection
        options = replace(options, projection=projection_of(wanted))
        results = generate(self, source, options)
        if dist.get_rank() == 0 and (text := summarise(results)):
            logger.message(f"Checks of {text}")
        if options.save_path is not None:
            if dist.get_rank() == 0:
                default = "extxyz" if "tags" in results[0] else "cif"
                format = options.format or default
                self._write(results, options.save_path, format, templates)
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
            return result_to_atoms(result, template)
        structure = self.structure_converter(dict(result))
        if structure is None:
            raise ValueError("BuildStructure returned no structure")
        return AseAtomsAdaptor.get_atoms(structure, msonable=False)


def _known_of_records(records: Sequence, rows: range) -> list[dict[str, Any]]:
    """Return positions, file and frame of some records."""
    known = positions_of_records(records, rows)
    for i, values in zip(rows, known, strict=True):
        record = records[i]
        if record.source is not None:
            values |= {"source": record.source, "frame": record.frame}
    return known


def _can_skip(block: Mapping, where: str) -> bool:
    """Return whether a data set has the option to leave bad records out."""
    dataset = DATASETS.lookup(block.get("__class_name__"), f"{where}.dataset")
    return "on_error" in inspect.signature(dataset).parameters


def _check_num_samples(model: Any, num_samples: int) -> None:
    """Refuse several samples of a model without noise: they would be equal."""
    noise = getattr(getattr(model, "scheduler", None), "noise_std", None)
    if num_samples > 1 and noise == 0:
        raise ConfigError(
            f"num_samples is {num_samples}, but the model has no noise (noise_std: 0), "
            "so all samples would be equal. Train the flow of oc20_flow.yaml for "
            "several different ones, or take num_samples=1"
        )
