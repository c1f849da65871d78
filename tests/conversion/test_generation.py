"""What a row of `generate` depends on: its prompt, the seed and its sample number."""

from conversion.exported import random_checkpoint
import pytest
import torch
import transformers

from dlms_jax.conversion.export import export
from dlms_jax.conversion.pytorch.canvas_dlms import TokenSampler, fold
from dlms_jax.conversion.pytorch.modeling_dlms import DLMForDiffusion

OBJECTIVES = {
    "masked": {},
    "block": {"objective__name": "block", "block__size": 4, "model__conditioning": "film"},
    "autoregressive": {"objective__name": "autoregressive"},
    "uniform": {"objective__name": "uniform", "objective__mask_share": 0.2},
    "gaussian": {"objective__name": "gaussian", "gaussian__embedding_size": 16},
}
PROMPTS = ["", "ab", "The <|mask|><|mask|>", "ab", "a longer text"]


@pytest.fixture(scope="module", params=OBJECTIVES)
def loaded(request, tmp_path_factory):
    """Returns (the model, texts -> the inputs of `generate`)."""
    folder = tmp_path_factory.mktemp("out")
    source = random_checkpoint(folder / "run", **OBJECTIVES[request.param])
    export(source, folder / "out", verify=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "out")

    def encode(texts, side="left"):
        return tokenizer(texts, return_tensors="pt", padding=True, padding_side=side)

    return DLMForDiffusion.from_pretrained(folder / "out").eval(), encode


def rows(loaded, texts, side="left", **settings):
    """Returns the tokens of each row without padding."""
    model, encode = loaded
    inputs = encode(texts, side)
    new = settings.setdefault("max_new_tokens", 7)
    tokens = model.generate(**inputs, steps=3, **settings)
    kept = torch.nn.functional.pad(inputs.attention_mask, (0, new), value=1).bool()
    return [row[mask].tolist() for row, mask in zip(tokens, kept, strict=True)]


def prompts(loaded):
    if loaded[0].config.objective == "autoregressive":
        return [text.replace("<|mask|>", "") for text in PROMPTS]
    return PROMPTS


@pytest.mark.parametrize("settings", [{}, {"guidance_scale": 0.5, "top_k": 9}])
def test_a_row_does_not_depend_on_the_others_or_on_padding(loaded, settings):
    texts = prompts(loaded)
    together = rows(loaded, texts, temperature=0.9, seed=3, **settings)
    for i in (0, 1, 2, 4):
        assert rows(loaded, texts[i : i + 1], temperature=0.9, seed=3, **settings) == [together[i]]
    assert rows(loaded, texts, "right", temperature=0.9, seed=3, **settings) == together
    assert together[3] != together[1]  # the second sample of the same prompt
    assert rows(loaded, ["ab"] * 3, temperature=0.9, seed=3, **settings)[:2] == together[1::2]
    assert rows(loaded, texts, temperature=0.9, seed=4, **settings) != together


@pytest.mark.parametrize("sampler", ["ancestral", "confidence", "ddim"])
def test_at_temperature_0_nothing_depends_on_the_call(loaded, sampler):
    model, texts = loaded[0], prompts(loaded)
    try:
        first = rows(loaded, texts, temperature=0, sampler=sampler)
    except ValueError as error:
        assert f"sampler={sampler}" in str(error)
        return
    torch.manual_seed(1)
    assert rows(loaded, texts, temperature=0, sampler=sampler) == first
    assert rows(loaded, texts, temperature=0, sampler=sampler, seed=0) == first
    assert rows(loaded, texts[4:], temperature=0, sampler=sampler) == first[4:]
    if model.config.objective in ("uniform", "gaussian"):  # it starts from noise
        assert rows(loaded, texts, temperature=0, sampler=sampler, seed=1) != first


def test_without_a_seed_it_draws_one_from_torch(loaded):
    texts, found = prompts(loaded), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found += [rows(loaded, texts, temperature=0.9) for _ in range(2)]
    assert found[:2] == found[2:4] and found[0] != found[1] and found[4] not in found[:2]


def test_holes_after_the_first_eos_are_eos_and_what_is_before_does_not_change(loaded):
    model, encode = loaded
    inputs = encode(prompts(loaded)[:2] * 8)
    length, found = inputs.input_ids.shape[1], []
    eos = model.config.eos_token_id
    for ends in (model.config.pad_token_id, None):  # no text contains the first
        model.config.eos_token_id = int(found[0][0, 0]) if ends is None else ends
        tokens = model.generate(**inputs, steps=3, temperature=0.9, seed=0, max_new_tokens=9)
        found.append(tokens[:, length:])
    ends, model.config.eos_token_id = model.config.eos_token_id, eos
    full, ended = found
    after = (ended == ends).cumsum(dim=1) > 0
    assert (ended[after] == ends).all() and after[0].all() and not after.all()
    if model.config.objective not in ("masked", "block"):  # whose later steps read the EOS
        assert torch.equal(ended[~after], full[~after])


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_seeds_out_of_range_are_errors(loaded, seed):
    with pytest.raises(ValueError, match=f"seed={seed} should be from 0 to 4294967295"):
        rows(loaded, ["a"], seed=seed)
    rows(loaded, ["a"], seed=2**32 - 1)


def test_classes_that_the_model_lacks_are_errors(loaded):
    with pytest.raises(ValueError, match=r"class_ids should be from 0 \(none\) to 0"):
        rows(loaded, ["a"], class_ids=torch.tensor([1]))


def test_keys_are_those_of_splitmix64():
    """The first outputs for the seed 1234567, as its authors' program gives them."""
    expected = [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
        16408922859458223821,
    ]  # fmt: skip
    found = fold(torch.tensor(1234567), torch.arange(5))
    assert [int(x) % 2**64 for x in found] == expected


def test_rare_tokens_occur_at_their_rate_and_impossible_ones_never():
    log_p = torch.tensor([1e-6, 0.0, 1 - 2e-6, 0.0, 1e-6]).log()
    sampler = TokenSampler((), 1.0, 0, 1.0, 0.0, torch.arange(2000))
    drawn = sampler.draw(log_p.expand(2000, 5000, 5), use=0)
    counts = torch.bincount(drawn.flatten(), minlength=5).tolist()
    assert counts[1] == counts[3] == 0
    assert all(0 < counts[i] < 30 for i in (0, 4))  # 10 are expected of 10 million


def test_normal_numbers():
    from scipy import stats

    sampler = TokenSampler((), 1.0, 0, 1.0, 0.0, torch.arange(500))
    z_BxLxE = sampler.at(2).normal(8, 0, 16)
    assert z_BxLxE.shape == (500, 8, 16)
    assert stats.kstest(z_BxLxE.flatten().numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(z_BxLxE.reshape(500, -1).T) - torch.eye(128)
    assert correlation.abs().max() < 0.25  # 5.6 standard errors
