"""Diffusion language models of dlms_jax in PyTorch: tokens or noisy embeddings -> logits.

    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
    logits_BxLxV = model(input_ids, timesteps=t_B).logits
    tokens = model.generate(**tokenizer("The ", return_tensors="pt"), max_new_tokens=64)

Nothing here needs JAX. Letters in array names: layers_dlms.py; E is the size of noisy embeddings.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from .configuration_dlms import DLMConfig
from .generation_dlms import DiffusionGeneration
from .layers_dlms import (
    MLP,
    Attention,
    Conditioning,
    KeyValues,
    Layout,
    Modulation,
    MoE,
    RMSNorm,
    attention_mask,
    modulated,
    rotary_angles,
)
from .unet_dlms import UNet


class Layer(nn.Module):
    """x + attention(norm(x)), x + attention to the source(norm(x)) if any, x + mlp(norm(x))."""

    def __init__(self, config, cross=False, conditioned=True):
        super().__init__()
        width, epsilon = config.hidden_size, config.rms_norm_eps
        conditioned = conditioned and config.conditioning != "none"

        def modulation():
            return Modulation(config) if conditioned else None

        self.input_layernorm, self.attn_modulation = RMSNorm(width, epsilon), modulation()
        self.self_attn = Attention(config)
        self.cross_attn = None
        if cross:
            self.cross_attn_norm, self.cross_attn_modulation = RMSNorm(width, epsilon), modulation()
            self.cross_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(width, epsilon)
        self.mlp_modulation = modulation()
        if config.num_experts:
            self.mlp = MoE(config)
        else:
            self.mlp = MLP(width, config.intermediate_size)

    def forward(self, x, c, mask, rotary, valid=None, source=None, extend=lambda keys: keys):
        """Returns x_BxLxD. valid_BxL: False at padding. source: (x_BxLxD, mask_Bx1xLxL) of the
        encoder that read the prompts. extend: gives the keys and values to attend to, of those
        of x."""
        h, gate = modulated(self.input_layernorm, self.attn_modulation, x, c)
        keys = extend(self.self_attn.keys(h, rotary))
        x = x + gate * self.self_attn(h, keys, mask, rotary)
        if self.cross_attn is not None:
            source_BxLxD, source_mask = source
            h, gate = modulated(self.cross_attn_norm, self.cross_attn_modulation, x, c)
            keys = self.cross_attn.keys(source_BxLxD, rotary)
            x = x + gate * self.cross_attn(h, keys, source_mask, rotary)
        h, gate = modulated(self.post_attention_layernorm, self.mlp_modulation, x, c)
        return x + gate * (self.mlp(h, valid) if isinstance(self.mlp, MoE) else self.mlp(h))


class NoisyInputs(nn.Module):
    """Noisy embeddings and an estimate of the clean ones -> x_BxLxD. It also holds the table of
    embeddings and the parameters of the noise schedule, where that was learned."""

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
        dtype, size = self.in_proj.weight.dtype, z_BxLxE.shape[-1]
        x_BxLxD = self.in_proj(z_BxLxE.to(dtype))
        if self.estimate_proj is not None:
            # Rows of the table have length 1: this gives the estimate the noise's scale.
            x_BxLxD = x_BxLxD + self.estimate_proj((size**0.5 * estimate_BxLxE).to(dtype))
        return x_BxLxD

    def unit_table(self):
        """Returns table_VxE, its rows brought to length 1, in float32."""
        table = self.table.float()
        return table * torch.rsqrt(table.square().sum(dim=1, keepdim=True) + 1e-12)


class DLMPreTrainedModel(PreTrainedModel):
    config_class = DLMConfig
    base_model_prefix = "model"
    _no_split_modules = ["Layer", "Block"]

    def _init_weights(self, module):
        super()._init_weights(module)
        with torch.no_grad():
            if isinstance(module, NoisyInputs):
                module.table.normal_()
            if isinstance(module, Conditioning) and self.config.class_names:
                module.class_embedding.normal_(std=0.02)


class DLMModel(DLMPreTrainedModel):
    """The network without its head."""

    def __init__(self, config):
        super().__init__(config)
        width, epsilon = config.hidden_size, config.rms_norm_eps
        if config.gaussian is None:
            self.embed_tokens = nn.Embedding(config.vocab_size, width)
        else:
            self.embed = NoisyInputs(config)
        self.conditioning = self.final_modulation = None
        if config.conditioning != "none":
            self.conditioning = Conditioning(config)
            self.final_modulation = Modulation(config, gated=False)
        cross = config.source == "cross_attention"
        if config.denoiser == "unet":
            self.unet = UNet(config)
        else:
            self.layers = nn.ModuleList(
                Layer(config, cross) for _ in range(config.num_hidden_layers)
            )
        if cross:
            self.source_layers = nn.ModuleList(
                Layer(config, conditioned=False) for _ in range(config.source_layers)
            )
            self.source_norm = RMSNorm(width, epsilon)
        self.norm = RMSNorm(width, epsilon)
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        timesteps=None,
        position_ids=None,
        segment_ids=None,
        prompt_mask=None,
        class_ids=None,
        block_ids=None,
        clean_mask=None,
        inputs_embeds=None,
        estimate=None,
        past=None,
        keep=False,
        **unused,
    ):
        """Returns last_hidden_state_BxLxD; the arguments are those of DLMForDiffusion."""
        if input_ids is not None and self.config.gaussian is not None:
            raise ValueError(
                "Gaussian diffusion reads inputs_embeds, noisy embeddings; see embed()"
            )
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        shape = inputs.shape[:2]
        layout = self.layout(
            inputs,
            attention_mask,
            position_ids,
            segment_ids,
            prompt_mask,
            class_ids,
            block_ids,
            clean_mask,
        )
        t_BxL = torch.zeros(shape, device=inputs.device)
        if timesteps is not None:
            t_BxL = timesteps.float().reshape(len(timesteps), -1).expand(shape)
        c = None
        if self.conditioning is not None:
            c = self.conditioning(t_BxL, layout.class_B)
        if self.config.gaussian is None:
            x = self.embed_tokens(input_ids)
        else:
            x = self.embed(inputs_embeds, estimate)
        if self.config.denoiser == "unet":
            x = self.unet(x, c, layout)
        else:
            x = self._layers(x, c, layout, KeyValues() if past is None else past, keep)
        h = self.norm(x)
        if self.final_modulation is not None:
            scale, shift, _ = self.final_modulation(c)
            h = h * scale + shift
        return BaseModelOutput(last_hidden_state=h)

    def layout(
        self,
        inputs,
        attention_mask=None,
        position_ids=None,
        segment_ids=None,
        prompt_mask=None,
        class_ids=None,
        block_ids=None,
        clean_mask=None,
    ) -> Layout:
        """Returns the Layout of rows, with what is left out derived from what is given: a row is
        one document, without the padding that attention_mask tells; a block that holds a mask is
        being denoised."""
        shape, device = inputs.shape[:2], inputs.device
        if segment_ids is None:
            segment_ids = torch.ones(shape, dtype=torch.long, device=device)
            if attention_mask is not None:
                segment_ids = attention_mask.long()
        if position_ids is None:
            place = torch.arange(shape[1], device=device)
            starts = F.pad(segment_ids[:, 1:] != segment_ids[:, :-1], (1, 0))
            start = place.where(starts, 0).cummax(dim=1).values
            position_ids = (place - start) * (segment_ids > 0)
        if block_ids is None:
            block_ids = position_ids // self.config.block_size
        if clean_mask is None:
            clean_mask = torch.zeros(shape, dtype=torch.bool, device=device)
            if self.config.objective == "block":
                masks = inputs == self.config.mask_token_id
                same = (block_ids[:, :, None] == block_ids[:, None]) & (
                    segment_ids[:, :, None] == segment_ids[:, None]
                )
                clean_mask = ~(same & masks[:, None]).any(dim=2)
        if prompt_mask is None:
            prompt_mask = torch.zeros(shape, dtype=torch.bool, device=device)
        if class_ids is None:
            class_ids = torch.zeros(shape[0], dtype=torch.long, device=device)
        return Layout(
            segment_ids, position_ids, prompt_mask.bool(), class_ids, block_ids, clean_mask.bool()
        )

    def _layers(self, x, c, layout, past, keep):
        config = self.config
        rotary = rotary_angles(layout.positions_BxL, config.head_dim, config.rope_theta)
        source = None
        if config.source == "cross_attention":
            own = attention_mask(layout, layout, "full")
            prompt_BxL = layout.given_BxL | (layout.positions_BxL == 0) | (layout.segments_BxL == 0)
            source_mask = own & prompt_BxL[:, None, None]
            source_BxLxD = x
            for layer in self.source_layers:
                source_BxLxD = layer(source_BxLxD, None, source_mask, rotary)
            source = self.source_norm(source_BxLxD), source_mask
            mask = own & ~layout.given_BxL[:, None, None]
        else:
            seen = layout if past.layout is None else past.layout + layout
            mask = attention_mask(layout, seen, config.attention)
            if keep:
                past.layout = seen
        for number, layer in enumerate(self.layers):

            def extend(keys, number=number):
                return past.extend(number, keys, keep)

            x = layer(x, c, mask, rotary, layout.segments_BxL > 0, source, extend)
        return x


class DLMForDiffusion(DiffusionGeneration, DLMPreTrainedModel, GenerationMixin):
    """The network with its head, and `generate` (generation_dlms.py)."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = DLMModel(config)
        rows = config.vocab_size
        if config.gaussian is not None and config.gaussian["head"] == "embedding":
            rows = config.gaussian["embedding_size"]
        self.lm_head = nn.Linear(config.hidden_size, rows, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return getattr(self.model, "embed_tokens", None)

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, labels=None, **inputs):
        """Returns `logits_BxLxV` in float32, and a `loss` where labels_BxL are given.

        input_ids_BxL: tokens, mask_token_id where there is none yet. attention_mask_BxL: 0 at
        padding. timesteps: t_B or t_BxL in [0, 1], 0 by default; read where the network was trained
        to know it (config.conditioning); of uniform and Gaussian diffusion 0 at given tokens.
        position_ids, segment_ids: of several documents packed in a row (segments 1, 2, ...; 0 is
        padding). prompt_mask_BxL: True at given tokens. class_ids_B: 0 for none. block_ids,
        clean_mask: of block diffusion; by default a block with a mask in it is being denoised.
        inputs_embeds, estimate: in Gaussian diffusion, z_BxLxE and an estimate of the clean
        embeddings, instead of input_ids. past, keep: a KeyValues of what was read before, and
        whether to add what is read now.

        An autoregressive model's output at i predicts token i + 1, any other's token i. The loss is
        the mean cross-entropy of the labels, shifted accordingly, where they are not -100.
        """
        h_BxLxD = self.model(input_ids, **inputs).last_hidden_state
        logits = self.lm_head(h_BxLxD).float()
        if self.config.shift:
            logits = logits.roll(1, dims=1)
        loss = None
        if labels is not None:
            if self.config.objective == "autoregressive":
                labels = F.pad(labels[:, 1:], (0, 1), value=-100)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)
