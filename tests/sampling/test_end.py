"""Every sampler ends a row at its first EOS in a hole: the holes after it hold EOS."""

import dataclasses

import jax
import numpy as np
import pytest
from sampling.chains import fill
from sampling.sequential import mixed_canvases
from sampling.test_rows import JOINT, NETWORKS

from dlms_jax.config import SamplingConfig
from dlms_jax.sampling import make_sampler
from dlms_jax.sampling.processes import gaussian, remasking, uniform

EOS = 2  # a symbol of the joint distribution, so that rows end at any place
CASES = [  # and the module of a sampler that ends rows only after its last step
    ("masked", "ancestral", None),
    ("masked", "remdm_rescale", remasking),
    ("block", "remdm_rescale", None),
    ("uniform", "ancestral", uniform),
    ("gaussian", "ddim", gaussian),
    ("autoregressive", "ancestral", None),
]


@pytest.mark.parametrize(("name", "kind", "module"), CASES)
def test_holes_after_the_first_eos_hold_eos(name, kind, module, monkeypatch):
    objective, denoise = NETWORKS[name]
    vocabulary = dataclasses.replace(objective.vocabulary, eos_id=EOS)
    sampler = make_sampler(
        name,
        dataclasses.replace(objective, vocabulary=vocabulary),
        SamplingConfig(sampler=kind, steps=4, eta=0.4, temperature=1.0),
    )
    given = [{}, {0: EOS}, {} if name == "autoregressive" else {1: EOS}]  # none of these ends a row
    canvas = mixed_canvases(JOINT, given, 32)
    keys_B = jax.random.split(jax.random.key(0), len(canvas.tokens_BxL))
    tokens_BxL = fill(sampler, denoise, canvas, keys_B)

    holes_BxL = np.asarray(canvas.holes_BxL)
    ends_BxL = holes_BxL & (tokens_BxL == EOS)
    after_BxL = holes_BxL & (np.cumsum(ends_BxL, axis=1) > 0)
    assert (after_BxL & ~ends_BxL).sum() == 0
    assert (after_BxL.sum(axis=1) > 1).any() and (~after_BxL.any(axis=1)).any()
    assert not (tokens_BxL == vocabulary.mask_id).any()
    given_BxL = np.asarray(canvas.tokens_BxL)
    np.testing.assert_array_equal(tokens_BxL[~holes_BxL], given_BxL[~holes_BxL])
    if module:  # what is before the end does not depend on it
        monkeypatch.setattr(module, "end_at_eos", lambda tokens_BxL, *_: tokens_BxL)
        full_BxL = fill(sampler, denoise, canvas, keys_B)
        np.testing.assert_array_equal(tokens_BxL[~after_BxL], full_BxL[~after_BxL])
        assert (tokens_BxL != full_BxL).any()
