"""With weights and computation in bfloat16, both frameworks are equally close to float32."""

import dataclasses

from conversion.exported import odd_tokenizer, random_checkpoint
from conversion.test_round_trip import ARCHITECTURES
import numpy as np
import pytest
import torch

from dlms_jax.conversion.export import export
from dlms_jax.conversion.parity import Native, Ours
from dlms_jax.conversion.probes import cases

# Largest difference from float32 with the same weights, relative to the largest logit. bfloat16 has
# 7 bits of fraction and is rounded some tens of times. Measured over all architectures: 0.014 and
# 0.015.
BOUND = 0.03
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES if name != "masked"]


@pytest.mark.parametrize("name", ["masked", *SLOW])
def test_logits_in_bfloat16(name, tmp_path):
    source = random_checkpoint(tmp_path / "run", odd_tokenizer(), **ARCHITECTURES[name])
    export(source, tmp_path / "out", dtype="bfloat16", verify=False)
    model = dataclasses.replace(source.config.model, dtype="bfloat16")
    exact = Ours(source.config, source)
    ours = Ours(dataclasses.replace(source.config, model=model), source)
    with torch.no_grad():
        theirs = Native(tmp_path / "out")
        theirs.model.to(torch.bfloat16)
        for _, inputs, t_BxL, rows in cases(source.config, source.tokenizer, source.tokenizer.size):
            expected = np.asarray(exact.logits(inputs, t_BxL, rows))
            valid_BxL = rows.segments_BxL > 0
            for framework in (ours, theirs):
                found = np.asarray(framework.logits(inputs, t_BxL, rows))
                columns = min(found.shape[-1], expected.shape[-1])
                apart = np.abs(found[..., :columns] - expected[..., :columns])[valid_BxL]
                share_T = apart.max(axis=-1) / np.abs(expected[valid_BxL]).max()
                assert share_T.max() > 1e-4  # not float32
                assert (share_T >= BOUND).sum() <= rerouted(name, len(share_T))


def rerouted(name: str, tokens: int) -> int:
    """Returns how many tokens may go to other experts than in float32, where two nearly tie: 2% to
    4% were measured. Their logits are those of another path through the network."""
    return 1 + tokens // 20 if "experts" in name else 0
