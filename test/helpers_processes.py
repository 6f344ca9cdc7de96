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


"""What test_processes.py runs as ranks: ``helpers_processes.py FOLDER SCENARIO``."""

import os
import signal
import sys
import time

from ppmat.commands import options
from ppmat.commands.processes import Ranks


def predict(folder):
    """Predict the structures of a trajectory, and measure columns in pictures."""
    import helpers_predictor  # noqa: F401  # registers the model

    from ppmat.commands import detect
    from ppmat.commands import predict as command

    model = [f"--config_path={folder}/model.yaml"]
    model += ["--checkpoint_path", f"{folder}/w1.0.pdparams"]
    structures = ["--input", f"{folder}/slabs.traj", "--batch_size=2"]
    saved = [f"--save_path={folder}/e.csv", f"--submission={folder}/e.npz"]
    status = command.main(folder, [*model, *structures, *saved, "--split", "val_id"])
    pictures = [f"{folder}/pictures", "--raw", f"--output={folder}/columns/"]
    return max(status, detect.main(folder, pictures))


def half(folder):
    """As :func:`predict`, but rank 1 is killed before its second batch."""
    from helpers_predictor import ToyEnergy

    genuine = ToyEnergy.predict

    def dying(self, batch):
        if os.environ["PADDLE_TRAINER_ID"] == "1" and ToyEnergy.calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return genuine(self, batch)

    ToyEnergy.predict = dying
    return predict(folder)


def late(folder):
    """Rank 1 comes later; the counts show who waited."""
    from ppmat.utils.meeting import start_ranks
    from ppmat.utils.misc import gather_objects

    start_ranks()
    begin = time.monotonic()
    rank = int(os.environ["PADDLE_TRAINER_ID"])
    time.sleep(0.5 * rank)
    found = gather_objects(rank)
    assert time.monotonic() - begin > 0.45, "rank 0 did not wait"
    print(f"met {found}", flush=True)
    return 0


def lost(folder):
    """Rank 1 is killed while rank 0 waits for it."""
    from ppmat.utils.meeting import start_ranks
    from ppmat.utils.misc import gather_objects

    start_ranks()
    if int(os.environ["PADDLE_TRAINER_ID"]) == 1:
        print("the last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    gather_objects(0)
    return 0


def endless(folder):
    """Each rank leaves its process id and stays."""
    rank = os.environ["PADDLE_TRAINER_ID"]
    with open(f"{folder}/pid{rank}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{folder}/pid{rank}.new", f"{folder}/pid{rank}")
    time.sleep(600)
    return 0


def main(folder, name):
    with Ranks(2, sys.argv):
        return globals()[name](folder)


if __name__ == "__main__":
    sys.exit(options.exit_status(lambda: main(*sys.argv[1:])))
