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


"""Expected errors scaled to the errors of labelled data, through the command."""

from pathlib import Path

import numpy as np
import pytest

from ppmat.commands.predict import main
from ppmat.commands.predict import measure_factor
from ppmat.predictor import PropertyPredictor
from ppmat.utils.registry import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "property_prediction/configs/sfin/sfin_oc20_is2re_smoke.yaml")
DATA = f"Global.data_root={ROOT / 'structure_generation/example_data/oc20_emt'}"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Untrained weights of the smoke configuration, whose expected errors are off."""
    import paddle

    from ppmat.models import build_model
    from ppmat.utils.config import load_config

    path = tmp_path_factory.mktemp("weights") / "model.pdparams"
    paddle.seed(0)
    changes = [DATA, "Model.__init_params__.data_std=3.0"]
    model = build_model(load_config(CONFIG, changes)["Model"])
    paddle.save(model.state_dict(), str(path))
    return path


def command(weights, *words):
    return main(
        str(ROOT / "property_prediction"),
        ["-c", CONFIG, f"--checkpoint_path={weights}", *words, DATA],
    )


def table_of(weights, split):
    from ppmat.datasets.oc20_lmdb import OC20LMDB

    predictor = PropertyPredictor(
        config_path=CONFIG, checkpoint_path=weights, config_overrides=[DATA]
    )
    rows = OC20LMDB(ROOT / "structure_generation/example_data/oc20_emt", split)
    table = predictor.from_structures(rows, progress=False)
    label = np.array([row.y_relaxed for row in rows])
    energy, expected = (
        np.array([row[key] for row in table]) for key in ("y_relaxed", "expected_error")
    )
    return np.abs(energy - label), expected, energy


def test_calibrated_errors_are_as_large_as_the_errors(weights, tmp_path, capsys):
    out = tmp_path / "calibrated.pdparams"
    assert command(weights, "--split", "val_id", f"--calibrate={out}") == 0
    error, before, energy = table_of(weights, "val_id")
    assert before.mean() > 2 * error.mean()
    same, expected, calibrated = table_of(out, "val_id")
    assert expected.mean() == pytest.approx(error.mean(), rel=1e-4)
    np.testing.assert_allclose(calibrated, energy, rtol=1e-6)  # energies stay
    ratio = expected / before
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)  # and so does the order
    again = tmp_path / "again.pdparams"
    assert command(out, "--split", "val_id", f"--calibrate={again}") == 0
    assert "Errors are 1.000 times the expected ones" in capsys.readouterr().out


def test_factor():
    pairs = [(0.1, 0.2)] * 9 + [(0.9, 0.2)]
    assert measure_factor(pairs) == pytest.approx(0.9)
    with pytest.raises(ConfigError, match="9 structures"):
        measure_factor(pairs[:9])


@pytest.mark.parametrize(
    "words, text",
    [
        (["--split", "val_id", "val_ood_ads"], "one --split and one checkpoint"),
        (["--input", CONFIG], "one --split and one checkpoint"),
    ],
)
def test_refuses(weights, tmp_path, capsys, words, text):
    out = tmp_path / "out.pdparams"
    assert command(weights, *words, f"--calibrate={out}") == 2
    assert text in capsys.readouterr().out
    assert not out.exists()


def test_refuses_other_files_and_models(weights, tmp_path, capsys):
    words = ["--split", "val_id"]
    assert command(weights, *words, f"--calibrate={tmp_path / 'x.txt'}") == 2
    assert "wanted FILE.pdparams" in capsys.readouterr().out
    without = "Model.__init_params__.predict_error=false"
    out = tmp_path / "out.pdparams"
    assert command(weights, *words, f"--calibrate={out}", without) == 2
    assert not out.exists()
