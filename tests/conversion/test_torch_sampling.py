"""With the same exact networks, the PyTorch samplers draw from the same distribution as JAX's.

tests/sampling compares JAX's samplers with their enumerated Markov chains; here the samples of both
are counted and compared.
"""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from sampling.chains import SmallJoint, sample
from sampling.sequential import block_oracle, next_token_oracle
from scipy import stats
import torch

from dlms_jax.config import BlockConfig, GaussianConfig, SamplingConfig
from dlms_jax.conversion.pytorch.generation_dlms import DLMGenerationMixin
from dlms_jax.diffusion import (
    Autoregressive,
    Block,
    Cosine,
    Gaussian,
    Layout,
    Linear,
    Masked,
    Noisy,
    Polynomial,
    Uniform,
)
from dlms_jax.sampling import make_sampler
from dlms_jax.testing import exact_gaussian_denoiser, random_table

ROWS = 20_000
JOINT = SmallJoint(3, 3, seed=0)
SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(2.0)}
GAUSSIAN = GaussianConfig(embedding_size=4, gamma_min=-6.0, gamma_max=6.0, self_conditioning=False)
TABLE = random_table(JOINT.vocabulary.padded_size, 4, seed=1)


class ExactModel(DLMGenerationMixin):
    """An exact denoiser in JAX as a model for `generate`."""

    device = torch.device("cpu")
    generation_config = types.SimpleNamespace(to_dict=dict)

    def __init__(self, denoise, objective: str, **settings):
        v, self._logits = JOINT.vocabulary, denoise.logits
        self.config = types.SimpleNamespace(
            objective=objective,
            vocab_size=v.size,
            pad_token_id=v.pad_id,
            bos_token_id=v.bos_id,
            eos_token_id=v.eos_id,
            mask_token_id=v.mask_id,
            max_position_embeddings=16,
            schedule="linear",
            schedule_power=2.0,
            mask_share=0.0,
            block_size=2,
        )
        vars(self.config).update(settings)
        embed = types.SimpleNamespace(unit_table=lambda: torch.from_numpy(np.array(TABLE)))
        self.model = types.SimpleNamespace(embed=embed)

    def __call__(
        self,
        input_ids=None,
        segment_ids=None,
        position_ids=None,
        block_ids=None,
        clean_mask=None,
        prompt_mask=None,
        class_ids=None,
        timesteps=None,
        cache=None,
        update_cache=False,
        inputs_embeds=None,
        estimate=None,
    ):
        shape = segment_ids.shape
        t = torch.zeros(shape) if timesteps is None else timesteps.reshape(len(timesteps), -1)
        place = torch.arange(shape[1]).expand(shape) if position_ids is None else position_ids
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        now = [inputs, t.expand(shape), segment_ids, place, prompt_mask, block_ids, clean_mask]
        if cache is not None and cache.layers:
            before = zip(cache.layers[0], now, strict=True)
            now = [x if x is None else torch.cat([y, x], dim=1) for y, x in before]
        if update_cache:
            cache.layers[0] = now
        inputs, t, segments, positions, given, blocks, clean = (
            None if x is None else jnp.asarray(x.numpy()) for x in now
        )
        if inputs_embeds is not None:
            inputs = Noisy(inputs, inputs)
        layout = Layout(segments, positions, given, None, blocks, clean)
        logits = np.array(self._logits(inputs, t, layout))[:, -shape[1] :]
        logits[(logits == -np.inf).all(axis=-1)] = 0  # the oracle does not predict BOS
        return types.SimpleNamespace(logits=torch.from_numpy(logits))


def draw(model, given=None, **settings) -> np.ndarray:
    """Returns how often PyTorch draws each text of the joint distribution."""
    row = torch.full((JOINT.length + 1,), JOINT.vocabulary.mask_id)
    row[0] = JOINT.vocabulary.bos_id
    for place, symbol in (given or {}).items():
        row[place + 1] = symbol
    tokens = model.generate(row.repeat(ROWS, 1), max_new_tokens=0, seed=0, **settings)
    texts = tokens[:, 1:].numpy()
    assert (texts < JOINT.symbols).all(), "a hole is not filled with text"
    place_values = JOINT.symbols ** np.arange(JOINT.length)[::-1]
    return np.bincount(texts @ place_values, minlength=len(JOINT.texts))


def same_distribution(a, b) -> float:
    """Returns the p-value that two counts are of one distribution; rare texts are pooled."""
    rare = a + b < 10
    counts = np.stack([np.append(x[~rare], x[rare].sum()) for x in (a, b)])
    counts = counts[:, counts.sum(axis=0) > 0]
    return float(stats.chi2_contingency(counts).pvalue)


def pair(objective: str, schedule="linear", mask_share=0.0, head="logits"):
    """Returns (our objective, its exact denoiser, that denoiser as a PyTorch model)."""
    v = JOINT.vocabulary
    if objective == "masked":
        ours, denoise = Masked(v, SCHEDULES[schedule]), JOINT.masked_denoiser()
    elif objective == "autoregressive":
        ours, denoise = Autoregressive(v), next_token_oracle(JOINT)
    elif objective == "block":
        ours, denoise = Block(v, SCHEDULES[schedule], BlockConfig(size=2)), block_oracle(JOINT)
    elif objective == "uniform":
        ours = Uniform(v, SCHEDULES[schedule], mask_share)
        denoise = JOINT.leave_one_out_denoiser(SCHEDULES[schedule], mask_share)
    else:
        config = (
            GAUSSIAN
            if head == "logits"
            else GaussianConfig(**vars(GAUSSIAN) | {"head": head, "parameterisation": "v"})
        )
        ours = Gaussian(v, config, schedule)
        denoise = exact_gaussian_denoiser(JOINT, config, TABLE)
        g = vars(config) | {
            "schedule": schedule,
            "schedule_gamma_min": config.gamma_min,
            "schedule_gamma_max": config.gamma_max,
            "schedule_mass": None,
        }
        return ours, denoise, ExactModel(denoise, objective, gaussian=g)
    model = ExactModel(denoise, objective, schedule=schedule, mask_share=mask_share)
    return ours, denoise, model


@pytest.mark.parametrize(
    ("of", "given", "settings"),
    [
        (("masked",), None, {"steps": 2}),
        (
            ("masked", "cosine"),
            {0: 1},
            {"steps": 3, "timestep_spacing": "cosine", "temperature": 0.7, "guidance": 2.0},
        ),
        (
            ("masked", "polynomial"),
            {1: 2},
            {"steps": 2, "timestep_spacing": "quantile", "top_p": 0.8},
        ),
        (("masked",), None, {"steps": 2, "sampler": "confidence", "top_k": 2}),
        (("masked",), None, {"steps": 3, "sampler": "margin"}),
        (("masked",), None, {"steps": 2, "sampler": "entropy", "temperature": 1.5}),
        (("autoregressive",), {0: 1}, {"temperature": 0.7, "guidance": 1.0}),
        (("block",), None, {"steps": 2}),
        (("block", "cosine"), {1: 2}, {"steps": 1, "guidance": 0.5, "sampler": "confidence"}),
        (("uniform",), None, {"steps": 3}),
        (("uniform", "cosine", 0.3), {2: 0}, {"steps": 2, "guidance": 1.0, "temperature": 0.8}),
        (("uniform", "polynomial"), None, {"steps": 3, "sampler": "ddim", "eta": 0.4}),
        (("gaussian",), None, {"steps": 6}),
        (("gaussian", "cosine"), {0: 2}, {"steps": 5, "sampler": "ddim", "guidance": 1.0}),
        (
            ("gaussian", "sqrt", 0.0, "embedding"),
            {1: 1},
            {"steps": 5, "sampler": "ddim", "eta": 0.5, "guidance": 0.5},
        ),
        (
            ("gaussian", "linear"),
            None,
            {"steps": 4, "timestep_spacing": "quantile", "temperature": 0.7},
        ),
    ],
)
def test_the_same_distribution_as_jax(of, given, settings):
    objective, denoise, model = pair(*of)
    config = SamplingConfig(**{"temperature": 1.0, **settings})
    sampler = make_sampler(of[0], objective, config)
    expected = sample(JOINT, sampler, denoise, given, rows=ROWS)
    theirs = dict(settings)
    if "timestep_spacing" in theirs:
        theirs["grid"] = theirs.pop("timestep_spacing")
    if "guidance" in theirs:
        theirs["guidance_scale"] = theirs.pop("guidance")
    theirs = {"temperature": 1.0, **theirs}
    assert same_distribution(draw(model, given, **theirs), expected) > 1e-3
    guidance = theirs.get("guidance_scale", 0.0)
    other = {"temperature": theirs["temperature"] * 0.8, "guidance_scale": guidance + 0.7}
    # With other settings the test fails, so it can tell distributions apart.
    assert same_distribution(draw(model, given, **theirs | other), expected) < 1e-4


def test_rows_keep_their_layout():
    """Padding on either side, prompts of several lengths, holes inside, new tokens at the end."""
    v, holes = JOINT.vocabulary, JOINT.vocabulary.mask_id

    class Uniform(ExactModel):
        def __call__(self, input_ids, **more):
            return types.SimpleNamespace(logits=torch.zeros(*input_ids.shape, v.padded_size))

    model = Uniform(JOINT.masked_denoiser(), "masked")
    rows = [[v.bos_id, 1, holes], [v.pad_id, v.bos_id, 2]]
    tokens = torch.tensor(rows)
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    out = model.generate(tokens, attention_mask=mask, max_new_tokens=1, seed=0)
    assert out.shape == (2, 4) and out[0, :2].tolist() == rows[0][:2] and out[0, 2] != holes
    assert out[1, :3].tolist() == rows[1] and (out[:, 3] != holes).all()
    right = torch.tensor([rows[0], [v.bos_id, 2, v.pad_id]])
    out = model.generate(
        right, attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]), max_new_tokens=1, seed=0
    )
    assert out[1, :3].tolist() == right[1].tolist() and out[1, 3] != holes


def test_the_same_seed_gives_the_same_text():
    _, _, model = pair("masked")
    first, again, other = (
        model.generate(max_new_tokens=3, seed=seed, temperature=1.0).tolist() for seed in (1, 1, 5)
    )
    assert first == again and len(first[0]) == 4
    assert any(model.generate(max_new_tokens=3, seed=s).tolist() != first for s in range(5)), other


@pytest.mark.parametrize(
    ("of", "settings", "message"),
    [
        ("masked", {"sampler": "ddim"}, "sampler=ddim: use one of ancestral, confidence"),
        ("masked", {"foo": 1}, r"generate\(\) has no foo"),
        ("masked", {"steps": 0}, "steps=0 should be 1 or more"),
        ("masked", {"top_p": 0.0}, "top_p=0.0"),
        ("masked", {"temperature": float("inf")}, "temperature=inf should be 0 or more"),
        ("masked", {"guidance_scale": float("nan")}, "guidance_scale=nan should be 0 or more"),
        ("masked", {"max_new_tokens": 99}, "100 tokens do not fit the model's context of 16"),
        ("masked", {"input_ids": torch.tensor([[0, 1]])}, "should begin with bos_token_id"),
    ],
)
def test_invalid_settings_are_errors(of, settings, message):
    _, _, model = pair(of)
    with pytest.raises(ValueError, match=message):
        model.generate(**settings)


def test_left_to_right_cannot_fill_before_given_text():
    _, _, model = pair("autoregressive")
    v = JOINT.vocabulary
    with pytest.raises(ValueError, match="cannot fill holes before given text"):
        model.generate(torch.tensor([[v.bos_id, v.mask_id, 1]]), max_new_tokens=0)


def test_holes_after_eos_are_eos():
    """An EOS in a hole ends the text once all holes before it are filled."""
    v = JOINT.vocabulary

    class Ends(ExactModel):
        def __call__(self, input_ids, **more):
            logits = torch.zeros(*input_ids.shape, v.padded_size)
            logits[:, 2, v.eos_id] = 99.0
            logits[:, [1, 3], 0] = 99.0
            return types.SimpleNamespace(logits=logits)

    model = Ends(JOINT.masked_denoiser(), "masked")
    for sampler in ("ancestral", "confidence"):
        out = model.generate(max_new_tokens=3, steps=8, sampler=sampler, seed=0)
        assert out[0].tolist() == [v.bos_id, 0, v.eos_id, v.eos_id]
