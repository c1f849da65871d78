"""The base class of the networks: inputs, conditioning, the final norm and the head."""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from dlms_jax.config import GaussianConfig, ModelConfig
from dlms_jax.models.attention import attend
from dlms_jax.models.conditioning import Conditioning, Modulation
from dlms_jax.models.inputs import Head, Inputs, NoisyInputs, output_size, project
from dlms_jax.models.layers import RMSNorm
from dlms_jax.models.moe import expert_outputs


class Network(nn.Module):
    """The base class of the networks. A subclass has the layers and runs them in `features`.

    The network does not depend on a mesh: the three functions below adapt it to one.

    Attributes:
      config: the sizes.
      vocab_size: the padded size of the vocabulary.
      constrain: pins the sharding of x_BxLxD (parallel/mesh.py).
      gaussian: the settings of Gaussian diffusion; None if the inputs are tokens.
      schedule_size: the number of parameters of Gaussian diffusion's noise schedule.
      attend: the attention kernel (denoiser/attention_kernels.py).
      outputs: computes the experts, possibly on several devices (parallel/experts.py).
    """

    config: ModelConfig
    vocab_size: int
    constrain: Callable = lambda x, whole=False: x
    gaussian: GaussianConfig | None = None
    schedule_size: int = 0
    attend: Callable = attend
    outputs: Callable = expert_outputs

    def setup(self):
        c = self.config
        if self.gaussian is None:
            self.embed = Inputs(c, self.vocab_size)
        else:
            self.embed = NoisyInputs(c, self.gaussian, self.vocab_size, self.schedule_size)
        self.conditioning = Conditioning(c)
        self.final_norm = RMSNorm(c.norm_epsilon, jnp.dtype(c.dtype))
        self.final_modulation = Modulation(c, gated=False)
        if self.gaussian is not None or not c.tie_embeddings:
            self.lm_head = Head(output_size(self.vocab_size, self.gaussian))

    def __call__(self, inputs, t_BxL, layout, attention: str, **how) -> jax.Array:
        """Returns logits_BxLxV in float32 (vector_BxLxE if gaussian.head is "embedding")."""
        return self.project(self.features(inputs, t_BxL, layout, attention, **how))

    def finish(self, x_BxLxD, c_BxLxC) -> jax.Array:
        """Returns h_BxLxD, the input of the head, from the output of the last layer."""
        h_BxLxD = self.final_norm(x_BxLxD)
        if c_BxLxC is None:
            return h_BxLxD
        scale, shift, _ = self.final_modulation(c_BxLxC)
        return h_BxLxD * scale + shift

    def project(self, h_BxLxD) -> jax.Array:
        """Returns the output of the head."""
        if hasattr(self, "lm_head"):
            kernel_DxV = self.lm_head(h_BxLxD.shape[-1])
        else:
            kernel_DxV = self.embed.embedding.T
        return project(h_BxLxD, kernel_DxV)
