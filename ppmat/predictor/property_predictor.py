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

"""Predict properties of structures in batches; report errors and unusual structures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any
from typing import Literal

import numpy as np
import paddle.distributed as dist
from ase import Atoms
from pymatgen.core.structure import IMolecule
from pymatgen.core.structure import IStructure

from ppmat.datasets.loader import batches_in_order
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.prepared_records import MISSING_TAGS
from ppmat.datasets.prepared_records import ON_ERROR
from ppmat.datasets.structure_dataset import StructureDataset
from ppmat.datasets.structure_reader import fault_line
from ppmat.datasets.structure_reader import iter_rows
from ppmat.datasets.structure_reader import iter_structures
from ppmat.datasets.structure_reader import place_of
from ppmat.models import build_trained_model
from ppmat.predictor.base import BasePredictor
from ppmat.predictor.base import PathLike
from ppmat.predictor.property_table import PropertyTable
from ppmat.predictor.structure_checks import CheckedStructure
from ppmat.predictor.structure_checks import StructureChecker
from ppmat.predictor.structure_checks import count_isolated
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.files import StoredRunError
from ppmat.utils.misc import gather_objects
from ppmat.utils.misc import wait_for_all
from ppmat.utils.progress import Progress
from ppmat.utils.registry import ConfigError
from ppmat.utils.result_store import Column
from ppmat.utils.result_store import RowFile
from ppmat.utils.save_load import fingerprint

Structure = Atoms | IStructure | OC20Record

_UNIT = "eV"
_DEFAULT_CUTOFF = 6.0  # Å, as in OC20; for graph converters without ``cutoff``
_BATCHES_PER_LOADER = 32  # starting worker processes for each batch would be slow


class PropertyPredictor(BasePredictor):
    """Predicts a property of structures, for instance an adsorption energy.

    The model is loaded by the constructor::

        predictor = PropertyPredictor(config_path="sfin_oc20_is2re.yaml",
                                      checkpoint_path="best.pdparams")
        predictor.from_structures(slab)["y_relaxed"]

    Args:
        model_name, weights_name, config_path, **options: As in ``BasePredictor``.
        checkpoint_path: Weights. Several are an ensemble: the result is their mean, and
            ``ensemble_std`` is their standard deviation.

    Attributes:
        property_name: The property that the model predicts.
        models: The members of the ensemble, often one.

    Raises:
        ConfigError: The arguments or the YAML are not valid, or the model predicts no
            property.
        CheckpointError: The weights cannot be read or belong to another model.
    """

    def __init__(
        self,
        model_name: str | None = None,
        weights_name: str | None = None,
        config_path: PathLike | None = None,
        checkpoint_path: PathLike | Sequence[PathLike] | None = None,
        **options: Any,
    ) -> None:
        several = isinstance(checkpoint_path, (list, tuple))
        paths = list(checkpoint_path) if several else [checkpoint_path]
        first = paths[0] if paths else None
        super().__init__(model_name, weights_name, config_path, first, **options)
        self._more_paths = [self._below_work_dir(path) for path in paths[1:]]
        self.load_inference_model()

    def load_inference_model(self) -> None:
        """Load the members, see :meth:`BasePredictor.load_inference_model`."""
        super().load_inference_model()
        own = (None, None, self.config_path)
        self.models = [self.model]
        for path in self._more_paths:
            model, _ = build_trained_model(*own, path, self.config_overrides)
            self.models.append(model)
        self.property_name = getattr(self.model, "property_name", None)
        kind = type(self.model).__name__
        if not callable(getattr(self.model, "predict", None)) or not self.property_name:
            raise ConfigError(
                f"Model: {kind} has no method 'predict' or no 'property_name', so it "
                "predicts no property of a structure; use StructureSampler for a model "
                "that relaxes or generates"
            )
        if self.graph_converter_fn is None:
            raise ConfigError(
                f"Predict.graph_converter is missing: {kind} needs the graph it was "
                "trained with, e.g. graph_converter: ${Global.graph}"
            )
        self._weights = [fingerprint(model) for model in self.models]
        if len(set(self._weights)) < len(self._weights):
            raise ConfigError(
                "checkpoint_path: two members of the ensemble have the same weights"
            )

    @property
    def columns(self) -> list[Column]:
        """The columns of a result row."""
        numbers = [self.property_name, "expected_error"]
        if len(self.models) > 1:
            numbers.append("ensemble_std")
        return [
            Column("id", "text"),
            *(Column(name, "number", _UNIT) for name in numbers),
            Column("num_atoms", "count"),
            Column("source", "text"),
            Column("frame", "count"),
            Column("flags", "flags"),
            Column("error", "text"),
        ]

    def from_structures(
        self,
        structures: Structure | Iterable[Structure],
        batch_size: int = 16,
        save_path: PathLike | None = None,
        progress: bool = True,
        on_error: Literal["raise", "flag"] = "raise",
        missing_tags: Literal["raise", "guess"] = "raise",
        num_workers: int = 0,
    ) -> dict[str, Any] | PropertyTable:
        """Predict one structure or many.

        Structures are read from ``structures`` one batch at a time, so it can be a
        generator of any length. With ``save_path`` the rows are written to that file
        batch by batch, and none is kept in memory. The same call with the same weights
        and structures resumes an interrupted run. Further structures may follow.

        Args:
            structures: One or an iterable of ``ase.Atoms`` (tags: 0 sub-surface,
                1 surface, 2 adsorbate), pymatgen ``Structure`` (site property
                ``tags``) or ``OC20Record``; an ``OC20LMDB`` is read row by row.
            batch_size: Structures predicted at once.
            save_path: CSV file; None keeps the rows in memory.
            progress: Show a progress bar for more than one structure.
            on_error: For a structure that cannot be used: ``raise``, or ``flag`` for a
                row with a text in ``error`` and no number.
            missing_tags: ``raise``, or ``guess`` as in
                :func:`~ppmat.datasets.surface_tags.guess_tags`. This concerns
                structures with the layer numbers of ASE's surface builders, and
                structures without tags if the model reads atoms by their tags.
            num_workers: Processes that search neighbours; 0 uses the main process.

        Returns:
            For one structure a dict; for an iterable a :class:`PropertyTable` of such
            dicts in the order of the input: ``id`` (``info["sid"]``, else the position
            in the input), the property and ``expected_error`` (eV; the latter None if
            the model does not predict it), with an ensemble ``ensemble_std`` (eV,
            sample standard deviation), ``num_atoms``, ``source`` and ``frame`` (file
            and number of the frame, None for structures of no file), ``flags`` (a dict,
            see
            :data:`~ppmat.predictor.structure_checks.FLAGS`; empty for a usual
            structure) and ``error`` (None without an error).

        Raises:
            ValueError: A structure that cannot be used (its position is named), or no
                structure at all.
            TypeError: An object that is not a structure.
            StoredRunError: The file holds something else.
        """
        check_choice("on_error", on_error, ON_ERROR)
        check_choice("missing_tags", missing_tags, MISSING_TAGS)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}, wanted an integer > 0")
        if isinstance(structures, (str, os.PathLike)):
            raise TypeError(
                f"structures is the path {str(structures)!r}; use from_files for files"
            )
        one = isinstance(structures, (Atoms, IStructure, IMolecule, OC20Record))
        if one:
            structures = [structures]
        total = len(structures) if hasattr(structures, "__len__") else None
        if isinstance(structures, OC20LMDB):
            structures = iter_rows(structures)
        rows: Any = []
        if save_path is not None:
            rows = RowFile(save_path, self.columns, self._settings(missing_tags))
        keep_errors, hidden = on_error == "flag", one or not progress
        checks = self._checks(structures, missing_tags == "guess", keep_errors)
        with Progress(
            desc="predicting", unit=" structures", total=total, disable=hidden
        ) as bar:
            self._run(checks, rows, batch_size, num_workers, keep_errors, bar)
        wait_for_all()  # rank 0 has written all rows
        if save_path is not None and dist.get_rank() > 0:
            rows = RowFile(save_path, self.columns, self._settings(missing_tags))
        if not len(rows):
            raise ValueError("from_structures: there is no structure to predict")
        return dict(rows[0]) if one else PropertyTable(rows, self.columns)

    def from_files(
        self, inputs: str | Sequence[str], repeated: str = "rename", **options: Any
    ) -> Any:
        """Predict the structures of files, folders and patterns.

        Args:
            inputs: CIF, POSCAR, extxyz, ASE trajectories and databases, LMDB data sets,
                see :mod:`~ppmat.datasets.structure_files`; ``FILE@INDEX`` picks frames.
                A folder means all readable files in it.
            repeated: For an id that occurred before: ``rename`` or ``refuse``, see
                :func:`~ppmat.datasets.structure_reader.iter_structures`.
            **options: See :meth:`from_structures`.

        Returns:
            A :class:`PropertyTable`. With ``on_error="flag"`` it also has a row for
            each file that cannot be read.
        """
        inputs = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
        inputs = [os.fspath(item) for item in inputs]
        return self.from_structures(iter_structures(inputs, repeated), **options)

    def from_cif_file(
        self, cif_file_path: PathLike, save_path: PathLike | None = None
    ) -> PropertyTable:
        """Predict a CIF file or the CIF files of a folder; see :meth:`from_files`."""
        path = os.fspath(cif_file_path)
        if os.path.isdir(path):
            path = os.path.join(path, "*.cif")
        return self.from_files(path, save_path=save_path)

    def _settings(self, missing_tags: str) -> dict[str, Any]:
        """Return all that determines a row beside its structure."""
        return {
            "model": self.config.get("Model", type(self.model).__name__),
            "weights": self._weights,
            "Predict": {
                key: self.predict_config.get(key)
                for key in ("graph_converter", "post_transforms")
            },
            "missing_tags": missing_tags,
        }

    def _checks(
        self, structures: Iterable, guess_tags: bool, keep_errors: bool
    ) -> Iterator[Callable[[], CheckedStructure]]:
        """Yield for each structure the function that checks it."""
        seen = getattr(self.model, "elements_seen", None)
        elements = None if seen is None else np.flatnonzero(seen.numpy()).tolist()
        check = StructureChecker(
            getattr(self.graph_converter_fn, "cutoff", _DEFAULT_CUTOFF),
            getattr(self.model, "readout_tags", None),
            elements or None,  # empty if the model was trained elsewhere
            guess_tags,
        )

        def checked(number: int, structure: Any) -> CheckedStructure:
            source, frame = place_of(structure)
            result = check(structure, number)._replace(source=source, frame=frame)
            if result.error is not None and not keep_errors:
                kind = TypeError if isinstance(result.error, TypeError) else InputError
                place = (None, number) if source is None else (source, frame)
                line = fault_line(result.sid, *place, result.error)
                raise kind(
                    f"{line} (on_error='flag' leaves it out and continues)"
                ) from result.error
            return result

        for number, structure in enumerate(structures):
            yield partial(checked, number, structure)

    def _run(
        self,
        checks: Iterator[Callable[[], CheckedStructure]],
        rows: Any,
        batch_size: int,
        workers: int,
        keep_errors: bool,
        bar: Progress,
    ) -> None:
        """Add the rows of all structures that have no row yet.

        In each round every rank predicts its share of the next structures. Rank 0 keeps
        the rows of all in the order of the input; without a file each rank does.
        """
        digest = hashlib.sha256()
        ranks, rank = dist.get_world_size(), dist.get_rank()
        stored = isinstance(rows, RowFile)
        if stored and len(rows):
            for check in islice(checks, len(rows)):
                if rank == 0:
                    digest.update(check().digest())
                bar.update()
            if rank == 0 and digest.hexdigest() != rows.inputs:
                raise StoredRunError(
                    f"{rows.path} holds the results of {len(rows)} structures, which "
                    f"are not the first {len(rows)} given now",
                    hint="Choose another name, or remove it to start again.",
                )
            logger.message(f"{rows.path} holds {len(rows)} rows already")
        size = batch_size * (_BATCHES_PER_LOADER if workers else 1)
        while chunk := list(islice(checks, size * ranks)):
            mine = [check() for check in chunk[rank * size :][:size]]
            found = self._predict(mine, batch_size, workers, bar)
            parts = gather_objects((found, [checked.digest() for checked in mine]))
            bar.update(len(chunk) - len(mine))
            new = [row for part, _ in parts for row in part]
            for row in new:
                if row["error"] is not None and not keep_errors:
                    raise ValueError(f"structure {row['id']!r}: {row['error']}")
            if not stored:
                rows.extend(new)
            elif rank == 0:
                digest.update(b"".join(d for _, part in parts for d in part))
                rows.append(new, digest.hexdigest())

    def _predict(
        self,
        chunk: list[CheckedStructure],
        batch_size: int,
        workers: int,
        bar: Progress,
    ) -> list[dict[str, Any]]:
        """Return the rows of some structures."""
        rows = [
            {
                **dict.fromkeys(column.name for column in self.columns),
                "id": checked.sid,
                "num_atoms": checked.record and len(checked.record.pos),
                "source": checked.source,
                "frame": checked.frame,
                "flags": dict(checked.flags),
                "error": checked.error and str(checked.error),
            }
            for checked in chunk
        ]
        good = [i for i, checked in enumerate(chunk) if checked.record is not None]
        bar.update(len(chunk) - len(good))
        dataset = StructureDataset(
            [chunk[i].record for i in good], self.graph_converter_fn
        )
        todo = iter(good)
        for batch in batches_in_order(dataset, batch_size, num_workers=workers):
            numbers = self._numbers(batch)
            isolated = count_isolated(batch)
            adsorbates = batch["structure_array"]["num_adsorbates"].tolist()
            for j, i in enumerate(islice(todo, len(isolated))):
                if isolated[j]:
                    rows[i]["flags"]["isolated_atoms"] = str(isolated[j])
                if adsorbates[j] > 1:
                    rows[i]["flags"]["several_adsorbates"] = str(adsorbates[j])
                values = {name: array[j] for name, array in numbers.items()}
                if np.isfinite(list(values.values())).all():
                    rows[i].update(values)
                else:
                    rows[i]["error"] = f"the model returned {values}"
            bar.update(len(isolated))
        return rows

    def _numbers(self, batch: dict[str, Any]) -> dict[str, list[float]]:
        """Return mean and standard deviation over the ensemble, for a batch."""
        outputs = [self.run_model(batch, model) for model in self.models]
        numbers = {}
        for name in (self.property_name, "expected_error"):
            if name in outputs[0]:
                values = np.array([np.asarray(o[name]).reshape(-1) for o in outputs])
                numbers[name] = values.mean(axis=0)
                if name == self.property_name and len(outputs) > 1:
                    numbers["ensemble_std"] = values.std(axis=0, ddof=1)
        # Only digits that float32 has: -0.64, not -0.6399999856948853.
        return {
            name: [float(str(value)) for value in array.astype(np.float32)]
            for name, array in numbers.items()
        }
