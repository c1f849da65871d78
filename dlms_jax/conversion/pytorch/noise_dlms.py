"""Noise schedules, noisy embeddings, and the samplers of uniform and Gaussian diffusion.

Uniform diffusion has the samplers `"ancestral"` (UDLM, https://arxiv.org/abs/2412.10193) and
`"ddim"`, the discrete analogue of DDIM. Gaussian diffusion has `"ddim"`
(https://arxiv.org/abs/2010.02502) and `"ancestral"`, which is DDIM with eta 1.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class DLMNoisyEmbeddings(nn.Module):
    """The inputs of Gaussian diffusion: noisy embeddings and an estimate of the clean ones.

    It also holds the table of the embeddings and the parameters of a learned noise schedule.
    """

    def __init__(self, config):
        super().__init__()
        size = config.gaussian["embedding_size"]
        self.table = nn.Parameter(torch.zeros(config.vocab_size, size))
        if config.gaussian["schedule_size"]:
            self.schedule = nn.Parameter(torch.zeros(config.gaussian["schedule_size"]))
        self.in_proj = nn.Linear(size, config.hidden_size)
        self.estimate_proj = None
        if config.gaussian["self_conditioning"]:
            self.estimate_proj = nn.Linear(size, config.hidden_size, bias=False)

    def forward(self, z_BxLxE, estimate_BxLxE):
        """Returns the inputs of the first layer, of shape BxLxD."""
        dtype, size = self.in_proj.weight.dtype, z_BxLxE.shape[-1]
        x_BxLxD = self.in_proj(z_BxLxE.to(dtype))
        if self.estimate_proj is not None:
            # Embeddings have length 1; this scales the estimate like the noise.
            x_BxLxD = x_BxLxD + self.estimate_proj((size**0.5 * estimate_BxLxE).to(dtype))
        return x_BxLxD

    def unit_table(self):
        """Returns the embedding of each token, scaled to length 1; of shape VxE, in float32."""
        table = self.table.float()
        return table * torch.rsqrt(table.square().sum(dim=1, keepdim=True) + 1e-12)


def noise_level(config, t):
    """Returns 1 - alpha(t), the share of noise at time t, of masked, uniform or block diffusion."""
    if config.schedule == "cosine":
        return torch.sin(math.pi / 2 * t)
    return t**config.schedule_power if config.schedule == "polynomial" else t


def timestep(settings, config, steps: int, i: int):
    """Returns the time before step i, which falls from 1 at i = 0 to 0 at i = `steps`.

    Args:
        settings: the settings of `generate`; `settings.grid` places the times.
        config: the [`DLMConfig`].
        steps: number of steps.
        i: number of the step, from 0.
    """
    left = torch.tensor((steps - i) / steps)
    if settings.grid == "cosine":  # small steps near 1 (MaskGIT, https://arxiv.org/abs/2202.04200)
        return torch.sin(math.pi / 2 * left)
    if settings.grid == "uniform":
        return left
    if config.schedule == "cosine":  # quantile: equal steps of the noise level
        return 2 / math.pi * torch.arcsin(left)
    return left ** (1 / config.schedule_power) if config.schedule == "polynomial" else left


def fill_uniform(model, canvas, sampler, settings, noise=None):
    """Returns the canvas filled by uniform diffusion.

    Let p be the model's prediction of a token from all others, u the probability that noise gives
    to each token of text, and z the token at time t. Then z is noise with probability

        r = (1 - alpha_t) u / (alpha_t p(z) + (1 - alpha_t) u).

    `"ancestral"`: z has changed since time s with probability
    r (1 - alpha_t / alpha_s) / (1 - alpha_t); if so, x_s is drawn from p with the noise of time s.
    `"ddim"`: x_s is z with probability (1 - eta) (1 - alpha_s) / (1 - alpha_t), and new noise with
    probability eta (1 - alpha_s). Otherwise it is x_0: a draw from p if z is noise, else z.

    Args:
        model: the [`DLMForDiffusion`].
        canvas: the rows with holes.
        sampler: how tokens are drawn.
        settings: the settings of `generate`.
        noise: the tokens to start from, of shape BxL; `None` draws them.
    """
    config, holes = model.config, canvas.holes_BxL
    text = torch.tensor([i for i in range(config.vocab_size) if i not in sampler.special_ids])
    text = text.to(holes.device)
    u = (1 - config.mask_share) / len(text)

    length = holes.shape[1]

    def draw_noise(step):
        index = (step.uniform(length, use=0) * len(text)).long().clamp(max=len(text) - 1)
        masks = step.uniform(length, use=1) < config.mask_share
        return text[index].masked_fill(masks, canvas.mask_id)

    if noise is None:
        noise = draw_noise(sampler.at(settings.steps))  # no step has this number
    tokens = torch.where(holes, noise, canvas.tokens_BxL)
    for i in range(settings.steps):
        step = sampler.at(i)
        t, s = (timestep(settings, config, settings.steps, j).to(holes.device) for j in (i, i + 1))
        noise_t, noise_s = noise_level(config, t), noise_level(config, s)
        inputs, classes = sampler.model_inputs(canvas.with_tokens(tokens))
        logits = model(
            inputs,
            segment_ids=sampler.for_guidance(canvas.segments_BxL),
            timesteps=sampler.for_guidance(torch.where(holes, t, 0.0)),
            class_ids=classes,
            prompt_mask=sampler.for_guidance(canvas.prompt_mask_BxL),
        ).logits
        log_p = sampler.warp(sampler.log_probs(logits))
        if sampler.temperature == 0:
            p_z = (tokens == log_p.argmax(-1)).float()
        else:
            p_z = log_p.gather(-1, tokens[..., None])[..., 0].exp()
        r = noise_t * u / ((1 - noise_t) * p_z + noise_t * u)
        r = r.masked_fill(tokens == canvas.mask_id, 1.0)
        clean = step.draw(log_p, use=2)
        whether, which = step.uniform(length, use=3), step.uniform(length, use=4)
        if settings.sampler == "ancestral":
            changes = whether < r * (noise_t - noise_s) / ((1 - noise_s) * noise_t)
            noisy = torch.where(which < noise_s, draw_noise(step), clean)
            moved = torch.where(changes, noisy, tokens)
        else:
            renewed = settings.eta * noise_s
            stays = (1 - settings.eta) * noise_s / noise_t / (1 - renewed)
            clean = torch.where(whether < r, clean, tokens)
            moved = torch.where(which < stays, tokens, clean)
            moved = torch.where(step.uniform(length, use=5) < renewed, draw_noise(step), moved)
        tokens = torch.where(holes, moved, tokens)
    return canvas.filled(tokens)


def fill_gaussian(model, canvas, sampler, settings, noise=None):
    """Returns the canvas filled by Gaussian diffusion.

    The holes start as pure noise at the greatest gamma, the log of noise to signal. At the least
    gamma, tokens are drawn.

    Args:
        model: the [`DLMForDiffusion`].
        canvas: the rows with holes.
        sampler: how tokens are drawn.
        settings: the settings of `generate`.
        noise: the embeddings to start from, of shape BxLxE; `None` draws them.
    """
    g = model.config.gaussian
    denoiser = GaussianDenoiser(model, canvas, sampler)
    table = denoiser.table

    def gamma_of(step):
        gamma = gamma_at(settings, g, step, max(settings.steps - 1, 1))
        return torch.tensor(gamma, dtype=torch.float64)

    length, size = canvas.tokens_BxL.shape[1], table.shape[1]
    z = noise
    if z is None:
        z = sampler.at(settings.steps).normal(length, 0, size)  # no step has this number
    eta = 1.0 if settings.sampler == "ancestral" else settings.eta
    for i in range(settings.steps):
        gamma = gamma_of(i)
        logits, estimate = denoiser(z, gamma)
        log_p = sampler.warp(sampler.log_probs(logits))
        if i + 1 == settings.steps:
            break
        if g["head"] == "embedding":
            x_hat, *unconditional = estimate.chunk(2 if sampler.guidance else 1)
            if unconditional:
                x_hat = x_hat + sampler.guidance * (x_hat - unconditional[0])
        elif sampler.temperature == 0:
            x_hat = table[log_p.argmax(-1)]
        else:
            x_hat = denoiser.mean_embedding(log_p)
        gamma_s = gamma_of(i + 1)
        z = ddim_step(z, x_hat, gamma, gamma_s, eta)
        if eta:
            variance = torch.sigmoid(gamma_s) * -torch.expm1(gamma_s - gamma)
            z = z + eta * variance.sqrt().float() * sampler.at(i).normal(length, 0, size)
    drawn = sampler.at(i).draw(log_p, use=1)
    return canvas.filled(torch.where(canvas.holes_BxL, drawn, canvas.tokens_BxL))


class GaussianDenoiser:
    """The model's prediction of the tokens in the holes of a canvas, from noisy embeddings.

    Args:
        model: the [`DLMForDiffusion`].
        canvas: the rows with holes.
        sampler: its guidance, which doubles the rows, and its special tokens.

    Attributes:
        table: the embedding of each token, with length 1; of shape VxE.
    """

    def __init__(self, model, canvas, sampler):
        self.model, self.canvas, self.sampler = model, canvas, sampler
        self.settings, self.table = model.config.gaussian, model.model.embed.unit_table()
        self.noisy = sampler.for_guidance(canvas.holes_BxL)[..., None]
        tokens, self.classes = sampler.model_inputs(canvas)
        self.known = self.table[tokens]  # a hidden prompt has the embedding of the mask

    def __call__(self, z, gamma):
        """Returns (logits_BxLxV, an estimate of the clean embeddings of shape BxLxE).

        Args:
            z: noisy embeddings; they are read in the holes only.
            gamma: the log of noise to signal of z.
        """
        z = torch.where(self.noisy, self.sampler.for_guidance(z), self.known)
        logits = self.sampler.without_special(self.flat_logits(z, gamma))
        estimate = torch.where(self.noisy, self.mean_embedding(logits), z)
        if self.settings["self_conditioning"]:
            _, estimate = self._predict(z, estimate, gamma)
        return self._predict(z, estimate, gamma)

    def _predict(self, z, estimate, gamma):
        """Runs the model once, given an estimate of the clean embeddings."""
        g = self.settings
        t = ((gamma - g["gamma_min"]) / (g["gamma_max"] - g["gamma_min"])).clamp(0, 1).float()
        output = self.model(
            inputs_embeds=z,
            estimate=estimate,
            segment_ids=self.sampler.for_guidance(self.canvas.segments_BxL),
            timesteps=self.noisy[..., 0] * t.to(z.device),
            class_ids=self.classes,
            prompt_mask=self.sampler.for_guidance(self.canvas.prompt_mask_BxL),
        ).logits
        if g["head"] == "logits":
            logits = output + self.flat_logits(z, gamma)
            x_hat = self.mean_embedding(self.sampler.without_special(logits))
        else:
            x_hat = clean_embeddings(output, z, gamma, g["parameterisation"])
            logits = self.flat_logits(torch.sigmoid(-gamma).sqrt().float() * x_hat, gamma)
        return logits, torch.where(self.noisy, x_hat, z)

    def flat_logits(self, z, gamma):
        """Returns (alpha / sigma^2) z E^T, the logits of p(token | z) if all tokens are equally
        probable."""
        return z @ self.table.T * torch.exp(-gamma - 0.5 * F.logsigmoid(-gamma)).float()

    def mean_embedding(self, logits):
        """Returns the expected embedding of tokens with these logits."""
        return logits.softmax(-1) @ self.table


def ddim_step(z, x_hat, gamma_t, gamma_s, eta):
    """Returns the mean of z at gamma_s, given z at gamma_t and the clean embeddings x_hat.

    It is alpha_s x_hat + sqrt(sigma_s^2 - eta^2 tau^2) (z - alpha_t x_hat) / sigma_t, where tau^2
    is the variance of q(z_s | z_t, x_0) (https://arxiv.org/abs/2010.02502, equation 12).
    """
    log_kept = 0.5 * (gamma_s - gamma_t + torch.log1p(eta**2 * torch.expm1(gamma_s - gamma_t)))
    log_alpha_t, log_alpha_s = 0.5 * F.logsigmoid(-gamma_t), 0.5 * F.logsigmoid(-gamma_s)
    z_weight = torch.exp(log_alpha_s - log_alpha_t + log_kept).float()
    x_weight = (-torch.exp(log_alpha_s) * torch.expm1(log_kept)).float()
    return z_weight * z + x_weight * x_hat


def clean_embeddings(output, z, gamma, parameterisation: str):
    """Returns the clean embeddings that the output of a model stands for.

    Args:
        output: the output, of shape BxLxE.
        z: the noisy embeddings.
        gamma: the log of noise to signal of z.
        parameterisation: what the model predicts: `"x0"`, `"noise"`, `"v"`
            (https://arxiv.org/abs/2202.00512) or `"score"`.
    """
    alpha, sigma = torch.sigmoid(-gamma).sqrt().float(), torch.sigmoid(gamma).sqrt().float()
    if parameterisation == "noise":
        return (z - sigma * output) / alpha
    if parameterisation == "v":
        return alpha * z - sigma * output
    if parameterisation == "score":
        return (z + sigma**2 * output) / alpha
    return output


def gamma_at(settings, g, i: int, steps: int) -> float:
    """Returns the gamma before step i, which falls from the schedule's greatest to its least.

    Args:
        settings: the settings of `generate`; `settings.grid` places the times.
        g: `config.gaussian`.
        i: number of the step, from 0 (the greatest gamma) to `steps` (the least).
        steps: number of steps.
    """
    left = (steps - i) / steps
    low, high = g["schedule_gamma_min"], g["schedule_gamma_max"]
    if settings.grid == "quantile":  # equal steps of sigma^2
        share = [left * sigmoid(k * high) + (1 - left) * sigmoid(k * low) for k in (1, -1)]
        return math.log(share[0]) - math.log(share[1])
    t = math.sin(math.pi / 2 * left) if settings.grid == "cosine" else left
    if g["schedule"] == "linear":
        return low + (high - low) * t
    if g["schedule"] == "cosine":  # alpha = cos(angle), with an angle linear in t
        angle = (1 - t) * math.atan(math.exp(low / 2)) + t * math.atan(math.exp(high / 2))
        rest = (1 - t) * math.atan(math.exp(-low / 2)) + t * math.atan(math.exp(-high / 2))
        return 2 * (math.log(math.sin(angle)) - math.log(math.sin(rest)))
    if g["schedule"] == "sqrt":  # sigma^2 = sqrt(u), with u linear in t
        u = (1 - t) * sigmoid(low) ** 2 + t * sigmoid(high) ** 2
        rest = (1 - t) * (1 - sigmoid(low) ** 2) + t * (1 - sigmoid(high) ** 2)
        return 0.5 * math.log(u) - math.log(rest) + math.log1p(math.sqrt(u))
    mass, before = g["schedule_mass"], 0.0  # learned: the share of t of each bin of gamma
    for k, share in enumerate(mass):
        if t <= before + share or k == len(mass) - 1:
            return low + (high - low) * (k + min((t - before) / share, 1.0)) / len(mass)
        before += share
    raise AssertionError("a schedule has at least one bin")


def sigmoid(x: float) -> float:
    """Returns the logistic function of a number."""
    return 1 / (1 + math.exp(-x))
