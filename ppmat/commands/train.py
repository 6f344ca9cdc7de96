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

"""The training command of every task folder; importing it loads no Paddle."""

from __future__ import annotations

import argparse
import inspect
import os
import shlex
import sys
import time
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ppmat.commands.check_config import check_config
from ppmat.commands.options import complain
from ppmat.commands.options import exit_status
from ppmat.commands.options import find_task_config
from ppmat.commands.options import keep_freed_memory
from ppmat.commands.options import lock_output
from ppmat.commands.options import refuse_if
from ppmat.commands.processes import Ranks
from ppmat.commands.processes import add_processes
from ppmat.commands.processes import choose_processes
from ppmat.commands.processes import set_threads
from ppmat.commands.processes import share_batches
from ppmat.utils import logger
from ppmat.utils.config import check_global
from ppmat.utils.config import check_sections
from ppmat.utils.config import load_config
from ppmat.utils.config import save_config
from ppmat.utils.config import unset_variables
from ppmat.utils.registry import CLASS_KEY
from ppmat.utils.registry import PARAMS_KEY
from ppmat.utils.registry import check_call
from ppmat.utils.registry import check_keys
from ppmat.utils.registry import fits

EXIT_NOT_FINITE = 3
_SMALLEST_SHARE = 4  # structures of a batch; with fewer, processes mostly wait
# Split to the flag of Global that asks for it
_FLAGS = {"train": "do_train", "val": "do_eval", "test": "do_test"}


def parse_args(argv: Sequence[str] | None, task_dir: str) -> argparse.Namespace:
    """Return the options ``config`` and ``overrides``."""
    parser = argparse.ArgumentParser(
        description="Train and evaluate a model.",
        epilog="Exit status: 0 done, 2 bad configuration, data or checkpoint, or an "
        "output folder in use, 3 a loss or gradient that is not finite, 143 / 130 / "
        "129 stopped by SIGTERM / SIGINT / SIGHUP after saving checkpoints/latest.",
    )
    where = f"YAML file; searched as given, then below {task_dir}"
    parser.add_argument("-c", "--config", required=True, help=where)
    add_processes(
        parser,
        "one for each core on a machine without a GPU, if the network gains from it; "
        "they share batch_size and num_workers",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue the training in "
        "Trainer.output_dir from its newest checkpoint, if there is one")  # fmt: skip
    start.add_argument("--overwrite", action="store_true",
        help="replace the training in Trainer.output_dir")  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE",
        help="changes, e.g. Trainer.max_epochs=5")  # fmt: skip
    return parser.parse_intermixed_args(argv)


def main(
    task_dir: str, argv: Sequence[str] | None = None, *, threads: bool = False
) -> int:
    """Run the command of the script in ``task_dir``; returns the exit status.

    ``threads`` tells that the networks of the task gain from several threads; others
    use the cores with several processes.
    """
    args = parse_args(argv, task_dir)

    def train() -> int:
        path = find_task_config(args.config, task_dir)
        config = load_config(path, args.overrides)
        check_global(path, args.overrides)
        set_threads(several=threads)
        keep_freed_memory()
        size = _batch_size(config)
        # A program that calls this function may have more to do in one process.
        useful = 1 if threads or argv is not None else size // _SMALLEST_SHARE
        number = choose_processes(args.processes, useful, size)
        typed = sys.argv[1:] if argv is None else argv
        with Ranks(number, [os.path.join(task_dir, "train.py"), *typed]):
            # Paddle is loaded from here on.
            from ppmat.trainer.update import NonFiniteError

            try:
                trainer = run(config, path, args.overrides, args.resume, args.overwrite)
                _log_end(trainer, config, path, task_dir)
            except NonFiniteError as error:
                return complain(error, EXIT_NOT_FINITE)
        return 0

    return exit_status(train)


def _batch_size(config: Mapping) -> int:
    """Return the batch size of the training, 1 if the configuration has none."""
    block: Any = config
    for key in ("Dataset", "train", "sampler", PARAMS_KEY, "batch_size"):
        block = block.get(key) if isinstance(block, Mapping) else None
    return block if isinstance(block, int) else 1


def run(
    config: dict[str, Any],
    source: str,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> Any:
    """Train, evaluate and test as a configuration says; returns the trainer.

    Args:
        config: All sections, resolved.
        source: The file they came from; the merged one is saved under its name.
        overrides: Changes of that file that ``config`` holds.
        resume: Continue the training in the output folder, if it holds one.
        overwrite: Replace the training in the output folder.
    """
    import paddle.distributed as dist

    from ppmat.trainer import run_folder
    from ppmat.trainer.config import TrainerConfig
    from ppmat.trainer.reporting import draw_loss_curve
    from ppmat.utils.meeting import start_ranks
    from ppmat.utils.misc import gather_objects

    check_sections(config)
    asked = _read_tasks(config, source)
    settings = TrainerConfig.from_dict(config["Trainer"])
    if config["Dataset"].get("transform") is not None:
        check_statistics(config)
    check_config(config)
    start_ranks()
    if settings.timestamp_output_dir:
        stamp = gather_objects(time.strftime("%y%m%d_%H%M%S"))[0]
        config["Trainer"]["output_dir"] += f"_t_{stamp}_s_{settings.seed}"
        config["Trainer"]["timestamp_output_dir"] = False
    output_dir = config["Trainer"]["output_dir"]
    is_master = dist.get_rank() == 0
    with lock_output(output_dir):
        merged = os.path.join(output_dir, os.path.basename(source))
        start = settings.resume_from_checkpoint
        if asked["train"] and is_master:
            start = run_folder.choose_start(output_dir, start, resume, overwrite)
            run_folder.check_folder(output_dir, os.path.basename(source))
        start = gather_objects(start)[0]
        if run_folder.holds(output_dir, start):  # a run of the saved file is a new one
            config["Trainer"]["resume_from_checkpoint"] = None
        _log_start(config, source, overrides)
        if is_master:
            if asked["train"] and start is not None:
                run_folder.warn_of_changes(config, merged)
            save_config(config, merged)
        trainer, loaders = _build(config, asked, settings, merged, start)
        if asked["train"]:
            if overwrite and is_master:
                run_folder.remove_checkpoints(output_dir)
            trainer.train(resume_from_checkpoint=start)
            if is_master and (picture := draw_loss_curve(output_dir)):
                logger.message(f"Drew {picture}")
        for split in ("val", "test"):
            if asked[split]:
                if asked["train"] and split == "test":
                    take_best(trainer)
                trainer.eval(loaders[split], stage=split)
    return trainer


def _read_tasks(config: Mapping, source: str) -> dict[str, bool]:
    """Return which split is asked for: to train, evaluate and test on."""
    flags = config.get("Global") or {}
    asked = {}
    for split, name in _FLAGS.items():
        value = asked[split] = flags.get(name, split == "train")
        wanted = f"Global.{name}: wanted true or false, got {value!r}"
        refuse_if(not isinstance(value, bool), wanted)
    for section in ("Trainer", "Model", "Dataset", *["Optimizer"] * asked["train"]):
        missing = f"{source}: the section {section} is missing"
        refuse_if(not config.get(section), missing)
    return asked


def _log_start(config: Mapping, source: str, overrides: Sequence[str]) -> None:
    """Open ``run.log`` and log the configuration and the defaults it uses."""
    output_dir = config["Trainer"]["output_dir"]
    logger.init_logger(log_file=os.path.join(output_dir, "run.log"))
    logger.info(f"Configuration {source}, output in {output_dir}")
    root = (config.get("Global") or {}).get("data_root", "not given")
    sections = ["Trainer", "Model", "Optimizer", "Metric", "Dataset"]
    for name in unset_variables(source, overrides, sections):
        logger.message(
            f"{name} is not set: the default in {os.path.basename(source)} is used "
            f"(data_root: {root})"
        )


def _build(
    config: dict[str, Any],
    asked: Mapping[str, bool],
    settings: Any,
    merged: str,
    start: str | None,
) -> tuple[Any, dict[str, Any]]:
    """Return the trainer and the loader of each split.

    The order of the steps fixes all random numbers. ``config`` gets the statistics that
    ``Dataset.transform`` asks for, and is saved again as ``merged``.
    """
    import paddle.distributed as dist

    from ppmat.datasets.repeated_frames import check_splits
    from ppmat.datasets.repeated_frames import frames_of
    from ppmat.metrics import build_metric
    from ppmat.models import build_model
    from ppmat.optimizer import build_optimizer
    from ppmat.trainer.base_trainer import build_trainer
    from ppmat.trainer.utils import STREAM_DATA
    from ppmat.trainer.utils import own_random_stream
    from ppmat.utils import misc

    misc.set_random_seed(settings.seed)
    do_train = asked["train"]
    measured = do_train and config["Dataset"].get("transform") is not None
    model = None if measured else build_model(config["Model"])
    wanted = {**asked, "val": do_train or asked["val"]}
    loaders = build_loaders(config["Dataset"], wanted, settings.seed)
    built = {split: loader for split, loader in loaders.items() if loader is not None}
    check_splits({split: frames_of(part.dataset) for split, part in built.items()})
    for split, flag in _FLAGS.items():
        missing = f"Dataset.{split} is missing, but Global.{flag} is true"
        refuse_if(asked[split] and loaders[split] is None, missing)
    if measured:
        with own_random_stream(settings.seed, STREAM_DATA):
            fill_statistics(config, loaders["train"])
        if dist.get_rank() == 0:
            save_config(config, merged)
        model = build_model(config["Model"])
    trainer_config = dict(config["Trainer"])
    if do_train and settings.pretrained_model_path is not None:
        left = left_behind(config["Model"], model)
        named = settings.pretrained_exclude or []
        trainer_config["pretrained_exclude"] = list(dict.fromkeys([*named, *left]))
    optimizer = lr_scheduler = None
    if do_train:
        steps = -(-len(loaders["train"]) // settings.gradient_accumulation_steps)
        optimizer, lr_scheduler = build_optimizer(
            config["Optimizer"], model, settings.max_epochs, steps
        )
        slowed = config["Optimizer"][PARAMS_KEY].get("lr_mult")
        if slowed and settings.pretrained_model_path is None and start is None:
            logger.warning(
                "Optimizer.__init_params__.lr_mult slows or freezes untrained weights: "
                "Trainer.pretrained_model_path is not given"
            )
    elif settings.pretrained_model_path is None:
        logger.warning(
            "Trainer.pretrained_model_path is not given: the weights evaluated are "
            "untrained"
        )
    trainer = build_trainer(
        trainer_config,
        model=model,
        train_dataloader=loaders["train"],
        val_dataloader=loaders["val"],
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        compute_metric_func_dict=build_metric(config.get("Metric")),
    )
    return trainer, loaders


def left_behind(block: Mapping, model: Any) -> list[str]:
    """Return which buffers of pretrained weights a new training does not take.

    Counters start again, so that schedules do. The statistics of the labels are those
    of the new data, measured by ``Dataset.transform`` or given in the block; the
    weights keep theirs only if the block has none. Elements seen before stay seen,
    except by a model that lists them as of one training.

    Args:
        block: The section ``Model``, with what ``Dataset.transform`` measured.
        model: The model. ``label_statistics`` are buffers by the arguments that give
            them, ``of_one_training`` those that count in a training.
    """
    statistics = getattr(model, "label_statistics", {})
    given = set(statistics) & set(block.get(PARAMS_KEY) or {})
    names = list(statistics.values()) if given else []
    names += getattr(model, "of_one_training", ())
    return [name for name in names if name in model.state_dict()]


def _log_end(trainer: Any, config: Mapping, source: str, task_dir: str) -> None:
    """Log the best epoch, its score, and a command that uses its weights."""
    settings, state = trainer.config, trainer.state
    if trainer.optimizer is None:  # evaluated only
        return
    best = os.path.join(settings.output_dir, "checkpoints", "best.pdparams")
    weights = best if state.best_metric is not None else best.replace("best", "latest")
    if state.best_metric is not None:
        logger.message(
            f"Best epoch {state.best_epoch} of {state.epoch}: "
            f"{settings.name_for_best_metric} {state.best_metric:.6g} "
            f"({settings.best_metric_indicator})"
        )
    merged = os.path.join(settings.output_dir, os.path.basename(source))
    command = next_command(config, merged, weights, task_dir)
    logger.message(f"Weights: {weights}. Next, for instance:\n  {command}")


def next_command(config: Mapping, merged: str, weights: str, task_dir: str) -> str:
    """Return a command of the task that uses trained weights on validation data.

    Args:
        config: All sections.
        merged: The configuration file of the run.
        weights: The file of the weights.
        task_dir: The task folder, with ``sample.py`` or ``predict.py``.
    """
    block = (config["Dataset"].get("val") or {}).get("dataset") or {}
    params = block.get(PARAMS_KEY) or {}
    folder = os.path.dirname(merged)
    generates = os.path.exists(os.path.join(task_dir, "sample.py"))
    script = os.path.join(task_dir, "sample.py" if generates else "predict.py")
    words = ["python", os.path.relpath(script)]
    words += [f"--config_path={merged}", f"--checkpoint_path={weights}"]
    if block.get(CLASS_KEY) == "PlacementDataset":
        words += ["--mode=place", "--source=flow", "--slab=SLAB", "--adsorbate=CO"]
        words += [f"--save_path={os.path.join(folder, 'placements')}"]
        return shlex.join(words)
    if generates:
        words += ["--mode=compute_metric"]
    if block.get(CLASS_KEY) == "PotentialDataset":  # files, which have no splits
        paths = params["path"]
        words += ["--input", *([paths] if isinstance(paths, str) else paths)]
        words += [f"--save_path={os.path.join(folder, 'predicted.extxyz')}"]
    else:
        words += [f"--split={params.get('split', 'val')}"]
        words += [f"--save_path={os.path.join(folder, 'scores')}"]
    return shlex.join(words)


def take_best(trainer: Any) -> None:
    """Load the best weights on validation data into the model, if there are any."""
    from ppmat.utils import save_load

    settings, state = trainer.config, trainer.state
    best = os.path.join(settings.output_dir, "checkpoints", "best.pdparams")
    if state.best_metric is None or not os.path.exists(best):
        logger.message("The weights after the last step are tested")
        return
    save_load.load_pretrain(trainer.model, best)
    trainer.run.ema_model = None  # the file holds the average, if there is one
    logger.message(
        f"The best weights are tested: {best}, epoch {state.best_epoch}, "
        f"{settings.name_for_best_metric} {state.best_metric:.6g} "
        f"({settings.best_metric_indicator})"
    )


def check_statistics(config: Mapping) -> None:
    """Check ``Dataset.transform`` without reading data, also if nothing is trained."""
    from ppmat.datasets.transform import FILLED
    from ppmat.datasets.transform import MEASURED
    from ppmat.datasets.transform import check_scaling
    from ppmat.datasets.transform import single_target
    from ppmat.models import MODELS

    check_scaling(config["Dataset"]["transform"])
    names = (config.get("Global") or {}).get("label_names")
    refuse_if(
        not names or not fits(names, str | list[str]),
        "Dataset.transform normalises the target named by Global.label_names, e.g. "
        f"[y_relaxed]; found {names!r}",
    )
    scaling = config["Dataset"]["transform"][CLASS_KEY]
    if scaling != "potential_scaling":  # which is of energies and forces
        single_target(names)
    model, params = MODELS.parse(config["Model"], "Model")
    accepted = inspect.signature(model.__init__).parameters
    example = {"data_mean": 0.0, "data_std": 1.0}
    filled = {name: example.get(name, {}) for name in FILLED[scaling]}
    refuse_if(
        not set(filled) <= set(accepted),
        f"Dataset.transform fills {', '.join(filled)} of the model, but "
        f"{model.__name__} lacks such arguments; remove the block",
    )
    given = set(getattr(model, "label_statistics", {})) - set(filled)
    given = sorted(name for name in given if params.get(name) is not None)
    refuse_if(
        given and scaling in MEASURED,
        f"Model.{PARAMS_KEY}.{', '.join(given)} is given, but {scaling} measures the "
        "statistics of the labels without it; remove it, or choose the scaling that "
        "measures it",
    )
    # The statistics of the data take long, so the keys of the model are checked first.
    check_call(model, {**params, **filled}, f"Model.{PARAMS_KEY}")


def fill_statistics(config: dict[str, Any], train_loader: Any) -> None:
    """Write the statistics that ``Dataset.transform`` asks for into ``Model``."""
    from ppmat.datasets.transform import FILLED
    from ppmat.datasets.transform import run_dataset_transform

    block = config["Dataset"]["transform"]
    target = config["Global"]["label_names"]
    found = run_dataset_transform(
        block[CLASS_KEY], train_loader, target, **(block.get(PARAMS_KEY) or {})
    )
    filled = dict(zip(FILLED[block[CLASS_KEY]], found))
    params = dict(config["Model"].get(PARAMS_KEY) or {}) | filled
    config["Model"] = {**config["Model"], PARAMS_KEY: params}
    names = target if isinstance(target, str) else ", ".join(target)
    logger.message(
        f"{block[CLASS_KEY]} of {names} over {len(train_loader.dataset)} training "
        f"records: {', '.join(map(_shown, filled.items()))}"
    )


def _shown(item: tuple[str, Any]) -> str:
    """Return name and value of a statistic; numbers by element as a list."""
    name, value = item
    if isinstance(value, float):
        return f"{name} {value:.6g}"
    if any(not isinstance(number, float) for number in value.values()):
        return f"{name} of {', '.join(value)}"
    return f"{name} " + ", ".join(f"{key} {x:.6g}" for key, x in value.items())


def build_loaders(
    cfg: Mapping, wanted: Mapping[str, bool], seed: int
) -> dict[str, Any]:
    """Return the loader of each split, None if not wanted; ``seed`` is of the order.

    ``cfg`` holds the blocks ``train``, ``val`` and ``test``, or is one block with
    ``split_dataset_ratio``.
    """
    from ppmat.datasets import build_dataloader

    cfg = {key: block for key, block in cfg.items() if key != "transform"}
    shared = share_batches()
    if "split_dataset_ratio" in cfg:
        loaders = build_dataloader(cfg, seed=seed, shared=shared)
        return {split: loaders[split] if wanted[split] else None for split in _FLAGS}
    check_keys(cfg, (*_FLAGS, "transform"), "Dataset")
    loaders = dict.fromkeys(_FLAGS)
    for split in filter(wanted.get, _FLAGS):
        where, training = f"Dataset.{split}", split == "train"
        loaders[split] = build_dataloader(
            cfg.get(split), where=where, seed=seed, training=training, shared=shared
        )
    return loaders
