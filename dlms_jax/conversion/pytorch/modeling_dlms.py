"""PyTorch diffusion language models that were trained by dlms_jax.

    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
    logits = model(input_ids, timesteps=t).logits
    tokens = model.generate(**tokenizer("The ", return_tensors="pt"), max_new_tokens=64)

No file here needs JAX. Array names end with their axes, whose letters are in layers_dlms.py; E is
the size of the noisy embeddings of Gaussian diffusion.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from .configuration_dlms import DLMConfig
from .generation_dlms import DLMGenerationMixin
from .layers_dlms import (
    DLMConditioning,
    DLMLayer,
    DLMModulation,
    DLMRMSNorm,
    KeyValueCache,
    Layout,
    make_attention_mask,
    rotary_angles,
)
from .noise_dlms import DLMNoisyEmbeddings
from .unet_dlms import DLMUNet


class DLMPreTrainedModel(PreTrainedModel):
    """Initialisation and loading of the weights."""

    config_class = DLMConfig
    base_model_prefix = "model"
    _no_split_modules = ["DLMLayer", "DLMUNetBlock"]

    def _init_weights(self, module):
        super()._init_weights(module)
        with torch.no_grad():
            if isinstance(module, DLMNoisyEmbeddings):
                module.table.normal_()
            if isinstance(module, DLMConditioning) and self.config.class_names:
                module.class_embedding.normal_(std=0.02)


class DLMModel(DLMPreTrainedModel):
    """The network without its head.

    Args:
        config ([`DLMConfig`]): the network and its objective.
    """

    def __init__(self, config: DLMConfig):
        super().__init__(config)
        width, epsilon = config.hidden_size, config.rms_norm_eps
        if config.gaussian is None:
            self.embed_tokens = nn.Embedding(config.vocab_size, width)
        else:
            self.embed = DLMNoisyEmbeddings(config)
        self.conditioning = self.final_modulation = None
        if config.conditioning != "none":
            self.conditioning = DLMConditioning(config)
            self.final_modulation = DLMModulation(config, gated=False)
        cross = config.source == "cross_attention"
        if config.denoiser == "unet":
            self.unet = DLMUNet(config)
        else:
            self.layers = nn.ModuleList(
                DLMLayer(config, cross) for _ in range(config.num_hidden_layers)
            )
        if cross:
            self.source_layers = nn.ModuleList(
                DLMLayer(config, conditioned=False) for _ in range(config.source_layers)
            )
            self.source_norm = DLMRMSNorm(width, epsilon)
        self.norm = DLMRMSNorm(width, epsilon)
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        timesteps: torch.FloatTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        prompt_mask: torch.BoolTensor | None = None,
        class_ids: torch.LongTensor | None = None,
        block_ids: torch.LongTensor | None = None,
        clean_mask: torch.BoolTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        estimate: torch.FloatTensor | None = None,
        cache: KeyValueCache | None = None,
        update_cache: bool = False,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple:
        r"""
        Returns the output of the last layer as `last_hidden_state`, of shape
        `(batch_size, sequence_length, hidden_size)`. The arguments are those of
        [`DLMForDiffusion.forward`].
        """
        config = self.config
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        self._check_arguments(
            {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "estimate": estimate},
            {
                "use_cache": use_cache,
                "output_attentions": output_attentions,
                "output_hidden_states": output_hidden_states and config.denoiser == "unet",
            },
        )
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        shape = inputs.shape[:2]
        layout = self.make_layout(
            inputs, attention_mask, position_ids, segment_ids, prompt_mask, class_ids, block_ids,
            clean_mask,
        )  # fmt: skip
        t_BxL = torch.zeros(shape, device=inputs.device)
        if timesteps is not None:
            t_BxL = timesteps.float().reshape(len(timesteps), -1).expand(shape)
        c = None
        if self.conditioning is not None:
            c = self.conditioning(t_BxL, layout.class_B)
        if config.gaussian is None:
            x = self.embed_tokens(input_ids)
        else:
            x = self.embed(inputs_embeds, estimate)
        states = []
        if config.denoiser == "unet":
            x = self.unet(x, c, layout)
        else:
            cache = KeyValueCache() if cache is None else cache
            x = self._transformer(x, c, layout, cache, update_cache, states)
        h = self.norm(x)
        if self.final_modulation is not None:
            scale, shift, _ = self.final_modulation(c)
            h = h * scale + shift
        output = BaseModelOutput(
            last_hidden_state=h, hidden_states=(*states, h) if output_hidden_states else None
        )
        return_dict = config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _check_arguments(self, inputs: dict, outputs: dict):
        """Raises ValueError for wrong inputs, and for outputs that the model does not have."""
        gaussian, wanted = self.config.gaussian, {"input_ids"}
        if gaussian is not None:
            wanted = {"inputs_embeds"}
            if gaussian["self_conditioning"] or inputs["estimate"] is not None:
                wanted.add("estimate")
        if {name for name, x in inputs.items() if x is not None} != wanted:
            names = " and ".join(sorted(wanted, reverse=True))
            raise ValueError(f"a {self.config.objective} model reads {names} only")
        if refused := [name for name, wrong in outputs.items() if wrong]:
            raise ValueError(f"{' and '.join(refused)}: this model does not return them")

    def make_layout(
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
        """Returns the [`Layout`] of a batch, given arguments of [`DLMForDiffusion.forward`].

        By default, a row is one document without the padding of `attention_mask`, no token belongs
        to a prompt, no row has a class, and a block that contains a mask is being denoised.
        """
        shape, device = inputs.shape[:2], inputs.device
        if segment_ids is None:
            segment_ids = torch.ones(shape, dtype=torch.long, device=device)
            if attention_mask is not None:
                segment_ids = attention_mask.long()
        if position_ids is None:
            column = torch.arange(shape[1], device=device)
            starts = F.pad(segment_ids[:, 1:] != segment_ids[:, :-1], (1, 0))
            start = column.where(starts, 0).cummax(dim=1).values
            position_ids = (column - start) * (segment_ids > 0)
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

    def _transformer(self, x, c, layout, cache, update_cache, states):
        """Returns the output of the layers of a Transformer; appends their inputs to `states`."""
        config = self.config
        rotary = rotary_angles(layout.positions_BxL, config.head_dim, config.rope_theta)
        source = None
        if config.source == "cross_attention":
            own = make_attention_mask(layout, layout, "full")
            first_BxL, padding_BxL = layout.positions_BxL == 0, layout.segments_BxL == 0
            source_mask = own & (layout.prompt_mask_BxL | first_BxL | padding_BxL)[:, None, None]
            source_BxLxD = x
            for layer in self.source_layers:
                source_BxLxD = layer(source_BxLxD, None, source_mask, rotary)
            source = self.source_norm(source_BxLxD), source_mask
            mask = own & ~layout.prompt_mask_BxL[:, None, None]
        else:
            keys = layout if cache.layout is None else cache.layout + layout
            mask = make_attention_mask(layout, keys, config.attention)
            if update_cache:
                cache.layout = keys
        for number, layer in enumerate(self.layers):

            def extend(key_values, number=number):
                return cache.extend(number, key_values, update_cache)

            states.append(x)
            x = layer(x, c, mask, rotary, layout.segments_BxL > 0, source, extend)
        return x


class DLMForDiffusion(DLMGenerationMixin, DLMPreTrainedModel, GenerationMixin):
    """The network with its head, and `generate` (generation_dlms.py).

    Args:
        config ([`DLMConfig`]): the network and its objective.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    accepts_loss_kwargs = True  # tells Trainer that the loss is divided by num_items_in_batch

    def __init__(self, config: DLMConfig):
        super().__init__(config)
        self.model = DLMModel(config)
        rows = config.vocab_size
        if config.gaussian is not None and config.gaussian["head"] == "embedding":
            rows = config.gaussian["embedding_size"]
        self.lm_head = nn.Linear(config.hidden_size, rows, bias=False)
        # Trainer counts the labels that the loss scores: the first one only if it is not shifted.
        causal = config.objective == "autoregressive"
        self.loss_type = "ForCausalLM" if causal else "ForMaskedLM"
        self.post_init()

    def get_input_embeddings(self):
        return getattr(self.model, "embed_tokens", None)

    def get_output_embeddings(self):
        return self.lm_head

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        timesteps: torch.FloatTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        prompt_mask: torch.BoolTensor | None = None,
        class_ids: torch.LongTensor | None = None,
        block_ids: torch.LongTensor | None = None,
        clean_mask: torch.BoolTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        estimate: torch.FloatTensor | None = None,
        cache: KeyValueCache | None = None,
        update_cache: bool = False,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> MaskedLMOutput | tuple:
        r"""
        Predicts tokens.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Tokens, with `mask_token_id` where there is none yet. Required except in Gaussian
                diffusion.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                0 at padding, 1 elsewhere. Defaults to no padding.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                The tokens to predict; -100 is ignored. The loss is their mean cross-entropy, 0 if
                all are -100. It is shifted by one position if the model is autoregressive: pass
                `labels=input_ids`. Gaussian diffusion has no loss here.
            timesteps (`torch.FloatTensor` of shape `(batch_size,)` or
                `(batch_size, sequence_length)`, *optional*): The time of each row or token, from 0
                (clean) to 1 (noise); 0 by default. Used only if the network is conditioned on time
                (`config.conditioning`). In uniform and Gaussian diffusion, given tokens have time
                0.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                The position of each token in its document. Derived from `segment_ids` by default.
            segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                The document of each token, 1, 2, ..., if a row has several; 0 at padding. Defaults
                to `attention_mask`.
            prompt_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
                True at the tokens of a prompt. Defaults to no prompt.
            class_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                The class of each row, from 1 (`config.class_names`); 0, the default, means none.
            block_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                In block diffusion, the block of each token. Derived from `position_ids` by default.
            clean_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
                In block diffusion, True in finished blocks and False in those being denoised. By
                default, the blocks without a mask are finished.
            inputs_embeds (`torch.FloatTensor` of shape
                `(batch_size, sequence_length, embedding_size)`, *optional*): In Gaussian diffusion,
                the noisy embeddings z, instead of `input_ids`.
            estimate (`torch.FloatTensor` of shape
                `(batch_size, sequence_length, embedding_size)`, *optional*): In Gaussian diffusion,
                an estimate of the clean embeddings, which self-conditioning reads.
            cache ([`KeyValueCache`], *optional*):
                Keys and values of positions that were read before, to which these attend, too.
            update_cache (`bool`, *optional*, defaults to `False`):
                Whether to add the keys and values of these positions to `cache`.
            use_cache, output_attentions (`bool`, *optional*):
                `True` is an error: the model returns neither (see `cache`).
            output_hidden_states (`bool`, *optional*):
                Whether to return `hidden_states`: the input of each layer, and `last_hidden_state`.
                An error for a U-Net.
            return_dict (`bool`, *optional*): `False` returns a tuple.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                What the sum of the loss is divided by, which `Trainer` passes: the number of labels
                of all batches whose gradients it accumulates. Defaults to that of this batch.

        Returns:
            [`~transformers.modeling_outputs.MaskedLMOutput`] with `logits` of shape
            `(batch_size, sequence_length, vocab_size)` in float32, and `loss` if `labels` are
            given. Position i predicts token i; in an autoregressive model, token i + 1. (If
            Gaussian diffusion predicts embeddings, `config.gaussian["head"]` is `"embedding"` and
            the last axis is `embedding_size`.)

        Example:

        ```python
        >>> model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
        >>> inputs = tokenizer("The <|mask|> of", return_tensors="pt")
        >>> probabilities = model(**inputs).logits.softmax(-1)
        ```
        """
        states = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            timesteps=timesteps,
            position_ids=position_ids,
            segment_ids=segment_ids,
            prompt_mask=prompt_mask,
            class_ids=class_ids,
            block_ids=block_ids,
            clean_mask=clean_mask,
            inputs_embeds=inputs_embeds,
            estimate=estimate,
            cache=cache,
            update_cache=update_cache,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(states.last_hidden_state).float()
        if self.config.shift:
            logits = logits.roll(1, dims=1)
        loss = None if labels is None else self._loss(logits, labels, num_items_in_batch)
        output = MaskedLMOutput(loss=loss, logits=logits, hidden_states=states.hidden_states)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _loss(self, logits, labels, number):
        """Returns the cross-entropy: its sum divided by `number`, or its mean if that is `None`."""
        if self.config.gaussian is not None:
            raise ValueError("labels: Gaussian diffusion has no loss here; train it with dlms_jax")
        if self.config.objective == "autoregressive":
            labels = F.pad(labels[:, 1:], (0, 1), value=-100)
        labels = labels.flatten().to(logits.device)
        total = F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")
        if number is None:
            number = (labels != -100).sum()
        return total / torch.as_tensor(number, device=total.device).clamp(min=1)
