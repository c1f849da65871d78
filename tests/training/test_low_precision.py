"""A train step of quantised products: the same on every mesh; a run may begin or end with it."""

import jax
import numpy as np
import pytest
from training.test_step import MESHES, after, assert_same_training

from dlms_jax.errors import UserError
from dlms_jax.runtime.same_run import check_same_run
from dlms_jax.testing import small_config


@pytest.mark.parametrize("quantization", ["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_training_is_the_same_on_a_mixed_mesh_and_accumulated(quantization):
    """Split by rows, by what is added up, and by outputs; a scale is of a token or of a column."""
    one = after(2, model__quantization=quantization)
    mixed = after(
        2, MESHES["mixed"], model__quantization=quantization, training__accumulation_steps=2
    )
    assert_same_training(mixed, one)
    for a, b in zip(jax.tree.leaves(mixed[0]), jax.tree.leaves(one[0]), strict=True):
        assert np.isclose(a, b, rtol=1e-3, atol=2e-5).mean() > 0.999  # without int8: 0.6 to 1


def test_a_run_may_go_on_with_another_quantization(tmp_path):
    saved = {"config": small_config().to_dict()}
    check_same_run(
        small_config(model__quantization="int8", model__remat="offload"), saved, tmp_path
    )
    with pytest.raises(UserError, match="config.model.width was 32, is 64"):
        check_same_run(small_config(model__width=64), saved, tmp_path)
