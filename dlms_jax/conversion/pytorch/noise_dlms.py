"""Schedules of noise, and the reverse processes of uniform and Gaussian diffusion.

uniform: ancestral (UDLM, arXiv 2412.10193) and ddim, the discrete analogue of DDIM. gaussian: ddim
(arXiv 2010.02502), and ancestral, which is ddim with eta 1.
"""

import math

import torch
from torch.nn import functional as F


def share_of_noise(config, t):
    """Returns 1 - alpha(t) of a discrete diffusion."""
    if config.schedule == "cosine":
        return torch.sin(math.pi / 2 * t)
    return t**config.schedule_power if config.schedule == "polynomial" else t


def time(settings, config, steps: int, i: int):
    """Returns t_i, which falls from 1 at i=0 to 0 at i=steps, as the grid of the settings says."""
    left = torch.tensor((steps - i) / steps)
    if settings.grid == "cosine":  # small steps near 1 (MaskGIT, arXiv 2202.04200)
        return torch.sin(math.pi / 2 * left)
    if settings.grid == "uniform":
        return left
    if config.schedule == "cosine":  # quantile: equal steps of the share of noise
        return 2 / math.pi * torch.arcsin(left)
    return left ** (1 / config.schedule_power) if config.schedule == "polynomial" else left


def fill_uniform(model, canvas, draw, settings, noise=None):
    """Returns the canvas filled by uniform diffusion.

    With p the network's prediction of a place from all others, u what the noise pi gives each
    symbol of text, and z what the place holds at t: z is noise with probability
    r = (1 - alpha_t) u / (alpha_t p(z) + (1 - alpha_t) u). ancestral: with probability
    r (1 - alpha_t / alpha_s) / (1 - alpha_t) z has jumped there since s, and x_s is drawn anew, of
    p noised to s. ddim: z stays with probability (1 - eta) (1 - alpha_s) / (1 - alpha_t); with
    eta (1 - alpha_s) there is new noise; else x_s is x_0: where z is noise a draw of p, else z.
    """
    config, holes = model.config, canvas.holes_BxL
    text = torch.tensor([i for i in range(config.vocab_size) if i not in draw.special_ids])
    text = text.to(holes.device)
    u = (1 - config.mask_share) / len(text)

    def pi():
        symbol = text[(draw.uniform(holes) * len(text)).long().clamp(max=len(text) - 1)]
        return symbol.masked_fill(draw.uniform(holes) < config.mask_share, canvas.mask_id)

    tokens = torch.where(holes, pi() if noise is None else noise, canvas.tokens_BxL)
    for i in range(settings.steps):
        t, s = (time(settings, config, settings.steps, j).to(holes.device) for j in (i, i + 1))
        noise_t, noise_s = share_of_noise(config, t), share_of_noise(config, s)
        read, classes = draw.conditions(canvas.with_tokens(tokens))
        t_BxL = draw.twice(torch.where(holes, t, 0.0))
        logits = model(
            read,
            segment_ids=draw.twice(canvas.segments_BxL),
            timesteps=t_BxL,
            class_ids=classes,
            prompt_mask=draw.twice(canvas.given_BxL),
        ).logits
        log_p = draw.cut(draw.guided(logits))
        if draw.temperature == 0:
            p_z = (tokens == log_p.argmax(-1)).float()
        else:
            p_z = log_p.gather(-1, tokens[..., None])[..., 0].exp()
        r = noise_t * u / ((1 - noise_t) * p_z + noise_t * u)
        r = r.masked_fill(tokens == canvas.mask_id, 1.0)
        clean = draw.token(log_p)
        if settings.sampler == "ancestral":
            jumps = draw.uniform(r) < r * (noise_t - noise_s) / ((1 - noise_s) * noise_t)
            noisy = torch.where(draw.uniform(r) < noise_s, pi(), clean)
            moved = torch.where(jumps, noisy, tokens)
        else:
            renewed = settings.eta * noise_s
            stays = (1 - settings.eta) * noise_s / noise_t / (1 - renewed)
            clean = torch.where(draw.uniform(r) < r, clean, tokens)
            moved = torch.where(draw.uniform(r) < stays, tokens, clean)
            moved = torch.where(draw.uniform(r) < renewed, pi(), moved)
        tokens = torch.where(holes, moved, tokens)
    return canvas.with_tokens(tokens)


def fill_gaussian(model, canvas, draw, settings, noise=None):
    """Returns the canvas filled by Gaussian diffusion: from pure noise in the holes at the greatest
    gamma, the log of noise to signal, to the least, where tokens are drawn."""
    g = model.config.gaussian
    table = model.model.embed.unit_table()
    gammas = [gamma_at(settings, g, i, max(settings.steps - 1, 1)) for i in range(settings.steps)]
    gammas = torch.tensor(gammas, dtype=torch.float64)
    shape = *canvas.tokens_BxL.shape, table.shape[1]
    z = draw.normal(shape, table.device) if noise is None else noise
    eta = 1.0 if settings.sampler == "ancestral" else settings.eta
    noisy = draw.twice(canvas.holes_BxL)[..., None]
    tokens, classes = draw.conditions(canvas)
    known = table[tokens]  # a hidden prompt is the mask's row: the null embedding

    def flat(z, gamma):
        """(alpha / sigma^2) z E^T: under a flat prior the logits of p(symbol | z)."""
        return z @ table.T * torch.exp(-gamma - 0.5 * F.logsigmoid(-gamma)).float()

    def network(z, estimate, gamma):
        """Returns (logits_BxLxV, x_hat_BxLxE) of one pass."""
        t = ((gamma - g["gamma_min"]) / (g["gamma_max"] - g["gamma_min"])).clamp(0, 1).float()
        output = model(
            inputs_embeds=z,
            estimate=estimate,
            segment_ids=draw.twice(canvas.segments_BxL),
            timesteps=noisy[..., 0] * t.to(z.device),
            class_ids=classes,
            prompt_mask=draw.twice(canvas.given_BxL),
        ).logits
        if g["head"] == "logits":
            logits = output + flat(z, gamma)
            return logits, torch.where(noisy, mean(draw.without_special(logits)), z)
        x_hat = clean_of(output, z, gamma, g["parameterisation"])
        return flat(torch.sigmoid(-gamma).sqrt().float() * x_hat, gamma), torch.where(
            noisy, x_hat, z
        )

    def mean(log_p):
        return log_p.softmax(-1) @ table

    for i, gamma in enumerate(gammas):
        z_both = torch.where(noisy, draw.twice(z), known)
        estimate = mean(draw.without_special(flat(z_both, gamma)))
        estimate = torch.where(noisy, estimate, z_both)
        if g["self_conditioning"]:
            _, estimate = network(z_both, estimate, gamma)
        logits, own = network(z_both, estimate, gamma)
        log_p = draw.cut(draw.guided(logits))
        if i + 1 == settings.steps:
            tokens = torch.where(canvas.holes_BxL, draw.token(log_p), canvas.tokens_BxL)
            return canvas.with_tokens(tokens)
        if g["head"] == "embedding":
            x_hat, *without = own.chunk(2 if draw.guidance else 1)
            if without:
                x_hat = x_hat + draw.guidance * (x_hat - without[0])
        else:
            x_hat = table[log_p.argmax(-1)] if draw.temperature == 0 else mean(log_p)
        z = toward(z, x_hat, gamma, gammas[i + 1], eta)
        if eta:
            variance = torch.sigmoid(gammas[i + 1]) * -torch.expm1(gammas[i + 1] - gamma)
            z = z + eta * variance.sqrt().float() * draw.normal(z.shape, z.device)


def toward(z, x_hat, gamma_t, gamma_s, eta):
    """Returns alpha_s x_hat + sqrt(sigma_s^2 - eta^2 tau^2) (z - alpha_t x_hat) / sigma_t, tau^2
    the variance of q(z_s | z_t, x_0) (arXiv 2010.02502, equation 12)."""
    log_kept = 0.5 * (gamma_s - gamma_t + torch.log1p(eta**2 * torch.expm1(gamma_s - gamma_t)))
    log_alpha_t, log_alpha_s = 0.5 * F.logsigmoid(-gamma_t), 0.5 * F.logsigmoid(-gamma_s)
    z_weight = torch.exp(log_alpha_s - log_alpha_t + log_kept).float()
    x_weight = (-torch.exp(log_alpha_s) * torch.expm1(log_kept)).float()
    return z_weight * z + x_weight * x_hat


def clean_of(output, z, gamma, parameterisation: str):
    """Returns the x0 that a network's output stands for: x0, noise, v (arXiv 2202.00512), score."""
    alpha, sigma = torch.sigmoid(-gamma).sqrt().float(), torch.sigmoid(gamma).sqrt().float()
    if parameterisation == "noise":
        return (z - sigma * output) / alpha
    if parameterisation == "v":
        return alpha * z - sigma * output
    if parameterisation == "score":
        return (z + sigma**2 * output) / alpha
    return output


def gamma_at(settings, g, i: int, moves: int) -> float:
    """Returns the i-th of moves + 1 gammas, from the schedule's greatest to its least."""
    left = (moves - i) / moves
    low, high = g["schedule_gamma_min"], g["schedule_gamma_max"]
    if settings.grid == "quantile":  # equal steps of sigma^2
        share = [left * sigmoid(k * high) + (1 - left) * sigmoid(k * low) for k in (1, -1)]
        return math.log(share[0]) - math.log(share[1])
    t = math.sin(math.pi / 2 * left) if settings.grid == "cosine" else left
    if g["schedule"] == "linear":
        return low + (high - low) * t
    if g["schedule"] == "cosine":  # alpha = cos(angle), the angle linear in t
        angle = (1 - t) * math.atan(math.exp(low / 2)) + t * math.atan(math.exp(high / 2))
        rest = (1 - t) * math.atan(math.exp(-low / 2)) + t * math.atan(math.exp(-high / 2))
        return 2 * (math.log(math.sin(angle)) - math.log(math.sin(rest)))
    if g["schedule"] == "sqrt":  # sigma^2 = sqrt(u), u linear in t
        u = (1 - t) * sigmoid(low) ** 2 + t * sigmoid(high) ** 2
        rest = (1 - t) * (1 - sigmoid(low) ** 2) + t * (1 - sigmoid(high) ** 2)
        return 0.5 * math.log(u) - math.log(rest) + math.log1p(math.sqrt(u))
    mass, before = g["schedule_mass"], 0.0  # learned: the share of t that each bin of gamma has
    for k, share in enumerate(mass):
        if t <= before + share or k == len(mass) - 1:
            return low + (high - low) * (k + min((t - before) / share, 1.0)) / len(mass)
        before += share
    raise AssertionError("a schedule has at least one bin")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
