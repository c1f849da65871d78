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

    def sample_numbers(self):
        """Returns how many earlier rows have the same prompt and class, for each row."""
        seen, numbers = {}, []
        for tokens, segments, label in zip(
            self.tokens_BxL, self.segments_BxL, self.class_B.tolist(), strict=True
        ):
            prompt = label, *tokens[segments > 0].tolist()
            numbers.append(seen.get(prompt, 0))
            seen[prompt] = numbers[-1] + 1
        return torch.tensor(numbers, device=self.tokens_BxL.device)

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

        Every sampler ends its rows here. A text ends with the first EOS in a hole that has no
        unfilled hole before it: all holes after it become EOS.
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
        ValueError: a prompt does not begin with BOS, or is too long; the model lacks a class.
    """
    if class_ids is None:
        class_ids = input_ids.new_zeros(len(input_ids))
    elif ((class_ids < 0) | (class_ids > len(config.class_names))).any():
        raise ValueError(f"class_ids should be from 0 (none) to {len(config.class_names)}")
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
        class_B=class_ids,
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

    Each row has its own stream of random numbers. A number depends on the key of the row, the step
    (`at`), the number of its use in the step, and the position; not on other rows or padding.

    Attributes:
        special_ids: tokens that no text contains.
        temperature: 0 takes the most probable token.
        top_k: keeps the k most probable tokens; 0 keeps all.
        top_p: keeps the most probable tokens until their probabilities sum to this.
        guidance: w; 0 for none.
        keys_B: the key of each row's random numbers, a 64-bit integer.
    """

    special_ids: tuple[int, ...]
    temperature: float
    top_k: int
    top_p: float
    guidance: float
    keys_B: torch.Tensor

    def at(self, number: int) -> "TokenSampler":
        """Returns the sampler with the random numbers of a step or of a block."""
        return dataclasses.replace(self, keys_B=fold(self.keys_B, number))

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

    def draw(self, log_p, use: int):
        """Returns a token for each position, drawn from the result of `warp`.

        It draws in float64 if the device has it, so that rare tokens occur at their rate.
        """
        if self.temperature == 0:
            return log_p.argmax(-1)
        u_BxL = self.uniform(log_p.shape[1], use)
        sums = log_p.to(u_BxL.dtype).exp().cumsum(-1)
        # The first token whose sum is greater: its probability is not 0.
        drawn = torch.searchsorted(sums, u_BxL[..., None] * sums[..., -1:], right=True)
        return drawn[..., 0]

    def uniform(self, length: int, use: int, size: int | None = None):
        """Returns uniform random numbers in (0, 1), of shape BxL, or BxLxE if `size` gives E.

        Args:
            length: L.
            use: numbers the independent uses in a step.
            size: E.
        """
        device = self.keys_B.device
        keys = fold(fold(self.keys_B, use)[:, None], torch.arange(length, device=device))
        if size is not None:
            keys = fold(keys[..., None], torch.arange(size, device=device))
        bits, dtype = (23, torch.float32) if device.type == "mps" else (52, torch.float64)
        return (shift_right(keys, 64 - bits).to(dtype) + 0.5) * 2.0**-bits

    def normal(self, length: int, use: int, size: int):
        """Returns standard normal random numbers of shape BxLxE; the arguments are of `uniform`."""
        u_BxLxE = self.uniform(length, use, size)
        return (2**0.5 * torch.erfinv(2 * u_BxLxE - 1)).float()


def fold(keys, number):
    """Returns new keys for a number, or for each of an array of numbers that broadcasts to `keys`.

    They are outputs of SplitMix64 (https://doi.org/10.1145/2660193.2660195), whose seed is the key:
    64-bit integers, the same on all devices.
    """
    number = torch.as_tensor(number, device=keys.device)
    x = keys + (number + 1) * (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ shift_right(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ shift_right(x, 31)


def shift_right(x, bits: int):
    """Returns 64-bit integers shifted to the right, with zeros on the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
