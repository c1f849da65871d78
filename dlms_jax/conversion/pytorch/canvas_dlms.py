"""What the samplers work on: rows with holes to fill, and draws from the model's predictions."""

import dataclasses

import torch
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Rows of tokens with holes. Each row begins at column 0 and is padded on the right.

    Attributes:
        tokens_BxL: the tokens; a hole that is not filled yet has the mask token.
        holes_BxL: True at the positions to fill.
        segments_BxL: 1 at tokens, 0 at padding.
        prompt_mask_BxL: True at given tokens, except BOS.
        class_B: the class of each row; 0 for none.
        mask_id: id of the mask token.
        eos_id: id of the token that ends a text.
    """

    tokens_BxL: torch.Tensor
    holes_BxL: torch.Tensor
    segments_BxL: torch.Tensor
    prompt_mask_BxL: torch.Tensor
    class_B: torch.Tensor
    mask_id: int
    eos_id: int

    @property
    def masked_BxL(self):
        """True at holes that are not filled yet."""
        return self.holes_BxL & (self.tokens_BxL == self.mask_id)

    @property
    def positions_BxL(self):
        """The position of each token, from 0; 0 at padding."""
        position_L = torch.arange(self.tokens_BxL.shape[1], device=self.tokens_BxL.device)
        return position_L * (self.segments_BxL > 0)

    def columns(self, start, end):
        """Returns the columns from `start` to before `end` as a Canvas."""
        names = ("tokens_BxL", "holes_BxL", "segments_BxL", "prompt_mask_BxL")
        return dataclasses.replace(
            self, **{name: getattr(self, name)[:, start:end] for name in names}
        )

    def with_tokens(self, tokens_BxL):
        """Returns the canvas with other tokens."""
        return dataclasses.replace(self, tokens_BxL=tokens_BxL)

    def filled(self, tokens_BxC, start=0):
        """Returns the canvas with `tokens_BxC` from column `start` on.

        A text ends with the first EOS in a hole that has no unfilled hole before it: all holes
        after it become EOS.
        """
        tokens_BxL = self.tokens_BxL.clone()
        tokens_BxL[:, start : start + tokens_BxC.shape[1]] = tokens_BxC
        canvas = self.with_tokens(tokens_BxL)
        ends_BxL = self.holes_BxL & (tokens_BxL == self.eos_id)
        ends_BxL &= canvas.masked_BxL.cumsum(dim=1) == 0
        after_BxL = self.holes_BxL & (ends_BxL.cumsum(dim=1) > 0)
        return self.with_tokens(tokens_BxL.masked_fill(after_BxL, self.eos_id))


def make_canvas(config, input_ids, attention_mask, max_new_tokens, class_ids) -> Canvas:
    """Returns prompts as a Canvas: without padding, and with `max_new_tokens` holes at the end.

    Args:
        config: the [`DLMConfig`].
        input_ids: prompts of shape BxL; mask tokens in them are holes.
        attention_mask: 0 at padding.
        max_new_tokens: holes to append to each row.
        class_ids: the class of each row; `None` for no classes.

    Raises:
        ValueError: a prompt does not begin with BOS, or is too long.
    """
    prompts = [row[kept] for row, kept in zip(input_ids, attention_mask.bool(), strict=True)]
    if not all(len(row) and row[0] == config.bos_token_id for row in prompts):
        raise ValueError(
            f"each row should begin with bos_token_id={config.bos_token_id}, as the tokenizer "
            "writes it"
        )
    longest = max(map(len, prompts)) + max_new_tokens
    if longest > config.max_position_embeddings:
        raise ValueError(
            f"{longest} tokens do not fit the model's context of {config.max_position_embeddings}; "
            "shorten the prompt or lower max_new_tokens"
        )
    tokens_BxL = input_ids.new_full((len(prompts), longest), config.pad_token_id)
    segments_BxL = torch.zeros_like(tokens_BxL)
    for i, row in enumerate(prompts):
        tokens_BxL[i, : len(row) + max_new_tokens] = F.pad(
            row, (0, max_new_tokens), value=config.mask_token_id
        )
        segments_BxL[i, : len(row) + max_new_tokens] = 1
    holes_BxL = (tokens_BxL == config.mask_token_id) & (segments_BxL > 0)
    prompt_mask_BxL = ~holes_BxL & (segments_BxL > 0)
    prompt_mask_BxL[:, 0] = False
    return Canvas(
        tokens_BxL=tokens_BxL,
        holes_BxL=holes_BxL,
        segments_BxL=segments_BxL,
        prompt_mask_BxL=prompt_mask_BxL,
        class_B=input_ids.new_zeros(len(prompts)) if class_ids is None else class_ids,
        mask_id=config.mask_token_id,
        eos_id=config.eos_token_id,
    )


def restore_padding(canvas: Canvas, input_ids, attention_mask, max_new_tokens):
    """Returns the tokens of a canvas in the layout of `input_ids`, with the new ones at the end."""
    out = F.pad(input_ids, (0, max_new_tokens))
    for row, tokens, kept in zip(out, canvas.tokens_BxL, attention_mask.bool(), strict=True):
        columns = F.pad(kept, (0, max_new_tokens), value=True)
        row[columns] = tokens[: int(columns.sum())]
    return out


@dataclasses.dataclass(frozen=True)
class TokenSampler:
    """Draws tokens from logits: guidance first, then temperature, then top-k and top-p.

    Guidance w uses (1 + w) log p(. | prompt, class) - w log p(. | masks instead of the prompt)
    (https://arxiv.org/abs/2207.12598). It needs two forward passes, which are one batch of twice as
    many rows.

    Attributes:
        special_ids: tokens that no text contains.
        temperature: 0 takes the most probable token.
        top_k: keeps the k most probable tokens; 0 keeps all.
        top_p: keeps the most probable tokens until their probabilities sum to this.
        guidance: w; 0 for none.
        generator: where random numbers come from; `None` for torch's own state.
    """

    special_ids: tuple[int, ...]
    temperature: float
    top_k: int
    top_p: float
    guidance: float
    generator: torch.Generator | None

    def model_inputs(self, canvas: Canvas):
        """Returns (tokens, class); under guidance, the rows again with hidden prompts."""
        if not self.guidance:
            return canvas.tokens_BxL, canvas.class_B
        hidden = canvas.tokens_BxL.masked_fill(canvas.prompt_mask_BxL, canvas.mask_id)
        classes = torch.cat([canvas.class_B, torch.zeros_like(canvas.class_B)])
        return torch.cat([canvas.tokens_BxL, hidden]), classes

    def for_guidance(self, x):
        """Returns x; under guidance, its rows twice."""
        return torch.cat([x, x]) if self.guidance else x

    def log_probs(self, logits):
        """Returns log_p_BxLxV after guidance, from the logits of the rows of `model_inputs`."""
        log_p = self.without_special(logits).log_softmax(-1)
        if not self.guidance:
            return log_p
        conditional, unconditional = log_p.chunk(2)
        # A token with probability 0 given the prompt keeps it: -inf - -inf would be NaN.
        guided = conditional + self.guidance * (conditional - unconditional)
        return guided.masked_fill(conditional == -torch.inf, -torch.inf).log_softmax(-1)

    def without_special(self, logits):
        """Returns logits that are -inf for tokens that no text contains."""
        special = torch.tensor(self.special_ids, device=logits.device)
        return logits.index_fill(-1, special, -torch.inf)

    def warp(self, log_p):
        """Returns log_p after temperature, top-k and top-p; unchanged at temperature 0."""
        if self.temperature == 0:
            return log_p
        log_p = ((log_p - log_p.amax(-1, keepdim=True)) / self.temperature).log_softmax(-1)
        if self.top_k:
            least = log_p.topk(min(self.top_k, log_p.shape[-1])).values[..., -1:]
            log_p = log_p.masked_fill(log_p < least, -torch.inf).log_softmax(-1)
        if self.top_p < 1:
            ranked = log_p.sort(-1, descending=True).values
            kept = ranked.exp().cumsum(-1) - ranked.exp() < self.top_p  # the sum before it
            least = ranked.masked_fill(~kept, 0.0).amin(-1, keepdim=True)
            log_p = log_p.masked_fill(log_p < least, -torch.inf).log_softmax(-1)
        return log_p

    def draw(self, log_p):
        """Returns a token for each position, drawn from the result of `warp`.

        It draws in float64 if the device has it, so that rare tokens occur at their rate.
        """
        if self.temperature == 0:
            return log_p.argmax(-1)
        p = (log_p.float() if log_p.device.type == "mps" else log_p.double()).exp()
        drawn = torch.multinomial(p.flatten(0, -2), 1, generator=self.generator)
        return drawn.reshape(log_p.shape[:-1])

    def uniform(self, like):
        """Returns uniform random numbers in [0, 1), with the shape and device of `like`."""
        return torch.rand(like.shape, generator=self.generator, device=like.device)

    def normal(self, shape, device):
        """Returns standard normal random numbers."""
        return torch.randn(shape, generator=self.generator, device=device)
