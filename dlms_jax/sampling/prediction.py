"""From a network's logits to the distribution that is drawn from: guidance, temperature, cuts."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Vocabulary


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The distribution that a network's logits give after guidance, temperature and cuts.

    guidance w: (1+w) log p(. | prompt, class) - w log p(. | no prompt, no class) (arXiv 2207.12598,
    with its w); 0: the conditional model. temperature: 0 takes the most probable symbol. top_k:
    keeps the k most probable symbols (0: off). top_p: then keeps the fewest most probable symbols
    whose probabilities sum to top_p, at least one (1: off). Symbols as probable as the last one
    that is kept are kept too.
    """

    vocabulary: Vocabulary
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 0.0

    def log_p(self, logits_BxLxV, without_BxLxV=None) -> jax.Array:
        """Returns log_p_BxLxV, in float32, that `draw` draws from."""
        return self.cut(self.guided(logits_BxLxV, without_BxLxV))

    def guided(self, logits_BxLxV, without_BxLxV=None) -> jax.Array:
        """Returns log_p_BxLxV, in float32, after guidance but before temperature and cuts.

        Args:
            logits_BxLxV: the network's, given the prompt and the class.
            without_BxLxV: those of the unconditional pass; None: no guidance.
        """
        given = self._normalised(logits_BxLxV)
        if without_BxLxV is None:
            return given
        without = self._normalised(without_BxLxV)
        # A symbol of probability 0 given the prompt keeps it; -inf - -inf would be NaN.
        possible = given > -jnp.inf
        guided = jnp.where(possible, given + self.guidance * (given - without), -jnp.inf)
        return jax.nn.log_softmax(guided)

    def _normalised(self, logits_BxLxV):
        """Returns log p of the logits, -inf for symbols that no text holds."""
        bias_V = self.vocabulary.text_bias_V()[None, None]
        return jax.nn.log_softmax(logits_BxLxV.astype(jnp.float32) + bias_V)

    def cut(self, log_p: jax.Array) -> jax.Array:
        """Returns log p over the last axis at the temperature, cut to top_k and top_p, normalised.
        Temperature 0 leaves it as it is: `draw` takes the most probable symbol."""
        if self.temperature == 0:
            return log_p
        if self.temperature != 1:
            # With the maximum at 0 no temperature is too low for float32.
            maximum = jnp.max(log_p, axis=-1, keepdims=True)
            log_p = jax.nn.log_softmax((log_p - maximum) / self.temperature)
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
        """Returns one symbol for each place of a row, drawn from `log_p`; at temperature 0 the most
        probable, the first of equals.

        mode="high": float32 Gumbel noise of the default mode never reaches symbols of small p
        (arXiv 2409.02908). It splits its random bits in two halves, so that the draws of one call
        depend on its size; with a key for each place they do not depend on the padding.
        """
        if self.temperature == 0:
            return jnp.argmax(log_p_LxV, axis=-1).astype(jnp.int32)

        def place(at, log_p_V):
            return jax.random.categorical(jax.random.fold_in(key, at), log_p_V, mode="high")

        drawn_L = jax.vmap(place)(jnp.arange(log_p_LxV.shape[0]), log_p_LxV)
        return drawn_L.astype(jnp.int32)


def _keep(log_p, least):
    """Returns log p without the symbols below `least`, normalised."""
    return jax.nn.log_softmax(jnp.where(log_p >= least, log_p, -jnp.inf))
