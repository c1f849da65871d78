"""A masked-diffusion train step as a newcomer to Flax would write it, for comparison with ours.

It has plain Linen modules, a loop over the layers, softmax attention with an additive mask, full
logits, the loss of LLaDA (arXiv 2502.09992, algorithm 1), AdamW after clipping, and one jitted step
that donates its state. It is correct and it learns. Unlike ours it does not have: packed documents
that do not attend to one another, corruption that is independent of devices and accumulation, a BOS
that is never masked, predictions without special tokens, skipping of steps that are not finite,
several devices.
"""

from flax import linen as nn
from flax.training.train_state import TrainState
import jax
import jax.numpy as jnp
import optax


class Block(nn.Module):
    """x + attention(norm(x)), x + mlp(norm(x))."""

    num_heads: int
    head_size: int
    feed_forward: int
    dtype: str

    @nn.compact
    def __call__(self, x_BxLxD, bias_Bx1x1xL):
        batch, length, width = x_BxLxD.shape

        def dense(size, name):
            return nn.Dense(size, dtype=self.dtype, name=name)

        h_BxLxD = nn.LayerNorm(dtype=self.dtype)(x_BxLxD)
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK = (
            dense(self.num_heads * self.head_size, name)(h_BxLxD).reshape(
                batch, length, self.num_heads, self.head_size
            )
            for name in ("query", "key", "value")
        )
        scores_BxHxLxL = jnp.einsum("bqhk,bshk->bhqs", q_BxLxHxK, k_BxLxHxK)
        scores_BxHxLxL = scores_BxHxLxL / self.head_size**0.5 + bias_Bx1x1xL
        y_BxLxHxK = jnp.einsum("bhqs,bshk->bqhk", nn.softmax(scores_BxHxLxL), v_BxLxHxK)
        x_BxLxD += dense(width, "out")(y_BxLxHxK.reshape(batch, length, -1))
        h_BxLxD = nn.LayerNorm(dtype=self.dtype)(x_BxLxD)
        h_BxLxF = nn.gelu(dense(self.feed_forward, "up")(h_BxLxD))
        return x_BxLxD + dense(width, "down")(h_BxLxF)


class Denoiser(nn.Module):
    """tokens_BxL -> logits_BxLxV in float32, with full attention except to padding."""

    vocabulary: int
    width: int
    num_layers: int
    num_heads: int
    head_size: int
    feed_forward: int
    dtype: str
    pad_id: int

    @nn.compact
    def __call__(self, tokens_BxL):
        x_BxLxD = nn.Embed(self.vocabulary, self.width, dtype=self.dtype)(tokens_BxL)
        shape = (1, tokens_BxL.shape[1], self.width)
        positions_1xLxD = self.param("positions", nn.initializers.normal(0.02), shape)
        x_BxLxD += positions_1xLxD.astype(self.dtype)
        bias_BxL = jnp.where(tokens_BxL == self.pad_id, -1e9, 0.0).astype(self.dtype)
        for _ in range(self.num_layers):
            block = Block(self.num_heads, self.head_size, self.feed_forward, self.dtype)
            x_BxLxD = block(x_BxLxD, bias_BxL[:, None, None, :])
        h_BxLxD = nn.LayerNorm(dtype=self.dtype)(x_BxLxD)
        logits_BxLxV = nn.Dense(self.vocabulary, use_bias=False, dtype=self.dtype)(h_BxLxD)
        return logits_BxLxV.astype(jnp.float32)


def corrupt(tokens_BxL, key, mask_id: int):
    """Returns (inputs_BxL, masked_BxL, t_B); t_B is the probability of a mask in each row."""
    time_key, mask_key = jax.random.split(key)
    t_B = jax.random.uniform(time_key, (len(tokens_BxL),), minval=1e-3)
    masked_BxL = jax.random.uniform(mask_key, tokens_BxL.shape) < t_B[:, None]
    return jnp.where(masked_BxL, mask_id, tokens_BxL), masked_BxL, t_B


def masked_loss(logits_BxLxV, tokens_BxL, masked_BxL, t_B):
    """Returns the bound in nats per token: -log p of masked tokens with the weight 1/t."""
    nll_BxL = optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, tokens_BxL)
    return jnp.mean(jnp.where(masked_BxL, nll_BxL / t_B[:, None], 0.0))


def make_state(model: Denoiser, length: int, key) -> TrainState:
    """Returns the state at step 0, for rows of `length` tokens."""

    def begin(key):
        params = model.init(key, jnp.zeros((1, length), jnp.int32))["params"]
        adamw = optax.adamw(3e-4, b1=0.9, b2=0.95, weight_decay=0.1)
        tx = optax.chain(optax.clip_by_global_norm(1.0), adamw)
        return TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    return jax.jit(begin)(key)


def make_step(mask_id: int):
    """Returns a jitted step(state, tokens_BxL, key) -> (state, loss), which donates the state."""

    def step(state: TrainState, tokens_BxL, key):
        key = jax.random.fold_in(key, state.step)
        inputs_BxL, masked_BxL, t_B = corrupt(tokens_BxL, key, mask_id)

        def loss(params):
            logits_BxLxV = state.apply_fn({"params": params}, inputs_BxL)
            return masked_loss(logits_BxLxV, tokens_BxL, masked_BxL, t_B)

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    return jax.jit(step, donate_argnums=0)
