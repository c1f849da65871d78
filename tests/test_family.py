"""Every objective, with either denoiser, under the one trainer: trains, is evaluated by its own
bound, is saved, loaded, goes on bit for bit, and samples."""

import jax
import numpy as np
import pytest

from dlms_jax import DiffusionLM, Trainer
from dlms_jax.errors import UserError
from dlms_jax.testing import small_config

ADALN = {"model__conditioning": "adaln_zero", "model__conditioning_size": 16}
FILM = {"model__conditioning": "film", "model__conditioning_size": 16}
UNET = {"model__name": "unet", "model__unet_levels": 2, "model__unet_blocks": 1,
        "model__unet_attention_levels": 1}  # fmt: skip
GAUSSIAN = {"objective__name": "gaussian", "gaussian__embedding_size": 16}
FAMILY = {
    "uniform": {"objective__name": "uniform", **FILM},
    "uniform, masks": {"objective__name": "uniform", "objective__mask_share": 0.5, **ADALN},
    "block": {"objective__name": "block", "block__size": 4},
    "block, causal": {"objective__name": "block", "block__size": 4, "block__context": "causal",
                      "block__curriculum": {"0": 1, "2": 4}},
    "gaussian": {**GAUSSIAN, **ADALN, "objective__schedule": "warped",
                 "objective__random_context": 0.25},
    "gaussian, bound": {**GAUSSIAN, "gaussian__loss": "bound", "objective__schedule": "learned"},
    "gaussian, vectors": {**GAUSSIAN, **FILM, "gaussian__loss": "score_matching",
                          "gaussian__head": "embedding", "gaussian__parameterisation": "v",
                          "objective__schedule": "cosine"},
    "masked, unet": UNET,
    "gaussian, unet": {**GAUSSIAN, **UNET, **FILM, "objective__schedule": "gumbel"},
    "masked, source": {
        "model__prompt_encoder": "cross_attention", "model__prompt_encoder_layers": 1,
    },
}  # fmt: skip


# Members that share their parts with others here, or with tests of less than a whole run.
TWINS = ("uniform, masks", "gaussian", "gaussian, vectors", "gaussian, unet", "block, causal")


def members(names, slow):
    """Returns names as parameters of tests, some of them marked as slow."""
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in names]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of eighty short texts."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(80):
        (folder / f"{i}.txt").write_text(f"The number {i} is {i * i} when squared. " * (1 + i % 3))
    return str(folder)


def config_of(name, corpus, **settings):
    common = {
        "data__corpus": corpus, "data__heldout_fraction": 0.2, "training__steps": 4,
        "checkpoint__every": 2, "evaluation__every": 4, "optimizer__schedule": "constant",
    }  # fmt: skip
    return small_config(**(common | FAMILY[name] | settings))


@pytest.mark.parametrize("name", members(FAMILY, TWINS))
def test_member_of_the_family_trains_is_evaluated_and_samples(name, corpus, tmp_path, capsys):
    metrics = Trainer(tmp_path).train(config_of(name, corpus))
    told_to_condition = "--config.model.conditioning=film" in capsys.readouterr().out
    assert told_to_condition == (name == "gaussian, bound")
    assert np.isfinite(metrics["bound"]) and metrics["bound"] > 0
    lm = DiffusionLM.load_checkpoint(tmp_path)
    again = lm.evaluate(rows=8)
    assert again.nats_per_token == pytest.approx(metrics["bound"], rel=1e-4)
    assert again.protocol.startswith(lm.objective.protocol)
    texts = lm.samples(["The ", "The number 5"], length=6, seed=1)
    assert texts[0].startswith("The ") and texts[1].startswith("The number 5")


@pytest.mark.parametrize(
    "name",
    members(["uniform", "block, causal", "gaussian", "gaussian, bound"],
            slow=["uniform", "block, causal", "gaussian"]),
)  # fmt: skip
def test_a_run_that_was_stopped_goes_on_bit_for_bit(name, corpus, tmp_path):
    """What is learned beside the network (embeddings, schedule, block size by step) included."""
    whole = config_of(name, corpus)
    Trainer(tmp_path / "whole").train(whole)
    Trainer(tmp_path / "half").train(config_of(name, corpus, training__steps=2))
    Trainer(tmp_path / "half").train(whole)
    one, other = (DiffusionLM.load_checkpoint(tmp_path / run).params for run in ("whole", "half"))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [("masked", "ddim"), ("autoregressive", "confidence"), ("gaussian", "first_hitting"),
     ("uniform", "remdm_cap"), ("block", "heun")],
)  # fmt: skip
def test_a_sampler_of_another_process_is_refused_before_training(objective, sampler, corpus):
    config = small_config(objective__name=objective, sampling__sampler=sampler,
                          data__corpus=corpus, data__heldout_fraction=0.2)  # fmt: skip
    with pytest.raises(UserError, match=f"config.sampling.sampler={sampler}") as error:
        Trainer("unused").train(config)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_embeddings_of_a_file_stay_as_they_are(corpus, tmp_path):
    """And are in the checkpoint, which needs the file no longer."""
    file = tmp_path / "table.npy"
    table = np.random.default_rng(0).normal(size=(260, 16)).astype(np.float32)
    np.save(file, table)
    run = tmp_path / "run"
    Trainer(run).train(config_of("gaussian", corpus, gaussian__embedding_file=str(file)))
    file.unlink()
    lm = DiffusionLM.load_checkpoint(run)
    np.testing.assert_array_equal(lm.params["embed"]["table"][:260], table)
    assert lm.sample("The ", length=4).startswith("The ")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.ones((260, 8), np.float32), "embedding_size=16 columns"),
        (np.ones((200, 16), np.float32), "257 to 384"),
        (np.zeros((260, 16), np.float32), "rows that are 0 or not finite"),
        (None, "cannot be read as .npy"),
    ],
)
def test_embeddings_that_do_not_fit_are_one_line(table, message, corpus, tmp_path):
    file = tmp_path / "table.npy"
    file.write_text("no table") if table is None else np.save(file, table)
    with pytest.raises(UserError, match=message) as error:
        Trainer(tmp_path / "run").train(
            config_of("gaussian", corpus, gaussian__embedding_file=str(file))
        )
    assert "\n" not in str(error.value)
