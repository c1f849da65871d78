"""From a network's logits to the distribution that is drawn from: guidance, temperature, cuts."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser, Layout, Vocabulary, hide_prompts


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network predicts, after guidance, then temperature, then cuts, normalised.

    guidance w: (1+w) log p(. | prompt, class) - w log p(. | each given token the mask, class 0)
    (arXiv 2207.12598, with its w); 0 is the conditional model. temperature: 0 takes the likeliest.
    top_k: the so many likeliest symbols; 0, or more than there are: all. top_p: then the fewest
    likeliest that hold so much of what is left, at least one; 1: all. What is as likely as the
    last symbol that is kept is kept too.
    """

    vocabulary: Vocabulary
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 0.0

    def log_p(self, denoise: Denoiser, tokens_BxL, t_BxL, layout: Layout) -> jax.Array:
        """Returns log_p_BxLxV, in float32, of what `draw` draws from."""
        return self.cut(self.guided(denoise, tokens_BxL, t_BxL, layout))

    def guided(self, denoise: Denoiser, tokens_BxL, t_BxL, layout: Layout) -> jax.Array:
        """Returns log_p_BxLxV after guidance but before temperature and cuts, what no text holds at
        -inf. Both passes of guidance are one batch of 2B rows, the unconditional last."""
        bias_V = self.vocabulary.text_bias_V()[None, None]
        if not self.guidance:
            logits_BxLxV = denoise.logits(tokens_BxL, t_BxL, layout).astype(jnp.float32)
            return jax.nn.log_softmax(logits_BxLxV + bias_V)
        logits_2BxLxV = denoise.logits(*self.with_unconditional(tokens_BxL, t_BxL, layout))
        log_p_2BxLxV = jax.nn.log_softmax(logits_2BxLxV.astype(jnp.float32) + bias_V)
        given, without = jnp.split(log_p_2BxLxV, 2)
        # What has probability 0 given the prompt keeps it; -inf - -inf would be NaN.
        possible = given > -jnp.inf
        guided = jnp.where(possible, given + self.guidance * (given - without), -jnp.inf)
        return jax.nn.log_softmax(guided)

    def with_unconditional(self, tokens_BxL, t_BxL, layout: Layout):
        """Returns (tokens, t, layout) of 2B rows: those given, then these with prompts hidden."""
        every_B = jnp.ones(tokens_BxL.shape[0], bool)
        hidden_BxL, without = hide_prompts(tokens_BxL, layout, every_B, self.vocabulary.mask_id)
        return jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]),
            (tokens_BxL, t_BxL, layout), (hidden_BxL, t_BxL, without),
        )  # fmt: skip

    def cut(self, log_p: jax.Array) -> jax.Array:
        """Returns log p over the last axis at the temperature, cut to top_k and top_p, normalised.
        At temperature 0 it is returned as it is: its likeliest symbol is the same."""
        if self.temperature == 0:
            return log_p
        if self.temperature != 1:
            # The likeliest at 0 first, so that no temperature is too low for float32.
            likeliest = jnp.max(log_p, axis=-1, keepdims=True)
            log_p = jax.nn.log_softmax((log_p - likeliest) / self.temperature)
        if self.top_k:
            ranked, _ = jax.lax.top_k(log_p, min(self.top_k, log_p.shape[-1]))
            log_p = _keep(log_p, ranked[..., -1:])
        if self.top_p < 1:
            ranked = -jnp.sort(-log_p, axis=-1)
            p = jnp.exp(ranked)
            kept = jnp.cumsum(p, axis=-1) - p < self.top_p  # less than top_p before it
            log_p = _keep(log_p, jnp.min(ranked, axis=-1, keepdims=True, where=kept, initial=0.0))
        return log_p

    def draw(self, key, log_p_LxV) -> jax.Array:
        """Returns one symbol a place of a row, drawn from `log_p`; at temperature 0 the likeliest,
        of equals the first.

        mode="high": float32 Gumbel noise of the default mode never reaches symbols of small p
        (arXiv 2409.02908). But it takes the first half of its bits for one purpose and the second
        for another: each place has its own key, lest draws depend on how far the row is padded.
        """
        if self.temperature == 0:
            return jnp.argmax(log_p_LxV, axis=-1).astype(jnp.int32)

        def place(at, log_p_V):
            return jax.random.categorical(jax.random.fold_in(key, at), log_p_V, mode="high")

        drawn_L = jax.vmap(place)(jnp.arange(log_p_LxV.shape[0]), log_p_LxV)
        return drawn_L.astype(jnp.int32)


def _keep(log_p, least):
    """Returns log p, normalised, of what is not below `least`."""
    return jax.nn.log_softmax(jnp.where(log_p >= least, log_p, -jnp.inf))
