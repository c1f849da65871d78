"""The benchmarks compare like with like: a newcomer's train step does the job that ours does."""

import csv
import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest

from dlms_jax.diffusion import Denoiser, Linear, Masked, Vocabulary, make_batch
from dlms_jax.errors import UserError
from dlms_jax.testing import Joint, small_config

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
VOCABULARY = Vocabulary(size=128, pad_id=124, bos_id=125, eos_id=126, mask_id=127)
ROWS, LENGTH = 8, 16


@pytest.fixture
def load(monkeypatch):
    """Returns a function that imports a benchmark's module as one that runs there does."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and pathlib.Path(file).parent == FOLDER:
            del sys.modules[name]


def test_the_same_draw_and_logits_have_the_same_loss(load):
    newcomer = load("newcomer")
    tokens_BxL = jnp.asarray(
        np.random.default_rng(0).integers(0, 124, (ROWS, LENGTH)), dtype=jnp.int32
    )
    positions_BxL = jnp.tile(jnp.arange(LENGTH), (ROWS, 1))
    everything = jnp.ones((ROWS, LENGTH), bool)  # a newcomer masks the first token too
    batch = make_batch(
        tokens_BxL, jnp.ones_like(tokens_BxL), positions_BxL, everything, jnp.arange(ROWS)
    )
    model = newcomer.Denoiser(
        VOCABULARY.padded_size, 32, 2, 2, 16, 64, "float32", VOCABULARY.pad_id
    )
    objective, key = Masked(VOCABULARY, Linear()), jax.random.key(1)

    @jax.jit
    def losses(params):
        def logits(inputs_BxL):  # a newcomer takes all symbols for text
            bias_V = jnp.asarray(VOCABULARY.text_bias_V())
            return model.apply({"params": params}, inputs_BxL) + bias_V[None, None, :]

        ours = objective.loss(
            Denoiser.from_logits(lambda inputs_BxL, *_: logits(inputs_BxL)), batch, key
        )
        t_BxL = objective.draw_times(batch, key)
        inputs_BxL, _, masked_BxL = objective.corrupt(batch, t_BxL, key)
        theirs = newcomer.masked_loss(logits(inputs_BxL), tokens_BxL, masked_BxL, t_BxL[:, 0])
        return ours.total / tokens_BxL.size, theirs

    ours, theirs = losses(newcomer.make_state(model, LENGTH, jax.random.key(0)).params)
    assert theirs > 1
    np.testing.assert_allclose(theirs, ours, rtol=1e-6)


def test_the_newcomers_loss_of_an_exact_denoiser_is_the_entropy(load):
    newcomer = load("newcomer")
    joint, draws = Joint(symbols=3, length=3), 200_000
    mask_id, bos_id = joint.vocabulary.mask_id, joint.vocabulary.bos_id
    texts = np.random.default_rng(0).choice(len(joint.texts), draws, p=joint.p)
    tokens_BxL = jnp.asarray(joint.texts[texts], jnp.int32)

    @jax.jit
    def loss(tokens_BxL, key):
        inputs_BxL, masked_BxL, t_B = newcomer.corrupt(tokens_BxL, key, mask_id)
        with_bos = jnp.pad(inputs_BxL, ((0, 0), (1, 0)), constant_values=bos_id)
        logits_BxLxV = joint.masked_denoiser().logits(with_bos, None, None)[:, 1:]
        return newcomer.masked_loss(logits_BxLxV, tokens_BxL, masked_BxL, t_B)

    # Of 200,000 texts the mean has a standard deviation of 0.34% (12 keys): weights go up to 1000.
    np.testing.assert_allclose(
        joint.length * loss(tokens_BxL, jax.random.key(0)), joint.entropy, rtol=0.02
    )


def test_no_padding_is_seen(load):
    newcomer = load("newcomer")
    model = newcomer.Denoiser(128, 32, 1, 2, 16, 64, "float32", VOCABULARY.pad_id)
    params = newcomer.make_state(model, LENGTH, jax.random.key(0)).params
    short_1x4 = jnp.arange(4)[None]
    padding = ((0, 0), (0, LENGTH - 4))
    long_1xL = jnp.pad(short_1x4, padding, constant_values=VOCABULARY.pad_id)
    cut = params | {"positions": params["positions"][:, :4]}
    np.testing.assert_allclose(
        model.apply({"params": params}, long_1xL)[:, :4],
        model.apply({"params": cut}, short_1x4),
        atol=1e-6,
    )


def test_both_are_as_large_and_learn(load):
    steps = load("steps")
    config = small_config(
        model__num_kv_heads=4, tokenizer__name="bpe", tokenizer__vocab_size=1024,
        optimizer__warmup_steps=1, optimizer__peak_learning_rate=3e-3,
    )  # fmt: skip
    ours, theirs = (steps.prepare(config, name) for name in ("dlms_jax", steps.NEWCOMER))
    assert theirs.flops == ours.flops
    assert theirs.parameters == pytest.approx(ours.parameters, rel=0.03)
    taken = [theirs.take()[1] for _ in range(30)]
    assert np.mean(taken[-5:]) < np.mean(taken[:5]) - 0.5


def test_a_step_that_no_newcomer_writes_is_refused(load):
    config = small_config(objective__name="uniform")
    with pytest.raises(UserError, match="--variants without 'newcomer'"):
        load("steps").prepare(config, "newcomer")


def test_lines_of_power_laws_have_their_exponents(load, tmp_path, monkeypatch):
    scaling, figures = load("scaling"), []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs)),
    )
    rows = [
        (axis, x, step, 3.0 * x ** (1.5 + i), 2**20 * x**0.25)
        for i, step in enumerate(scaling.STEPS)
        for axis, values in scaling.AXES.items()
        for x in values
    ]
    with (tmp_path / "scaling.csv").open("w", newline="") as file:
        file.write("# around here\n")
        csv.writer(file).writerows([scaling.COLUMNS, *rows])
    scaling.main([f"--out={tmp_path}", "--draw"])
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    texts = [[text.get_text() for text in axes.get_legend().texts] for axes in figure.axes]
    assert texts == 4 * [["1.50", "2.50", "3.50"]] + 4 * [3 * ["0.25"]]
    (x,) = {tuple(line.get_xdata()) for line in figure.axes[1].lines[:3]}
    assert x == scaling.AXES["width"]
