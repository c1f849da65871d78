"""Numbers of parameters of the parts that the Transformer and the U-Net share, by formula."""

from dlms_jax.config import Config, GaussianConfig, ModelConfig, traits_of
from dlms_jax.models.conditioning import FEATURES


def gaussian_of(config: Config) -> GaussianConfig | None:
    """Returns the settings of Gaussian diffusion; None if the network reads tokens."""
    return config.gaussian if traits_of(config).inputs == "embeddings" else None


def attention_matrices(c: ModelConfig) -> int:
    """Returns the number of parameters of the four matrices of an attention."""
    return c.width * c.per_head * (2 * c.num_heads + 2 * c.kv_heads)


def feed_forward_matrices(c: ModelConfig, active: bool) -> int:
    """Returns the number of parameters of a layer's MLP, or of its experts and their router.

    Args:
      c: the sizes.
      active: count only as many experts as a token uses.
    """
    if not c.experts:
        return 3 * c.width * c.hidden
    number = c.experts_per_token if active else c.experts
    return 3 * c.width * c.expert_hidden * number + c.width * c.experts


def conditioning_matrices(c: ModelConfig) -> int:
    """Returns the number of parameters of the matrices of Conditioning and the final modulation."""
    if c.conditioning == "none":
        return 0
    return c.conditioning_size * (FEATURES + c.conditioning_size + 2 * c.width)


def conditioning_vectors(c: ModelConfig) -> int:
    """Returns the number of parameters of the biases of these and of the class embeddings."""
    if c.conditioning == "none":
        return 0
    classes = c.classes + 1 if c.classes else 0
    return (2 + classes) * c.conditioning_size + 2 * c.width


def input_parameters(c: ModelConfig, gaussian: GaussianConfig, vocab_size: int) -> int:
    """Returns the number of parameters of NoisyInputs, without its noise schedule."""
    return input_matrices(c, gaussian) + c.width + vocab_size * gaussian.embedding_size


def input_matrices(c: ModelConfig, gaussian: GaussianConfig) -> int:
    """Returns the number of parameters of the matrices of NoisyInputs, without its table."""
    return c.width * gaussian.embedding_size * (1 + gaussian.self_conditioning)
