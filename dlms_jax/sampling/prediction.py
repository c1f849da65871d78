"""Turns logits into the distribution to draw from: guidance, temperature, top-k and top-p."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Vocabulary


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The distribution to draw from, after guidance, temperature and cuts.

    top_k and top_p also keep all tokens that are equal in probability to the last one kept.

    Attributes:
      vocabulary: the tokens.
      temperature: 0 takes the most probable token.
      top_k: keeps the k most probable tokens. 0: off.
      top_p: then keeps the smallest set of most probable tokens whose probabilities sum to top_p,
        at least one token. 1: off.
      guidance: the weight w of classifier-free guidance (arXiv 2207.12598):
        (1 + w) log p(. | prompt, class) - w log p(. | no prompt, no class). 0: off.
    """

    vocabulary: Vocabulary
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 0.0

    def log_p(self, logits_BxLxV, without_BxLxV=None) -> jax.Array:
        """Returns log_p_BxLxV, in float32, for `draw`; the arguments are those of `guided`."""
        return self.cut(self.guided(logits_BxLxV, without_BxLxV))

    def guided(self, logits_BxLxV, without_BxLxV=None) -> jax.Array:
        """Returns log_p_BxLxV, in float32, after guidance but before temperature and cuts.

        Args:
          logits_BxLxV: the network's logits with the prompt and the class.
          without_BxLxV: the logits of the unconditional pass. None: no guidance.
        """
        given = self._normalised(logits_BxLxV)
        if without_BxLxV is None:
            return given
        without = self._normalised(without_BxLxV)
        # A token of probability 0 given the prompt stays at 0; -inf - -inf would be NaN.
        possible = given > -jnp.inf
        guided = jnp.where(possible, given + self.guidance * (given - without), -jnp.inf)
        return jax.nn.log_softmax(guided)

    def _normalised(self, logits_BxLxV):
        """Returns log p of the logits, with -inf for tokens that cannot occur in text."""
        bias_V = self.vocabulary.text_bias_V()[None, None]
        return jax.nn.log_softmax(logits_BxLxV.astype(jnp.float32) + bias_V)

    def cut(self, log_p: jax.Array) -> jax.Array:
        """Returns log p over the last axis after temperature, top_k and top_p, normalized.

        At temperature 0 it returns its input, of which `draw` takes the most probable token.
        """
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
            kept = (
                jnp.cumsum(p, axis=-1) - p < self.top_p
            )  # the tokens before it sum to less than top_p
            log_p = _keep(log_p, jnp.min(ranked, axis=-1, keepdims=True, where=kept, initial=0.0))
        return log_p

    def draw(self, key, log_p_LxV) -> jax.Array:
        """Returns tokens_L of one row drawn from log_p_LxV.

        At temperature 0 it takes the most probable token, the first one among equals.

        mode="high" is needed because the default float32 Gumbel noise never reaches tokens of small
        probability (arXiv 2409.02908). Its draws depend on the size of the call, so each position
        has its own key. That makes them independent of padding.
        """
        if self.temperature == 0:
            return jnp.argmax(log_p_LxV, axis=-1).astype(jnp.int32)

        def place(at, log_p_V):
            return jax.random.categorical(jax.random.fold_in(key, at), log_p_V, mode="high")

        drawn_L = jax.vmap(place)(jnp.arange(log_p_LxV.shape[0]), log_p_LxV)
        return drawn_L.astype(jnp.int32)


def _keep(log_p, least):
    """Returns log p without the tokens below `least`, normalized."""
    return jax.nn.log_softmax(jnp.where(log_p >= least, log_p, -jnp.inf))
