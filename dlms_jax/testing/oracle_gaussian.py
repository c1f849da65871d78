"""Oracles of Gaussian diffusion: the exact denoiser of a joint distribution, by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.config import GaussianConfig
from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.gaussian import from_x0, logit_bias, mean_embedding
from dlms_jax.testing.oracle import Joint

_CLEAN = 1e5  # exp(-gamma) of what is given: its embedding names the symbol


def random_table(rows: int, size: int, seed: int = 0) -> jax.Array:
    """Returns table_VxE of rows of length 1, in random directions."""
    table_VxE = np.random.default_rng(seed).normal(size=(rows, size))
    return jnp.asarray(table_VxE / np.linalg.norm(table_VxE, axis=1, keepdims=True), jnp.float32)


def exact_gaussian_denoiser(joint: Joint, config: GaussianConfig, table_VxE, **others) -> Denoiser:
    """Returns the network that is exact for rows of BOS and a text, some places of it given (clean,
    and known by layout.prompt_mask_BxL), the others at the level of noise of their t.

    head="logits": log p(x_i | all of z but z_i), so that the logit bias makes p(x_i | z) of it.
    head="embedding": the posterior mean, as config.parameterisation has it.
    """
    others_LxL = 1 - np.eye(joint.length, dtype=np.float32)
    one_hot_TxLxS = jnp.asarray(np.eye(joint.symbols, dtype=np.float32)[joint.texts])
    table_SxE = table_VxE[: joint.symbols]
    log_p_T = jnp.log(jnp.asarray(joint.p, jnp.float32))

    def logits(noisy, t_BxL, layout):
        z_BxLxE = noisy.z_BxLxE[:, 1:]
        gamma_BxL = config.gamma_min + (config.gamma_max - config.gamma_min) * t_BxL[:, 1:]
        # log p(z_j | symbol at j) of every place and symbol, up to what symbols share.
        seen_BxLxS = logit_bias(z_BxLxE, gamma_BxL, table_SxE)
        if layout.prompt_mask_BxL is not None:
            clean_BxLxS = _CLEAN * jnp.einsum("ble,se->bls", z_BxLxE, table_SxE)
            seen_BxLxS = jnp.where(layout.prompt_mask_BxL[:, 1:, None], clean_BxLxS, seen_BxLxS)
        seen_BxTxL = jnp.einsum("bls,tls->btl", seen_BxLxS, one_hot_TxLxS, precision="highest")
        # Of each text, by the place that is left out.
        weight_BxTxL = jnp.einsum("btl,lm->btm", seen_BxTxL, others_LxL, precision="highest")
        weight_BxTxL += log_p_T[None, :, None]
        p_BxTxL = jnp.exp(weight_BxTxL - jnp.max(weight_BxTxL, axis=1, keepdims=True))
        log_p_BxLxS = jnp.log(jnp.einsum("btl,tls->bls", p_BxTxL, one_hot_TxLxS))
        if config.head == "embedding":
            log_p_BxLxS = jax.nn.log_softmax(log_p_BxLxS + seen_BxLxS)
            x_hat_BxLxE = mean_embedding(log_p_BxLxS, table_SxE)
            output = from_x0(x_hat_BxLxE, z_BxLxE, gamma_BxL, config.parameterisation)
        else:
            no_text = ((0, 0), (0, 0), (0, joint.vocabulary.padded_size - joint.symbols))
            output = jnp.pad(log_p_BxLxS, no_text, constant_values=-jnp.inf)
        return jnp.pad(output, ((0, 0), (1, 0), (0, 0)))

    return Denoiser.from_logits(logits, table_VxE=table_VxE, **others)
