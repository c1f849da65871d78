"""Parameters of what the Transformer and the U-Net have in common, by formula."""

from dlms_jax.config import Config, GaussianConfig, ModelConfig, traits_of
from dlms_jax.models.conditioning import FEATURES


def gaussian_of(config: Config) -> GaussianConfig | None:
    """Returns the settings of Gaussian diffusion; None where the network reads tokens."""
    return config.gaussian if traits_of(config).inputs == "embeddings" else None


def attention_matrices(c: ModelConfig) -> int:
    """Returns the parameters of the matrices of one attention: of queries, keys, values, output."""
    return c.width * c.per_head * (2 * c.num_heads + 2 * c.kv_heads)


def feed_forward_matrices(c: ModelConfig, active: bool) -> int:
    """Returns those of a layer's MLP: of its experts and their router, where it has any. active: of
    the experts only as many as a token goes through."""
    if not c.experts:
        return 3 * c.width * c.hidden
    number = c.experts_per_token if active else c.experts
    return 3 * c.width * c.expert_hidden * number + c.width * c.experts


def conditioning_matrices(c: ModelConfig) -> int:
    """Returns those of Conditioning's matrices, and of the final norm's scale and shift."""
    if c.conditioning == "none":
        return 0
    return c.conditioning_size * (FEATURES + c.conditioning_size + 2 * c.width)


def conditioning_vectors(c: ModelConfig) -> int:
    """Returns those of their biases, and of the classes' embeddings."""
    if c.conditioning == "none":
        return 0
    classes = c.classes + 1 if c.classes else 0
    return (2 + classes) * c.conditioning_size + 2 * c.width


def input_parameters(c: ModelConfig, gaussian: GaussianConfig, vocab_size: int) -> int:
    """Returns those of what reads noisy embeddings, and of the table of clean ones."""
    return input_matrices(c, gaussian) + c.width + vocab_size * gaussian.embedding_size


def input_matrices(c: ModelConfig, gaussian: GaussianConfig) -> int:
    """Returns those of what reads noisy embeddings and, in self-conditioning, an estimate."""
    return c.width * gaussian.embedding_size * (1 + gaussian.self_conditioning)
