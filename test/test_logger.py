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


import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from ppmat.utils import logger
from ppmat.utils import misc
from ppmat.utils.errors import InputError


@pytest.fixture(autouse=True)
def fresh_logger():
    yield
    logger.init_logger()


def test_lines_reach_screen_and_file(tmp_path, capsys):
    log = tmp_path / "sub" / "run.log"
    logger.init_logger(log_file=str(log))
    logger.info("epoch %d", 3)
    logger.message("saved")
    logger.warning("look")
    logger.debug("hidden")
    shown = capsys.readouterr().out
    assert "ppmat INFO: epoch 3" in shown and "hidden" not in shown
    assert "\033[" not in shown
    written = log.read_text()
    assert [line.split("ppmat ")[1] for line in written.splitlines()] == [
        "INFO: epoch 3",
        "MESSAGE: saved",
        "WARNING: look",
    ]
    logger.set_log_level("debug")
    logger.debug("now")
    assert "DEBUG: now" in log.read_text()


def test_second_start_appends_and_writes_once(tmp_path):
    log = tmp_path / "run.log"
    for text in ("first", "second"):
        logger.init_logger(log_file=str(log))
        logger.info(text)
    assert log.read_text().count("first") == log.read_text().count("second") == 1


def test_other_ranks_show_errors_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    logger.init_logger(log_file=str(tmp_path / "run.log"))
    logger.info("quiet")
    logger.error("loud")
    shown = capsys.readouterr().out
    assert "loud" in shown and "quiet" not in shown
    assert not (tmp_path / "run.log").exists()


def test_scalars_go_to_the_writers_that_are_given():
    class Writer:
        def __init__(self):
            self.seen = []

        def add_scalar(self, name, value, step):
            self.seen.append((name, value, step))

        def log(self, values, step):
            self.seen.append((values, step))

    board, run = Writer(), Writer()
    logger.scalar("train", {"loss": 2.0}, 7, None, run, board)
    assert board.seen == [("train_loss", 2.0, 7)]
    assert run.seen == [({"train_loss": 2.0}, 7)]


def test_the_log_does_not_need_paddle():
    code = (
        "import sys; from ppmat.utils import logger; logger.info('x'); "
        "assert 'paddle' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_average_meter_weighs():
    meter = misc.AverageMeter("loss")
    assert np.isnan(meter.avg)
    meter.update(1.0, 4)
    meter.update(paddle.to_tensor(6.0), 1)
    assert meter.avg == 2.0


def test_small_helpers():
    misc.set_random_seed(3)
    first = (np.random.rand(), float(paddle.rand([])))
    misc.set_random_seed(3)
    assert first == (np.random.rand(), float(paddle.rand([])))
    sums = misc.sum_over_ranks(
        [2, 0.1, paddle.to_tensor([1.5]), paddle.to_tensor(True)]
    )
    assert sums.tolist() == [2.0, 0.1, 1.5, 1.0]
    rows = paddle.ones([2, 3])
    assert misc.all_gather(rows) is rows
    assert misc.all_gather(rows, concat=False) == [rows]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_one_error(tmp_path, capsys):
    path = tmp_path / "run.log"
    path.symlink_to("/dev/full")
    logger.init_logger(log_file=str(path))
    with pytest.raises(InputError, match=r"run\.log: cannot be written: No space left"):
        logger.info("a line")
    logger.error("the error itself")  # no longer into the file
    assert "the error itself" in capsys.readouterr().out


def test_a_log_that_cannot_be_opened(tmp_path):
    (tmp_path / "run.log").mkdir()
    with pytest.raises(InputError, match=r"run\.log: cannot be written: Is a direct"):
        logger.init_logger(log_file=str(tmp_path / "run.log"))
