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

"""The submission files: form, checks against the data, command."""

import zipfile

import numpy as np
import pytest

from ppmat.datasets import submission
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.submission import SubmissionError
from ppmat.datasets.submission import check_submission
from ppmat.datasets.submission import write_energy_submission
from ppmat.datasets.submission import write_submission

rng = np.random.default_rng(0)
SIZES = (3, 1, 4)
ENTRIES = [(f"{7 - i}", rng.normal(size=(n, 3))) for i, n in enumerate(SIZES)]


def records(entries=ENTRIES):
    return [
        OC20Record(
            sid=sid,
            atomic_numbers=np.ones(len(pos), "int64"),
            pos=10 * pos.astype("float32"),
            cell=20 * np.eye(3, dtype="float32"),
            tags=np.zeros(len(pos), "int64"),
            fixed=np.zeros(len(pos), bool),
        )
        for sid, pos in entries
    ]


def test_file_has_the_arrays_the_server_reads(tmp_path):
    path = tmp_path / "is2rs.npz"
    write_submission(path, {"val_id": ENTRIES, "ood_ads": ENTRIES[:1]})
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == [
            "id_chunk_idx", "id_ids", "id_pos",
            "ood_ads_chunk_idx", "ood_ads_ids", "ood_ads_pos",
        ]  # fmt: skip
        assert file["id_ids"].tolist() == ["7", "6", "5"]
        assert file["id_chunk_idx"].tolist() == [3, 4]
        # How the server takes it apart again.
        parts = np.split(file["id_pos"], file["id_chunk_idx"])
        for part, (_, pos) in zip(parts, ENTRIES, strict=True):
            np.testing.assert_allclose(part, pos, rtol=1e-6)
        assert file["ood_ads_chunk_idx"].shape == (0,)
    assert check_submission(path, {"val_id": records()}) == {"id": 3, "ood_ads": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["is2rs.npz"]


NAN = np.array([[0.0, np.nan, 0.0]])
BAD = {
    "unknown split": ({"val_idd": ENTRIES}, "unknown split 'val_idd'.*id"),
    "same split twice": ({"id": ENTRIES, "val_id": ENTRIES}, "given twice"),
    "no structures": ({"id": []}, "no structures"),
    "same id twice": ({"id": [*ENTRIES, ENTRIES[0]]}, "sid 7 occurs 2 times"),
    "wrong shape": ({"id": [("1", np.zeros(3))]}, r"shape \(3,\)"),
    "no atoms": ({"id": [("1", np.zeros((0, 3)))]}, "sid 1 has positions of shape"),
    "nan": ({"id": [*ENTRIES, ("99", NAN)]}, "sid 99 has NaN"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_content_is_refused_and_writes_nothing(tmp_path, case):
    splits, message = BAD[case]
    with pytest.raises(SubmissionError, match=message):
        write_submission(tmp_path / "a.npz", splits)
    assert not list(tmp_path.iterdir())


WRONG_DATA = {
    "missing": ([*ENTRIES, ("12", np.zeros((2, 3)))], "sid 12 is missing"),
    "extra": (ENTRIES[:2], "1 ids are not in the data set, for instance 5"),
    "size": ([("7", np.zeros((2, 3))), *ENTRIES[1:]], "sid 7 has 3 atoms.*has 2"),
}


@pytest.mark.parametrize("case", sorted(WRONG_DATA))
def test_file_that_does_not_answer_the_data_is_refused(tmp_path, case):
    entries, message = WRONG_DATA[case]
    write_submission(tmp_path / "a.npz", {"id": ENTRIES})
    with pytest.raises(SubmissionError, match=message):
        check_submission(tmp_path / "a.npz", {"id": records(entries)})
    with pytest.raises(SubmissionError, match="split 'ood_cat' is missing"):
        check_submission(tmp_path / "a.npz", {"ood_cat": records()})


def arrays(**changes):
    good = {
        "id_ids": np.array(["a", "b"]),
        "id_pos": np.zeros((5, 3), "float32"),
        "id_chunk_idx": np.array([2]),
    }
    return {k: v for k, v in {**good, **changes}.items() if v is not None}


BROKEN = {
    "missing array": (arrays(id_pos=None), "'id_pos' is missing"),
    "unknown array": (arrays(id_poss=np.zeros(1)), "unknown array 'id_poss'"),
    "nothing": ({}, "no arrays"),
    "numeric ids": (arrays(id_ids=np.array([1, 2])), "wanted a list of texts"),
    "flat positions": (arrays(id_pos=np.zeros(15)), r"shape \[number of atoms, 3\]"),
    "cut beyond": (arrays(id_chunk_idx=np.array([5])), "does not cut 5 positions"),
    "last cut included": (arrays(id_chunk_idx=np.array([2, 5])), "does not cut"),
}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_broken_file_is_refused(tmp_path, case):
    content, message = BROKEN[case]
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(SubmissionError, match=message):
        check_submission(tmp_path / "a.npz", {})


def test_damaged_bytes_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_energy_submission(path, {"id": [("1", -0.5)]})
    good = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("ood_ads_ids", "no array")
    with pytest.raises(SubmissionError, match="ood_ads_"):
        check_submission(path, {})
    for place in (0, len(good) // 2, len(good) - 12):
        data = bytearray(good)
        data[place : place + 4] = b"\xff" * 4
        path.write_bytes(data)
        with pytest.raises(SubmissionError, match="not a submission file"):
            check_submission(path, {})


def test_submission_that_unpacks_to_too_much(tmp_path, monkeypatch):
    write_energy_submission(tmp_path / "a.npz", {"id": [("1", -0.5)]})
    monkeypatch.setattr(submission, "_MAX_UNPACKED", 100)
    with pytest.raises(SubmissionError, match="its arrays have"):
        check_submission(tmp_path / "a.npz", {})


def test_file_with_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(id_ids=np.array(["a", None], dtype=object)))
    with pytest.raises(SubmissionError, match="not a submission"):
        check_submission(tmp_path / "a.npz", {})


def test_command_merges_and_checks(tmp_path, capsys):
    write_lmdb(tmp_path / "data.lmdb", records())
    write_submission(tmp_path / "a.npz", {"id": ENTRIES})
    write_submission(tmp_path / "b.npz", {"ood_both": ENTRIES[:2]})
    out, a, b = (str(tmp_path / n) for n in ("out.npz", "a.npz", "b.npz"))
    assert submission.main(["merge", out, a, b]) == 0
    data = str(tmp_path / "data.lmdb")
    assert submission.main(["check", out, f"val_id={data}"]) == 0
    assert "id: 3 structures\nood_both: 2 structures" in capsys.readouterr().out
    assert submission.main(["check", out, f"ood_both={data}"]) == 1
    assert "sid 5 is missing" in capsys.readouterr().err
    assert submission.main(["merge", out, a, a]) == 1
    assert "in an earlier file too" in capsys.readouterr().err
    assert submission.main(["check", str(tmp_path / "none.npz")]) == 1


ENERGIES = [("7", -1.25), ("6", 0.5), ("5", 2)]


def test_energies_are_the_arrays_the_server_reads(tmp_path):
    path = tmp_path / "is2re.npz"
    write_energy_submission(path, {"test_id": ENERGIES, "ood_both": iter(ENERGIES[:1])})
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == [
            "id_energy", "id_ids", "ood_both_energy", "ood_both_ids",
        ]  # fmt: skip
        assert file["id_ids"].tolist() == ["7", "6", "5"]
        assert file["id_ids"].dtype.kind == "U" and file["id_energy"].dtype == "f8"
        assert file["id_energy"].tolist() == [-1.25, 0.5, 2.0]
    assert check_submission(path, {"id": records()}) == {"id": 3, "ood_both": 1}
    with pytest.raises(SubmissionError, match="ood_both: sid 6 is missing"):
        check_submission(path, {"ood_both": records()})
    with pytest.raises(SubmissionError, match="1 ids are not in the data set"):
        check_submission(path, {"id": records()[:2]})


BAD_ENERGIES = {
    "unknown split": ({"train": ENERGIES}, "unknown split 'train'"),
    "same split twice": ({"id": ENERGIES, "val_id": ENERGIES}, "given twice"),
    "no structures": ({"id": []}, "no structures"),
    "same id twice": ({"id": [*ENERGIES, ENERGIES[0]]}, "sid 7 occurs 2 times"),
    "none": ({"id": [("1", None)]}, "sid 1 has no energy"),
    "nan": ({"id": [*ENERGIES, ("99", np.nan)]}, "sid 99 has a NaN energy"),
}


@pytest.mark.parametrize("case", sorted(BAD_ENERGIES))
def test_bad_energies_are_refused(tmp_path, case):
    splits, message = BAD_ENERGIES[case]
    with pytest.raises(SubmissionError, match=message):
        write_energy_submission(tmp_path / "a.npz", splits)
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_two_tasks_do_not_mix(tmp_path, capsys):
    write_energy_submission(tmp_path / "e.npz", {"id": ENERGIES})
    write_energy_submission(tmp_path / "f.npz", {"ood_ads": ENERGIES})
    write_submission(tmp_path / "p.npz", {"ood_cat": ENTRIES})
    files = [str(tmp_path / name) for name in ("e.npz", "f.npz", "p.npz")]
    out = str(tmp_path / "out.npz")
    assert submission.main(["merge", out, *files[:2]]) == 0
    assert "ood_ads: 3 structures" in capsys.readouterr().out
    assert submission.main(["merge", out, *files]) == 1
    assert "'ood_cat_chunk_idx' beside energies" in capsys.readouterr().err
    np.savez(out, id_ids=np.array(["1"]), id_energy=np.ones(1), id_pos=np.ones((1, 3)))
    with pytest.raises(SubmissionError, match="'id_pos' beside energies"):
        check_submission(out, {})
    np.savez(out, id_ids=np.array(["1"]), id_energy=np.ones((1, 1)))
    with pytest.raises(SubmissionError, match=r"shape \(1, 1\), wanted 1 floats"):
        check_submission(out, {})
