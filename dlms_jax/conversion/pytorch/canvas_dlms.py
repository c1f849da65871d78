"""What samplers work on: prompts and holes, and draws of what the network predicts."""

import dataclasses

import torch
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Rows that begin at their first column, padded on the right (segment 0).

    holes_BxL: True where to write; the mask stands there until then. given_BxL: True at prompts, of
    which BOS is none. class_B: the class of a row, 0 for none.
    """

    tokens_BxL: torch.Tensor
    holes_BxL: torch.Tensor
    segments_BxL: torch.Tensor
    given_BxL: torch.Tensor
    class_B: torch.Tensor
    mask_id: int
    eos_id: int

    @property
    def open_BxL(self):
        """True where a hole is not filled yet."""
        return self.holes_BxL & (self.tokens_BxL == self.mask_id)

    @property
    def positions_BxL(self):
        place_L = torch.arange(self.tokens_BxL.shape[1], device=self.tokens_BxL.device)
        return place_L * (self.segments_BxL > 0)

    def columns(self, start, end):
        """Returns columns start..end-1 as a Canvas."""
        names = ("tokens_BxL", "holes_BxL", "segments_BxL", "given_BxL")
        return dataclasses.replace(
            self, **{name: getattr(self, name)[:, start:end] for name in names}
        )

    def with_tokens(self, tokens_BxL):
        """Returns the canvas with other tokens."""
        return dataclasses.replace(self, tokens_BxL=tokens_BxL)

    def filled(self, tokens_BxC, start=0):
        """Returns the canvas with these tokens from column `start` on. Text ends with the first EOS
        in a hole that has no open one before it: the holes after that are EOS too."""
        tokens_BxL = self.tokens_BxL.clone()
        tokens_BxL[:, start : start + tokens_BxC.shape[1]] = tokens_BxC
        canvas = self.with_tokens(tokens_BxL)
        ends_BxL = self.holes_BxL & (tokens_BxL == self.eos_id)
        ends_BxL &= canvas.open_BxL.cumsum(dim=1) == 0
        after_BxL = self.holes_BxL & (ends_BxL.cumsum(dim=1) > 0)
        return self.with_tokens(tokens_BxL.masked_fill(after_BxL, self.eos_id))


def make_canvas(config, input_ids, attention_mask, max_new_tokens, class_ids) -> Canvas:
    """Returns the rows without their padding, each with max_new_tokens holes behind it."""
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
    given_BxL = ~holes_BxL & (segments_BxL > 0)
    given_BxL[:, 0] = False
    if class_ids is None:
        class_ids = input_ids.new_zeros(len(prompts))
    return Canvas(
        tokens_BxL,
        holes_BxL,
        segments_BxL,
        given_BxL,
        class_ids,
        config.mask_token_id,
        config.eos_token_id,
    )


def as_given(canvas: Canvas, input_ids, attention_mask, max_new_tokens):
    """Returns the canvas's tokens in the places of input_ids, and the new ones behind these."""
    out = F.pad(input_ids, (0, max_new_tokens))
    for row, tokens, kept in zip(out, canvas.tokens_BxL, attention_mask.bool(), strict=True):
        places = F.pad(kept, (0, max_new_tokens), value=True)
        row[places] = tokens[: int(places.sum())]
    return out


@dataclasses.dataclass(frozen=True)
class Draw:
    """What the network predicts, after guidance, then temperature, then cuts; and draws of it.

    guidance w: (1 + w) log p(. | prompt, class) - w log p(. | masks in the prompt's place), as in
    arXiv 2207.12598. special_ids: what no text holds.
    """

    special_ids: tuple[int, ...]
    temperature: float
    top_k: int
    top_p: float
    guidance: float
    generator: torch.Generator | None

    def conditions(self, canvas: Canvas):
        """Returns (tokens, class): the rows and, under guidance, these again, prompts hidden."""
        if not self.guidance:
            return canvas.tokens_BxL, canvas.class_B
        hidden = canvas.tokens_BxL.masked_fill(canvas.given_BxL, canvas.mask_id)
        classes = torch.cat([canvas.class_B, torch.zeros_like(canvas.class_B)])
        return torch.cat([canvas.tokens_BxL, hidden]), classes

    def twice(self, x):
        """Returns x, under guidance its rows twice."""
        return torch.cat([x, x]) if self.guidance else x

    def guided(self, logits):
        """Returns log_p_BxLxV after guidance, of logits of the rows that `conditions` gave."""
        log_p = self.without_special(logits).log_softmax(-1)
        if not self.guidance:
            return log_p
        given, without = log_p.chunk(2)
        # What has probability 0 given the prompt keeps it; -inf - -inf would be NaN.
        guided = given + self.guidance * (given - without)
        return guided.masked_fill(given == -torch.inf, -torch.inf).log_softmax(-1)

    def without_special(self, logits):
        """Returns the logits, -inf for what no text holds."""
        special = torch.tensor(self.special_ids, device=logits.device)
        return logits.index_fill(-1, special, -torch.inf)

    def cut(self, log_p):
        """Returns log p at the temperature, cut to top_k and top_p; at temperature 0 as it is."""
        if self.temperature == 0:
            return log_p
        log_p = ((log_p - log_p.amax(-1, keepdim=True)) / self.temperature).log_softmax(-1)
        if self.top_k:
            least = log_p.topk(min(self.top_k, log_p.shape[-1])).values[..., -1:]
            log_p = log_p.masked_fill(log_p < least, -torch.inf).log_softmax(-1)
        if self.top_p < 1:
            ranked = log_p.sort(-1, descending=True).values
            kept = ranked.exp().cumsum(-1) - ranked.exp() < self.top_p  # less than top_p before it
            least = ranked.masked_fill(~kept, 0.0).amin(-1, keepdim=True)
            log_p = log_p.masked_fill(log_p < least, -torch.inf).log_softmax(-1)
        return log_p

    def token(self, log_p):
        """Returns one symbol a place, drawn from what `cut` gave; at temperature 0 the likeliest.
        In float64 where the device has it, so that rare symbols keep their rate."""
        if self.temperature == 0:
            return log_p.argmax(-1)
        p = (log_p.float() if log_p.device.type == "mps" else log_p.double()).exp()
        drawn = torch.multinomial(p.flatten(0, -2), 1, generator=self.generator)
        return drawn.reshape(log_p.shape[:-1])

    def uniform(self, like):
        """Returns uniform draws in [0, 1), of the shape of `like`."""
        return torch.rand(like.shape, generator=self.generator, device=like.device)

    def normal(self, shape, device):
        """Returns standard normal draws."""
        return torch.randn(shape, generator=self.generator, device=device)
