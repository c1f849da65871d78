"""How texts are sampled: prompts and holes in, filled texts out.

masked, block: ancestral (MDLM, arXiv 2406.07524), or the surest first: confidence (LLaDA, arXiv
2502.09992), margin, entropy. autoregressive: left to right. uniform and gaussian: noise_dlms.py.
"""

import dataclasses

import torch

from .canvas_dlms import Canvas, Draw, as_given, make_canvas
from .layers_dlms import KeyValues
from .noise_dlms import fill_gaussian, fill_uniform, share_of_noise, time

SAMPLERS = {  # by objective; the first is the default
    "masked": ("ancestral", "confidence", "margin", "entropy"),
    "block": ("ancestral", "confidence", "margin", "entropy"),
    "uniform": ("ancestral", "ddim"),
    "gaussian": ("ancestral", "ddim"),
    "autoregressive": ("ancestral",),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `generate` may be told.

    sampler: of SAMPLERS; "default" is the first. steps: of the reverse process; of block diffusion,
    for each block. grid: where in time they lie: uniform, cosine (MaskGIT), quantile (equal shares
    of noise). temperature: 0 is greedy. top_k: 0 is all. guidance_scale: how much more to follow
    the prompt, 0 for none. eta: of ddim: from 0, no new noise, to 1.
    """

    max_new_tokens: int = 128
    sampler: str = "default"
    steps: int = 64
    grid: str = "uniform"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 0.0
    eta: float = 0.0

    def checked(self, objective: str) -> "Settings":
        """Returns the settings with the sampler's name; raises ValueError for what none has."""
        known = SAMPLERS[objective]
        sampler = known[0] if self.sampler == "default" else self.sampler
        bounds = {
            f"sampler={sampler}: use one of {', '.join(known)}": sampler in known,
            f"grid={self.grid}: use uniform, cosine or quantile": self.grid
            in ("uniform", "cosine", "quantile"),
            f"steps={self.steps} should be 1 or more": self.steps >= 1,
            f"max_new_tokens={self.max_new_tokens} should be 0 or more": self.max_new_tokens >= 0,
            f"temperature={self.temperature} should be 0 or more": self.temperature >= 0,
            f"top_k={self.top_k} should be 0 (all) or more": self.top_k >= 0,
            f"top_p={self.top_p} should be in (0, 1]": 0 < self.top_p <= 1,
            f"eta={self.eta} should be in [0, 1]": 0 <= self.eta <= 1,
        }
        for what, fits in bounds.items():
            if not fits:
                raise ValueError(f"{what} ({objective} model)")
        return dataclasses.replace(self, sampler=sampler)


class DiffusionGeneration:
    """`generate`, for a model with the `forward` of DLMForDiffusion."""

    @torch.no_grad()
    def generate(
        self,
        input_ids=None,
        attention_mask=None,
        class_ids=None,
        seed=None,
        noise=None,
        generation_config=None,
        **settings,
    ):
        """Returns tokens_BxL: each row of input_ids, its masks filled, and max_new_tokens more.

        input_ids: rows that begin with bos_token_id (the tokenizer puts it there), padded on either
        side as attention_mask tells; each mask_token_id in them is a hole to fill. None: BOS alone.
        After the first EOS that fills a hole, what else was to be filled is EOS. class_ids_B: the
        classes to write like, from 1. seed: the same gives the same text on the same device; None:
        torch's own state. noise: what uniform (tokens_BxL) and Gaussian diffusion (z_BxLxE) start
        from; None: drawn. settings: those of `Settings`; what is left out is as in
        generation_config.json.
        """
        names = [field.name for field in dataclasses.fields(Settings)]
        if unknown := sorted(settings.keys() - set(names)):
            raise ValueError(f"generate() has no {', '.join(unknown)}; it has {', '.join(names)}")
        saved = (generation_config or self.generation_config).to_dict()
        saved = {name: saved[name] for name in names if saved.get(name) is not None}
        s = Settings(**saved | settings).checked(self.config.objective)
        if input_ids is None:
            input_ids = torch.full((1, 1), self.config.bos_token_id, device=self.device)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        generator = None if seed is None else torch.Generator(input_ids.device).manual_seed(seed)
        c = self.config
        draw = Draw(
            (c.mask_token_id, c.bos_token_id, c.pad_token_id),
            s.temperature,
            s.top_k,
            s.top_p,
            s.guidance_scale,
            generator,
        )
        canvas = make_canvas(c, input_ids, attention_mask, s.max_new_tokens, class_ids)
        if canvas.holes_BxL.any():
            if c.objective == "masked":
                canvas = fill_masked(self, canvas, draw, s)
            elif c.objective == "block":
                canvas = fill_blocks(self, canvas, draw, s)
            elif c.objective == "autoregressive":
                canvas = fill_left_to_right(self, canvas, draw)
            else:
                fill = fill_uniform if c.objective == "uniform" else fill_gaussian
                canvas = fill(self, canvas, draw, s, noise)
        return as_given(canvas, input_ids, attention_mask, s.max_new_tokens)


def fill_masked(model, canvas: Canvas, draw: Draw, settings: Settings) -> Canvas:
    """Returns the canvas filled by masked diffusion, from all holes masked to none."""
    segments, given = draw.twice(canvas.segments_BxL), draw.twice(canvas.given_BxL)

    def read(tokens, classes, t):
        return model(
            tokens,
            segment_ids=segments,
            prompt_mask=given,
            class_ids=classes,
            timesteps=t.expand(len(tokens)),
        ).logits

    return unmask(model.config, canvas, draw, settings, read)


def unmask(config, canvas: Canvas, draw: Draw, settings: Settings, read) -> Canvas:
    """Returns the canvas filled by the reverse process of masked diffusion.

    read: (tokens_BxL, class_B, t) -> logits_BxLxV. ancestral: between t and s < t a masked token is
    revealed with probability 1 - (1 - alpha_s) / (1 - alpha_t). Else those that score highest, so
    many that of the row's holes the share 1 - alpha_s stays masked.
    """
    for i in range(settings.steps):
        masked_BxL = canvas.open_BxL
        if not masked_BxL.any():
            break
        t, s = (time(settings, config, settings.steps, j).to(masked_BxL.device) for j in (i, i + 1))
        log_p = draw.guided(read(*draw.conditions(canvas), t))
        drawn_BxL = draw.token(draw.cut(log_p))
        left = share_of_noise(config, s)
        if settings.sampler == "ancestral":
            reveal = 1 - left / share_of_noise(config, t)
            chosen_BxL = masked_BxL & (draw.uniform(drawn_BxL) < reveal)
        else:
            number_B = masked_BxL.sum(dim=1) - (canvas.holes_BxL.sum(dim=1) * left).round()
            score_BxL = score(log_p, drawn_BxL, settings.sampler)
            score_BxL = score_BxL.masked_fill(~masked_BxL, -torch.inf)
            rank_BxL = score_BxL.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            chosen_BxL = masked_BxL & (rank_BxL < number_B[:, None])
        canvas = canvas.filled(torch.where(chosen_BxL, drawn_BxL, canvas.tokens_BxL))
    return canvas


def score(log_p, drawn_BxL, order: str):
    """Returns how sure each prediction is: confidence, the log probability of what was drawn;
    margin, how much likelier the likeliest is than the next; entropy, minus the entropy."""
    if order == "confidence":
        return log_p.gather(-1, drawn_BxL[..., None])[..., 0]
    if order == "margin":
        first, second = log_p.exp().topk(2).values.unbind(-1)
        return first - second
    return (log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)


def fill_blocks(model, canvas: Canvas, draw: Draw, settings: Settings) -> Canvas:
    """Returns the canvas filled block after block (counted from BOS), each by masked diffusion
    (BD3-LM, arXiv 2503.09573). What is finished is read once, and its keys and values are kept."""
    config, size = model.config, model.config.block_size
    past, kept = KeyValues(), 0
    columns = canvas.holes_BxL.any(dim=0).nonzero().flatten()
    first, last = int(columns[0]) // size, int(columns[-1]) // size

    def reader(start, end, clean):
        """Returns the network as it reads columns start..end-1; it keeps them where clean."""
        segments = draw.twice(canvas.segments_BxL[:, start:end])
        place = torch.arange(start, end, device=segments.device).expand_as(segments)

        def read(tokens, classes, t):
            return model(
                tokens,
                segment_ids=segments,
                position_ids=place * (segments > 0),
                block_ids=place // size,
                clean_mask=torch.full_like(segments, clean),
                class_ids=classes,
                timesteps=t.expand(len(tokens)),
                past=past,
                keep=clean,
            ).logits

        return read

    for block in range(first, last + 1):
        start, end = block * size, (block + 1) * size
        if start > kept:
            finished = draw.conditions(canvas.columns(kept, start))
            reader(kept, start, True)(*finished, torch.zeros((), device=columns.device))
            kept = start
        part = canvas.columns(start, end)
        read = reader(start, start + part.tokens_BxL.shape[1], False)
        canvas = canvas.filled(unmask(config, part, draw, settings, read).tokens_BxL, start)
        if not canvas.open_BxL.any():
            break
    return canvas


def fill_left_to_right(model, canvas: Canvas, draw: Draw) -> Canvas:
    """Returns the canvas filled from left to right, each hole drawn from the prediction at the
    position before it; raises ValueError where given text comes after a hole."""
    holes_BxL, segments, positions = canvas.holes_BxL, canvas.segments_BxL, canvas.positions_BxL
    if ((holes_BxL.cumsum(dim=1) > 0) & canvas.given_BxL).any():
        raise ValueError("an autoregressive model cannot fill holes before given text")
    columns = holes_BxL.any(dim=0).nonzero().flatten()
    past, kept = KeyValues(), 0
    for at in range(int(columns[0]), int(columns[-1]) + 1):
        tokens, classes = draw.conditions(canvas.columns(kept, at))
        logits = model(
            tokens,
            segment_ids=draw.twice(segments[:, kept:at]),
            class_ids=classes,
            position_ids=draw.twice(positions[:, kept:at]),
            past=past,
            keep=True,
        ).logits[:, -1:]
        kept = at
        drawn_Bx1 = draw.token(draw.cut(draw.guided(logits)))
        here = canvas.columns(at, at + 1)
        canvas = canvas.filled(torch.where(here.open_BxL, drawn_Bx1, here.tokens_BxL), at)
        if not canvas.open_BxL.any():
            break
    return canvas
