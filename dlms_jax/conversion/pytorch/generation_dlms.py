"""Generation: `generate` and the samplers of masked, block and autoregressive models.

Masked and block diffusion have the samplers `"ancestral"` (MDLM, https://arxiv.org/abs/2406.07524),
`"confidence"` (LLaDA, https://arxiv.org/abs/2502.09992), `"margin"` and `"entropy"`; the last three
fill the positions with the most certain predictions first. Autoregressive models fill from left to
right. noise_dlms.py has uniform and Gaussian diffusion.
"""

import dataclasses
import math
import operator

import torch

from .canvas_dlms import Canvas, TokenSampler, fold, make_canvas, restore_padding
from .layers_dlms import KeyValueCache
from .noise_dlms import fill_gaussian, fill_uniform, noise_level, timestep

SAMPLERS = {  # by objective; the first is the default
    "masked": ("ancestral", "confidence", "margin", "entropy"),
    "block": ("ancestral", "confidence", "margin", "entropy"),
    "uniform": ("ancestral", "ddim"),
    "gaussian": ("ancestral", "ddim"),
    "autoregressive": ("ancestral",),
}


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """The settings of `generate`. Their defaults for a model are in its generation_config.json.

    Attributes:
        max_new_tokens: tokens to append to each row.
        sampler: one of SAMPLERS; "default" is the first for the model's objective.
        steps: steps of the reverse process; in block diffusion, of each block.
        grid: where the times of the steps are: "uniform", "cosine" (MaskGIT,
            https://arxiv.org/abs/2202.04200), or "quantile" (equal changes of the noise).
        temperature: 0 is greedy.
        top_k: keeps the k most probable tokens; 0 keeps all.
        top_p: keeps the most probable tokens until their probabilities sum to this.
        guidance_scale: classifier-free guidance; 0 for none.
        eta: new noise in each step of "ddim", from 0 (none) to 1.
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

    def checked(self, objective: str) -> "GenerationSettings":
        """Returns the settings with the name of the sampler instead of "default".

        Raises:
            ValueError: a setting is out of range, or the objective does not have the sampler.
        """
        known = SAMPLERS[objective]
        sampler = known[0] if self.sampler == "default" else self.sampler
        grids, guidance = ("uniform", "cosine", "quantile"), self.guidance_scale
        checks = {
            f"sampler={sampler}: use one of {', '.join(known)}": sampler in known,
            f"grid={self.grid}: use uniform, cosine or quantile": self.grid in grids,
            f"steps={self.steps} should be 1 or more": self.steps >= 1,
            f"max_new_tokens={self.max_new_tokens} should be 0 or more": self.max_new_tokens >= 0,
            f"temperature={self.temperature} should be 0 or more": 0 <= self.temperature < math.inf,
            f"guidance_scale={guidance} should be 0 or more": 0 <= guidance < math.inf,
            f"top_k={self.top_k} should be 0 (all) or more": self.top_k >= 0,
            f"top_p={self.top_p} should be in (0, 1]": 0 < self.top_p <= 1,
            f"eta={self.eta} should be in [0, 1]": 0 <= self.eta <= 1,
        }
        for message, passed in checks.items():
            if not passed:
                raise ValueError(f"{message} ({objective} model)")
        return dataclasses.replace(self, sampler=sampler)


class DLMGenerationMixin:
    """`generate` for a model with the `forward` of [`DLMForDiffusion`]."""

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        class_ids: torch.LongTensor | None = None,
        seed: int | None = None,
        noise: torch.Tensor | None = None,
        generation_config=None,
        **settings,
    ) -> torch.LongTensor:
        r"""
        Generates texts: fills the masks in `input_ids`, and appends `max_new_tokens` tokens.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Prompts, padded on either side. Each row begins with `bos_token_id`, which the
                tokenizer adds. Each `mask_token_id` in it is a hole to fill. Defaults to one row
                with BOS only.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                0 at padding, 1 elsewhere. Defaults to no padding.
            class_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                The class of each row, from 1 (`config.class_names`); 0 means none.
            seed (`int`, *optional*):
                Seed of the random numbers, from 0 to 2^32 - 1. Equal rows get different samples;
                sample i of a prompt depends on the prompt, the seed and i only, not on other rows.
                Defaults to a draw from torch's own generator; at temperature 0, to 0.
            noise (`torch.Tensor`, *optional*):
                Where the reverse process starts. In uniform diffusion, tokens of shape
                `(batch_size, length)`; in Gaussian diffusion, noise of shape
                `(batch_size, length, embedding_size)`; `length` includes the new tokens. Defaults
                to random noise.
            generation_config ([`~transformers.GenerationConfig`], *optional*):
                Defaults of the settings. Defaults to the model's generation_config.json.
            settings:
                The attributes of [`GenerationSettings`]: `max_new_tokens`, `sampler`, `steps`,
                `grid`, `temperature`, `top_k`, `top_p`, `guidance_scale` and `eta`.

        Returns:
            `torch.LongTensor` of shape `(batch_size, sequence_length + max_new_tokens)`: the rows
            of `input_ids` without masks, and their new tokens. After the first EOS that the model
            writes, all holes are EOS.

        Raises:
            `ValueError`: a setting is unknown or out of range, or a row does not fit the model.

        Example:

        ```python
        >>> tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        >>> model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
        >>> inputs = tokenizer(["The ", "Python is"], return_tensors="pt", padding=True)
        >>> tokens = model.generate(**inputs, max_new_tokens=32, temperature=0.8, seed=1)
        >>> texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ```
        """
        config = self.config
        settings = self._generation_settings(generation_config, settings)
        if input_ids is None:
            input_ids = torch.full((1, 1), config.bos_token_id, device=self.device)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if seed is None:
            seed = int(torch.randint(2**32, ())) if settings.temperature else 0
        seed = operator.index(seed)
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed={seed} should be from 0 to {2**32 - 1}")
        new = settings.max_new_tokens
        canvas = make_canvas(config, input_ids, attention_mask, new, class_ids)
        samples_B = canvas.sample_numbers()
        sampler = TokenSampler(
            special_ids=(config.mask_token_id, config.bos_token_id, config.pad_token_id),
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            guidance=settings.guidance_scale,
            keys_B=fold(fold(torch.zeros_like(samples_B), seed), samples_B),
        )
        if canvas.holes_BxL.any():
            if config.objective == "masked":
                canvas = fill_masked(self, canvas, sampler, settings)
            elif config.objective == "block":
                canvas = fill_blocks(self, canvas, sampler, settings)
            elif config.objective == "autoregressive":
                canvas = fill_left_to_right(self, canvas, sampler)
            else:
                fill = fill_uniform if config.objective == "uniform" else fill_gaussian
                canvas = fill(self, canvas, sampler, settings, noise)
        return restore_padding(canvas, input_ids, attention_mask, new)

    def _generation_settings(self, generation_config, settings) -> GenerationSettings:
        """Returns the settings of a call: what it does not give is that of generation_config."""
        names = [field.name for field in dataclasses.fields(GenerationSettings)]
        if unknown := sorted(settings.keys() - set(names)):
            raise ValueError(f"generate() has no {', '.join(unknown)}; it has {', '.join(names)}")
        saved = (generation_config or self.generation_config).to_dict()
        saved = {name: saved[name] for name in names if saved.get(name) is not None}
        return GenerationSettings(**saved | settings).checked(self.config.objective)


def fill_masked(
    model, canvas: Canvas, sampler: TokenSampler, settings: GenerationSettings
) -> Canvas:
    """Returns the canvas filled by masked diffusion."""
    segments = sampler.for_guidance(canvas.segments_BxL)
    prompt_mask = sampler.for_guidance(canvas.prompt_mask_BxL)

    def predict(tokens, classes, t):
        return model(
            tokens,
            segment_ids=segments,
            prompt_mask=prompt_mask,
            class_ids=classes,
            timesteps=t.expand(len(tokens)),
        ).logits

    return unmask(model.config, canvas, sampler, settings, predict)


def unmask(
    config, canvas: Canvas, sampler: TokenSampler, settings: GenerationSettings, predict
) -> Canvas:
    """Returns the canvas filled by the reverse process of masked diffusion.

    In a step from t to s < t, `"ancestral"` reveals each masked token with probability
    1 - (1 - alpha_s) / (1 - alpha_t). The other samplers reveal the tokens with the highest scores,
    so that the share 1 - alpha_s of the row's holes stays masked.

    Args:
        config: the [`DLMConfig`].
        canvas: the rows with holes.
        sampler: how tokens are drawn.
        settings: the settings of `generate`.
        predict: (tokens_BxL, class_B, t) -> logits_BxLxV.
    """
    for i in range(settings.steps):
        masked_BxL = canvas.masked_BxL
        if not masked_BxL.any():
            break
        t, s = (
            timestep(settings, config, settings.steps, j).to(masked_BxL.device) for j in (i, i + 1)
        )
        log_p = sampler.log_probs(predict(*sampler.model_inputs(canvas), t))
        step = sampler.at(i)
        drawn_BxL = step.draw(sampler.warp(log_p), use=0)
        left = noise_level(config, s)
        if settings.sampler == "ancestral":
            reveal = 1 - left / noise_level(config, t)
            chosen_BxL = masked_BxL & (step.uniform(drawn_BxL.shape[1], use=1) < reveal)
        else:
            number_B = masked_BxL.sum(dim=1) - (canvas.holes_BxL.sum(dim=1) * left).round()
            score_BxL = certainty(log_p, drawn_BxL, settings.sampler)
            score_BxL = score_BxL.masked_fill(~masked_BxL, -torch.inf)
            rank_BxL = score_BxL.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            chosen_BxL = masked_BxL & (rank_BxL < number_B[:, None])
        canvas = canvas.filled(torch.where(chosen_BxL, drawn_BxL, canvas.tokens_BxL))
    return canvas


def certainty(log_p, drawn_BxL, order: str):
    """Returns a score of each prediction, higher for surer ones.

    Args:
        log_p: the log-probabilities of the tokens, of shape BxLxV.
        drawn_BxL: the tokens that were drawn.
        order: `"confidence"`: the log-probability of the drawn token. `"margin"`: the difference of
            the two highest probabilities. `"entropy"`: the negative entropy.
    """
    if order == "confidence":
        return log_p.gather(-1, drawn_BxL[..., None])[..., 0]
    if order == "margin":
        first, second = log_p.exp().topk(2).values.unbind(-1)
        return first - second
    return (log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)


def fill_blocks(
    model, canvas: Canvas, sampler: TokenSampler, settings: GenerationSettings
) -> Canvas:
    """Returns the canvas filled block by block, each by masked diffusion.

    Blocks are counted from BOS (BD3-LM, https://arxiv.org/abs/2503.09573). Finished blocks are read
    once, and their keys and values are cached.
    """
    config, size = model.config, model.config.block_size
    cache, cached = KeyValueCache(), 0
    columns = canvas.holes_BxL.any(dim=0).nonzero().flatten()
    first, last = int(columns[0]) // size, int(columns[-1]) // size

    def predictor(start, end, clean):
        """Returns the model on the columns from `start` to before `end`; clean ones are cached."""
        segments = sampler.for_guidance(canvas.segments_BxL[:, start:end])
        position = torch.arange(start, end, device=segments.device).expand_as(segments)

        def predict(tokens, classes, t):
            return model(
                tokens,
                segment_ids=segments,
                position_ids=position * (segments > 0),
                block_ids=position // size,
                clean_mask=torch.full_like(segments, clean),
                class_ids=classes,
                timesteps=t.expand(len(tokens)),
                cache=cache,
                update_cache=clean,
            ).logits

        return predict

    for block in range(first, last + 1):
        start, end = block * size, (block + 1) * size
        if start > cached:
            finished = sampler.model_inputs(canvas.columns(cached, start))
            predictor(cached, start, True)(*finished, torch.zeros((), device=columns.device))
            cached = start
        part = canvas.columns(start, end)
        predict = predictor(start, start + part.tokens_BxL.shape[1], False)
        part = unmask(config, part, sampler.at(block), settings, predict)
        canvas = canvas.filled(part.tokens_BxL, start)
        if not canvas.masked_BxL.any():
            break
    return canvas


def fill_left_to_right(model, canvas: Canvas, sampler: TokenSampler) -> Canvas:
    """Returns the canvas filled from left to right by an autoregressive model.

    Raises:
        ValueError: a given token comes after a hole.
    """
    holes_BxL, segments, positions = canvas.holes_BxL, canvas.segments_BxL, canvas.positions_BxL
    if ((holes_BxL.cumsum(dim=1) > 0) & canvas.prompt_mask_BxL).any():
        raise ValueError("an autoregressive model cannot fill holes before given text")
    columns = holes_BxL.any(dim=0).nonzero().flatten()
    cache, cached = KeyValueCache(), 0
    for column in range(int(columns[0]), int(columns[-1]) + 1):
        tokens, classes = sampler.model_inputs(canvas.columns(cached, column))
        logits = model(
            tokens,
            segment_ids=sampler.for_guidance(segments[:, cached:column]),
            class_ids=classes,
            position_ids=sampler.for_guidance(positions[:, cached:column]),
            cache=cache,
            update_cache=True,
        ).logits[:, -1:]
        cached = column
        drawn_Bx1 = sampler.at(column).draw(sampler.warp(sampler.log_probs(logits)), use=0)
        here = canvas.columns(column, column + 1)
        canvas = canvas.filled(torch.where(here.masked_BxL, drawn_Bx1, here.tokens_BxL), column)
        if not canvas.masked_BxL.any():
            break
    return canvas
