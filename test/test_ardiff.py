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


"""ARDiff: layout, loss against numpy, sampling, padding, seeds, bad input."""

import copy

import numpy as np
import paddle
import pytest
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.build import molecule
from ase.constraints import FixAtoms
from helpers import batch_of
from helpers import random_slab
from scipy.special import erf

from ppmat.models import build_model
from ppmat.models.ardiff.coordinates import Coordinates
from ppmat.models.ardiff.diffusion_head import DiffusionHead
from ppmat.models.ardiff.token_layout import token_layout
from ppmat.models.generated_structures import random_streams
from ppmat.sampler import StructureSampler
from ppmat.utils.config import save_config
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError
from ppmat.utils.save_load import CheckpointError
from ppmat.utils.save_load import load_pretrain

CONFIG = {
    "__class_name__": "ARDiff",
    "__init_params__": {
        "decoder_cfg": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "scheduler_cfg": {
            "__class_name__": "DDPMScheduler",
            "__init_params__": {"solver": "dpmpp_2m"},
        },
        "displacement_std": 0.3,
        "diff_width": 12,
        "diff_depth": 2,
        "diff_steps": 5,
    },
}


def untrained(**params):
    paddle.seed(5)
    config = copy.deepcopy(CONFIG)
    config["__init_params__"].update(params)
    return build_model(config)


def ardiff(**params):
    """A model whose last layers are not quiet, as they are before training."""
    model = untrained(**params)
    for name, p in model.head.named_parameters():
        if "modulation" in name or name.startswith("out"):
            p.set_value(0.2 * paddle.randn(p.shape))
    return model


def slab(seed, n=7):
    return random_slab(np.random.default_rng(seed), n)


def batch(*slabs, dtype="float32"):
    return batch_of(slabs, dtype, cutoff=4.0, max_neighbors=None, k_cut=1.3)


def positions(results):
    return [np.array(r["cart_coords"]) for r in results["result"]]


# --- layout and coordinates -----------------------------------------------------


def test_layout_of_two_structures():
    data = batch(slab(0, 3), slab(1, 2))
    atoms = data["structure_array"]
    atoms["fixed"] = paddle.to_tensor([True, False, False, True, False])
    layout = token_layout(atoms)
    assert layout.free.tolist() == [1, 2, 4]
    assert layout.num_free.tolist() == [2, 1]
    # table: <bos> <coord> | elements 2-6 | lattices 7-12 | initial positions 13-17
    assert layout.prefix.tolist() == [
        [0, 2, 3, 4, 1, 7, 8, 9, 13, 14, 15],
        [0, 0, 0, 5, 6, 1, 10, 11, 12, 16, 17],  # two columns of padding
    ]
    assert layout.slots.tolist() == [[0, 1], [2, 0]]
    assert layout.place.tolist() == [0, 1, 2]
    assert layout.used.sum(axis=1).tolist() == [13, 10]
    assert layout.position[1].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    mask = layout.mask[1].numpy()
    assert (np.diag(mask)).all() and not np.triu(mask, 1).any()
    assert not mask[2:, :2].any()  # padding is not seen
    assert mask[11, 2:12].all()  # the slot sees its whole prefix


@pytest.mark.parametrize("way", [(10.0, None), (None, 0.4)])
def test_triples_lead_back_to_the_displacements(way):
    coordinates = Coordinates(*way)
    data = batch(slab(0), slab(1), dtype="float64")
    atoms, moved = data["structure_array"], data["displacement"]
    back = coordinates.displacement(atoms, coordinates.relaxed(atoms, moved))
    np.testing.assert_allclose(back.numpy(), moved.numpy(), atol=1e-12)
    first = coordinates.initial(atoms).numpy()
    cells = np.repeat(atoms["lattice"].numpy(), 7, axis=0)
    frac = np.linalg.solve(
        cells.transpose(0, 2, 1), atoms["cart_coords"].numpy()[..., None]
    )
    frac = frac[..., 0] % 1.0
    if way[0]:
        np.testing.assert_allclose(first, 10.0 * frac, atol=1e-9)
    else:
        np.testing.assert_allclose(
            first, np.einsum("ni,nij->nj", frac, cells), atol=1e-9
        )
        wanted = moved.numpy() / 0.4
        np.testing.assert_allclose(coordinates.relaxed(atoms, moved).numpy(), wanted)


@pytest.mark.parametrize("params", [{"scale_coords": 10.0}, {"displacement_std": None}])
def test_one_way_of_coordinates_is_named(params):
    with pytest.raises(ConfigError, match="scale_coords is .*null for the other"):
        ardiff(**params)


# --- the loss -------------------------------------------------------------------


def numpy_loss(model, data):
    """The loss of one structure in plain numpy: no batch, no padding, no masks."""
    w = {name: p.numpy().astype("float64") for name, p in model.named_parameters()}
    atoms = {k: v.numpy() for k, v in data["structure_array"].items()}
    free = np.flatnonzero(~atoms["fixed"])
    clean = data["displacement"].numpy()[free] / 0.3

    def silu(x):
        return x / (1 + np.exp(-x))

    def dense(x, name):
        bias = w.get(f"{name}.bias", 0.0)
        return x @ w[f"{name}.weight"] + bias

    def triple(x, name):
        x = dense(x, f"embedding.{name}.0")
        return dense(0.5 * x * (1 + erf(x / np.sqrt(2))), f"embedding.{name}.2")

    def rms(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.scale"]

    def normal(x, epsilon=1e-5):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(
            x.var(-1, keepdims=True) + epsilon
        )

    # columns
    cell = atoms["lattice"][0].astype("float64")
    start = (atoms["cart_coords"] @ np.linalg.inv(cell)) % 1.0 @ cell
    who = w["embedding.element.weight"][atoms["atom_types"]]
    who = who + w["embedding.tag.weight"][atoms["tags"]]
    bos, coord = w["embedding.special.weight"]
    vectors = triple(cell, "lattice") + w["embedding.vector.weight"]
    known = who + triple(start, "initial")
    last = np.concatenate([np.zeros((1, 3)), clean[:-1]])
    slots = known[free] + triple(last, "previous")
    x = np.concatenate([[bos], who, [coord], vectors, known, slots])
    # decoder
    length, heads, width = len(x), 2, 8
    angle = np.arange(length)[:, None] * 10_000.0 ** -(np.arange(4) / 4)

    def turn(y):
        a, b = y[:, :4], y[:, 4:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)

    for i in range(2):
        at = f"decoder.layers.{i}"
        y = rms(x, f"{at}.attention_norm")
        q, k, v = (
            dense(y, f"{at}.attention.{name}") for name in ("query", "key", "value")
        )
        mixed = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            score = turn(q[:, part]) @ turn(k[:, part]).T / np.sqrt(width)
            score[np.triu_indices(length, 1)] = -np.inf
            score = np.exp(score - score.max(1, keepdims=True))
            mixed.append(score / score.sum(1, keepdims=True) @ v[:, part])
        x = x + dense(np.concatenate(mixed, axis=1), f"{at}.attention.out")
        y = rms(x, f"{at}.mlp_norm")
        y = silu(dense(y, f"{at}.mlp.gate")) * dense(y, f"{at}.mlp.up")
        x = x + dense(y, f"{at}.mlp.down")
    hidden = rms(x, "decoder.norm")[-len(free) :]
    # diffusion
    stream = random_streams(data, 0, 0)[0]
    noise = stream.standard_normal((len(free) * 4, 3))
    time = stream.integers(0, 1000, len(free) * 4)
    signal = model.scheduler.signal[time][:, None]
    noisy = signal * clean.repeat(4, 0) + np.sqrt(1 - signal**2) * noise
    phase = time[:, None] * np.exp(-np.log(10_000) * np.arange(128) / 128)
    told = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    told = dense(silu(dense(told, "head.time.0")), "head.time.2")
    told = silu(told + dense(hidden.repeat(4, 0), "head.condition"))
    y = dense(noisy, "head.triple")
    for i in range(2):
        at = f"head.blocks.{i}"
        shift, scale, gate = np.split(dense(told, f"{at}.modulation"), 3, axis=1)
        z = normal(y) * w[f"{at}.norm.weight"] + w[f"{at}.norm.bias"]
        z = silu(dense(z * (1 + scale) + shift, f"{at}.hidden"))
        y = y + gate * dense(z, f"{at}.out")
    shift, scale = np.split(dense(told, "head.modulation"), 2, axis=1)
    found = dense(normal(y) * (1 + scale) + shift, "head.out")
    return ((found - noise) ** 2).mean()


def test_loss_agrees_with_numpy():
    model = ardiff()
    model.eval()
    losses = []
    for seed in (0, 1):
        data = batch(slab(seed, 5 + seed))
        loss = model(data)["loss_dict"]["loss"].item()
        assert loss == pytest.approx(numpy_loss(model, data), rel=1e-4)
        losses.append(loss)
    two = batch(slab(0, 5), slab(1, 6))
    assert abs(losses[0] - losses[1]) > 1e-3
    two["id"] = ["0", "0"]  # as in the batches of one
    assert model(two)["loss_dict"]["loss"].item() == pytest.approx(
        np.mean(losses), rel=1e-4
    )


def test_fixed_atoms_have_no_part_in_the_loss():
    model = ardiff()
    model.eval()
    data = batch(slab(0))
    loss = model(data)["loss_dict"]["loss"].item()
    fixed = data["structure_array"]["fixed"].astype("float32").unsqueeze(1)
    assert fixed.sum() > 0
    other = {**data, "displacement": data["displacement"] + 3.0 * fixed}
    assert model(other)["loss_dict"]["loss"].item() == loss
    other = {**data, "displacement": data["displacement"] + 3.0 * (1 - fixed)}
    assert abs(model(other)["loss_dict"]["loss"].item() - loss) > 1e-3


def test_jitter_reaches_what_a_slot_reads_of_the_slots_before():
    data = batch(slab(0))
    model = ardiff(augmentation_cfg={"jitter": 0.5})
    read = []
    inner = model.hidden
    model.hidden = lambda atoms, layout, x: read.append(x) or inner(atoms, layout, x)
    paddle.seed(0)
    model(data)
    layout = token_layout(data["structure_array"])
    true = data["displacement"][layout.free] / 0.3
    assert (read[0] - true).abs().mean() > 0.5
    model.eval()
    model(data)
    np.testing.assert_array_equal(read[1].numpy(), true.numpy())


# --- sampling -------------------------------------------------------------------


def test_slots_are_drawn_from_the_states_that_the_loss_sees():
    """Sampling goes column by column with a cache; training reads all at once."""
    model = ardiff()
    model.eval()
    data = batch(slab(0, 5), slab(1, 7))
    seen = []
    inner = model._denoise
    model._denoise = lambda hidden, noise: seen.append(hidden) or inner(hidden, noise)
    moved = model.draw(data, random_streams(data, 0, 0), 5)
    moved = moved - data["structure_array"]["cart_coords"]
    layout = token_layout(data["structure_array"])
    hidden = model.hidden(data["structure_array"], layout, moved[layout.free] / 0.3)
    cached = paddle.stack(seen, axis=1).flatten(0, 1)[layout.place]
    np.testing.assert_allclose(cached.numpy(), hidden.detach().numpy(), atol=2e-5)


@pytest.mark.parametrize("way", [{}, {"scale_coords": 5.0, "displacement_std": None}])
@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m"])
def test_neighbours_in_the_batch_change_nothing_and_the_seed_does(way, solver):
    # an untrained network that predicts noise goes too far for a sharp comparison
    params = {"solver": solver, "prediction_type": "v_prediction"}
    scheduler = {"__class_name__": "DDPMScheduler", "__init_params__": params}
    model = ardiff(scheduler_cfg=scheduler, **way)
    model.eval()
    small, large = slab(2, 5), slab(1, 9)
    assert (~small["fixed"]).sum() > 1
    data = batch(small, large)
    a, b = positions(model.sample(data, seed=7))
    (alone,) = positions(model.sample(batch(small), seed=7))
    np.testing.assert_allclose(alone, a, atol=2e-5)
    turned = batch(large, small)
    turned["id"] = ["1", "0"]
    second, first = positions(model.sample(turned, seed=7))
    np.testing.assert_allclose(first, a, atol=2e-5)
    np.testing.assert_allclose(second, b, atol=2e-5)
    again = positions(model.sample(data, seed=7))
    np.testing.assert_array_equal(again[0], a)
    other, _ = positions(model.sample(data, seed=8))
    free = ~small["fixed"]
    assert np.abs(other - a)[free].max() > 1e-2


def test_a_formula_alone_is_refused():
    counts = {"num_atoms": paddle.to_tensor([2])}
    formula = {"atom_types": paddle.to_tensor([29, 8]), **counts}
    for arrays in (counts, formula):  # batches that other samplers would make
        with pytest.raises(InputError, match="no positions.*by_chemical_formula"):
            ardiff().sample({"structure_array": arrays})


def test_contract_of_sample():
    data = batch(slab(0, 4), slab(1))
    start = np.split(data["structure_array"]["cart_coords"].numpy(), [4])
    results = ardiff().sample(data, diff_steps=3, num_samples=2)["result"]
    assert [(r["id"], r["sample"]) for r in results] == [
        ("0", 0),
        ("0", 1),
        ("1", 0),
        ("1", 1),
    ]
    for r, begin in zip(results, np.repeat(np.arange(2), 2), strict=True):
        end = np.array(r["cart_coords"])
        fixed = np.array(r["fixed"])
        np.testing.assert_array_equal(end[fixed].astype("float32"), start[begin][fixed])
        assert np.linalg.norm(end - start[begin], axis=1)[~fixed].min() > 1e-4
        frac = np.array(r["frac_coords"]) @ np.array(r["lattice"])
        np.testing.assert_allclose(frac, end, atol=1e-5)
    one, two = positions({"result": results[:2]})
    assert np.abs(one - two).max() > 1e-2


def test_temperature():
    model, data = ardiff(), batch(slab(0))
    cold = positions(model.sample(data, temperature=0.0))[0]
    same = positions(model.sample(data, temperature=0.0, seed=3))[0]
    np.testing.assert_array_equal(cold, same)
    warm = positions(model.sample(data, seed=3))[0]
    mild = positions(model.sample(data, seed=3, temperature=0.1))[0]
    assert 0 < np.abs(mild - cold).max() < np.abs(warm - cold).max()
    with pytest.raises(InputError, match="temperature is 0 and num_samples 2"):
        model.sample(data, temperature=0.0, num_samples=2)


def test_a_structure_without_free_atoms_stays():
    data = batch(slab(0, 4), slab(1))
    free = data["structure_array"]["fixed"].clone()
    free[:4] = True
    data["structure_array"]["fixed"] = free
    model = ardiff()
    start = np.split(data["structure_array"]["cart_coords"].numpy(), [4])
    stayed, moved = positions(model.sample(data))
    np.testing.assert_array_equal(stayed.astype("float32"), start[0])
    assert np.abs(moved - start[1]).max() > 1e-3
    free[:] = True
    data["structure_array"]["fixed"] = free
    for end, begin in zip(positions(model.sample(data)), start, strict=True):
        np.testing.assert_array_equal(end.astype("float32"), begin)


def test_evaluation_is_repeatable_and_scores_samples():
    model, data = ardiff(), batch(slab(0), slab(1))
    assert len({model(data)["loss_dict"]["loss"].item() for _ in range(3)}) == 3
    model.eval()
    first, second = model(data), model(data)
    assert first["loss_dict"]["loss"] == second["loss_dict"]["loss"]
    drawn = np.concatenate(positions(model.sample(data, seed=0)))
    relaxed = first["pred_dict"]["cart_coords_relaxed"].numpy()
    np.testing.assert_array_equal(relaxed, drawn.astype("float32"))


# --- training -------------------------------------------------------------------


def test_training_reaches_all_weights_and_lowers_the_loss():
    model, data = ardiff(diff_mul=16), batch(slab(0, 5))
    optimizer = paddle.optimizer.Adam(5e-3, parameters=model.parameters())
    losses = []
    for step in range(40):
        loss = model(data)["loss_dict"]["loss"]
        loss.backward()
        if step == 1:
            reached = [(p.grad != 0).any().item() for p in model.parameters()]
            assert all(reached)
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:3])


def test_eight_structures_are_learnt_by_heart():
    """Samples, each from its own noise, end within 0.02 Å of the relaxed positions."""
    params = {"solver": "dpmpp_2m", "prediction_type": "v_prediction"}
    model = untrained(
        decoder_cfg={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        scheduler_cfg={"__class_name__": "DDPMScheduler", "__init_params__": params},
        diff_width=48,
        diff_mul=16,
        diff_steps=20,
    )
    data = batch(*map(slab, range(8)))
    rate = paddle.optimizer.lr.CosineAnnealingDecay(4e-3, 450)
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.Adam(
        rate, parameters=model.parameters(), grad_clip=clip
    )
    for _ in range(450):
        model(data)["loss_dict"]["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        rate.step()
    atoms = data["structure_array"]
    free = ~atoms["fixed"].numpy()
    true = (atoms["cart_coords"] + data["displacement"]).numpy()[free]
    for seed in (0, 1):
        found = np.concatenate(positions(model.sample(data, seed=seed)))[free]
        assert np.linalg.norm(found - true, axis=1).mean() < 0.02


def test_sizes_of_the_head_are_those_of_the_notes():
    """Width 1024: 20.2 million weights at depth 3, 67.5 million at depth 12."""

    def count(depth):  # of the formula that the small head below checks
        w, d = 1024, 1024
        block = 5 * w * w + 7 * w
        time = 256 * w + w + w * w + w
        return (
            4 * w + time + (d + 1) * w + depth * block + 2 * w * (w + 1) + 3 * (w + 1)
        )

    small = DiffusionHead(condition=10, width=8, depth=2)
    total = sum(p.size for p in small.parameters())
    assert total == 32 + (2056 + 72) + 88 + 2 * (5 * 64 + 56) + 144 + 27
    assert round(count(3) / 1e6, 1) == 20.2
    assert round(count(12) / 1e6, 1) == 67.5


# --- through the sampler --------------------------------------------------------


@pytest.fixture
def sampler(tmp_path):
    """An untrained model as a user loads one."""
    params = CONFIG["__init_params__"]
    config = {"Model": {**CONFIG, "__init_params__": {**params, "max_sites": 20}}}
    save_config(config, str(tmp_path / "model.yaml"))
    paddle.save(ardiff().state_dict(), str(tmp_path / "w.pdparams"))
    return StructureSampler(
        config_path=str(tmp_path / "model.yaml"),
        checkpoint_path=str(tmp_path / "w.pdparams"),
        config_overrides=["Sample.projection=false"],
    )


def metal(symbol, adsorbate, size=(2, 2, 3)):
    atoms = fcc111(symbol, size, vacuum=8.0)
    add_adsorbate(atoms, adsorbate, 1.8, "fcc")
    layers = atoms.get_tags()  # 1 is the top, 0 the adsorbate
    atoms.set_tags(np.select([layers == 0, layers == 1], [2, 1], 0))
    atoms.set_constraint(FixAtoms(np.flatnonzero(layers > 1)))
    return atoms


def test_slabs_of_ase(sampler):
    slabs = [metal("Cu", "O"), metal("Pt", molecule("CO"))]
    relaxed = sampler.from_structures(slabs, seed=3, num_samples=2, progress=False)
    assert [atoms.info["sample"] for atoms in relaxed] == [0, 1, 0, 1]
    for i, atoms in enumerate(relaxed):
        start = slabs[i // 2]
        moved = np.linalg.norm(atoms.positions - start.positions, axis=1)
        held = start.constraints[0].index
        np.testing.assert_allclose(moved[held], 0.0, atol=1e-5)
        assert (np.delete(moved, held) > 1e-4).all()
    alone = sampler.from_structures(slabs[0], seed=3)
    assert alone.info["sid"] == relaxed[0].info["sid"]
    np.testing.assert_allclose(alone.positions, relaxed[0].positions, atol=1e-3)


def test_slabs_that_are_too_large_are_left_out_or_refused(sampler):
    slabs = [metal("Cu", "O", (3, 3, 3)), metal("Cu", "O")]
    with pytest.raises(InputError, match="1 of 2 .*\\n.*28 atoms.*at most 20"):
        sampler.from_structures(slabs)
    relaxed = sampler.from_structures(slabs, on_error="flag", progress=False)
    assert [atoms.info["sid"] for atoms in relaxed] == ["1"]
    assert len(relaxed.left_out) == 1 and "28 atoms" in str(relaxed.left_out[0])


# --- bad input ------------------------------------------------------------------


def test_too_many_atoms_are_named():
    model, data = ardiff(max_sites=6), batch(slab(0, 5), slab(1, 7))
    for call in (model, model.sample):
        with pytest.raises(InputError, match="structure 1 has 7 atoms.*max_sites, 6"):
            call(data)


def test_weights_of_another_size_are_refused(tmp_path):
    paddle.save(ardiff().state_dict(), str(tmp_path / "w.pdparams"))
    load_pretrain(ardiff(), str(tmp_path / "w.pdparams"))
    with pytest.raises(CheckpointError, match="head"):
        load_pretrain(ardiff(diff_width=8), str(tmp_path / "w.pdparams"))
    with pytest.raises(CheckpointError, match="blocks"):
        load_pretrain(ardiff(diff_depth=3), str(tmp_path / "w.pdparams"))


@pytest.mark.parametrize(
    "params, told",
    [
        ({"decoder_cfg": {"hiden_size": 8}}, "Did you mean 'hidden_size'"),
        ({"augmentation_cfg": {"rotation": True}}, "Did you mean 'rotate'"),
        ({"diff_mul": 0}, "diff_mul"),
        ({"scheduler_cfg": {"__class_name__": "FlowMatchingScheduler"}}, "DDPMSched"),
        ({"diff_steps": 1200}, "1200 inference steps; wanted 1 to 996"),
        ({"scale_coords": -1.0, "displacement_std": None}, "scale_coords"),
    ],
)
def test_wrong_settings_name_the_key(params, told):
    with pytest.raises(ConfigError, match=told):
        ardiff(**params)
