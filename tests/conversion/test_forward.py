"""An export as a model of transformers: its arguments, its loss, and training with Trainer."""

import inspect

from conversion.exported import random_checkpoint
import pytest

from dlms_jax.conversion.export import export

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dlms_jax.conversion.pytorch.modeling_dlms import DLMForDiffusion  # noqa: E402

OBJECTIVES = {
    "masked": {},
    "autoregressive": {"objective__name": "autoregressive"},
    "gaussian": {"objective__name": "gaussian", "gaussian__embedding_size": 16},
    "unet": {"model__name": "unet", "objective__name": "uniform"},
}


@pytest.fixture(scope="module", params=OBJECTIVES)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    source = random_checkpoint(folder / "run", **OBJECTIVES[request.param])
    export(source, folder / request.param, verify=False)
    return folder / request.param


def load(folder):
    return DLMForDiffusion.from_pretrained(folder)


def batch(folder, rows=16, seed=0):
    """Returns input_ids and labels, a different number of them in each row."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 256, (rows, 12), generator=random)
    hidden = torch.rand(rows, 12, generator=random) < torch.linspace(0.1, 0.9, rows)[:, None]
    hidden[0] = False  # a row without labels
    return {"input_ids": tokens.masked_fill(hidden, 259), "labels": tokens.where(hidden, -100)}


def losses(folder):
    if folder.name == "gaussian":
        pytest.skip("Gaussian diffusion has no loss in PyTorch")
    return load(folder), batch(folder)


class Recorder(transformers.Trainer):
    """A Trainer that keeps the gradients of its first update."""

    def _clip_grad_norm(self, model):
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        return super()._clip_grad_norm(model)


def test_trainer_gives_the_same_gradient_for_every_number_of_accumulation_steps(folder, tmp_path):
    if folder.name == "unet":
        pytest.skip("slow, and the loss is that of the Transformer")
    _, rows = losses(folder)
    rows = [{name: x[i] for name, x in rows.items()} for i in range(16)]
    found = {}
    for steps in (1, 4, 16):
        arguments = transformers.TrainingArguments(
            tmp_path / str(steps), per_device_train_batch_size=16 // steps, max_steps=1,
            gradient_accumulation_steps=steps, logging_steps=1, report_to=[], use_cpu=True,
            save_strategy="no", disable_tqdm=True, max_grad_norm=1e9,
        )  # fmt: skip
        trainer = Recorder(load(folder), arguments, train_dataset=rows)
        trainer.train()
        found[steps] = trainer.state.log_history[0]["loss"], trainer.gradients
    model = load(folder)
    both = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    loss = model(**both).loss
    loss.backward()
    for logged, gradients in found.values():
        assert logged == pytest.approx(loss.item(), rel=1e-4)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_loss_without_labels_is_0_with_a_gradient_of_0(folder):
    model, rows = losses(folder)
    for number in (None, 0, torch.tensor(0)):
        model.zero_grad()
        labels = torch.full_like(rows["labels"], -100)
        loss = model(rows["input_ids"], labels=labels, num_items_in_batch=number).loss
        loss.backward()
        assert loss.item() == 0
        assert all((p.grad == 0).all() for p in model.parameters())


def test_the_loss_is_the_mean_and_its_sum_divided_by_the_number(folder):
    model, rows = losses(folder)
    labels = rows["labels"]
    if folder.name == "autoregressive":
        logits, labels = model(**rows).logits[:, :-1], labels[:, 1:]
    else:
        logits = model(**rows).logits
    scored = labels != -100
    log_p = logits.log_softmax(-1)[scored].gather(-1, labels[scored][:, None])
    torch.testing.assert_close(model(**rows).loss, -log_p.mean())
    torch.testing.assert_close(model(**rows, num_items_in_batch=7).loss, -log_p.sum() / 7)


def inputs_of(model):
    if model.config.gaussian is None:
        return {"input_ids": torch.tensor([[257, 1, 259, 2]])}
    z = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    return {"inputs_embeds": z, "estimate": torch.zeros_like(z)}


def test_unknown_arguments_are_errors(folder):
    model = load(folder)
    for name in ("attention_masks", "past_key_values", "token_type_ids", "logits_to_keep"):
        for network in (model, model.model):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                network(**inputs_of(model), **{name: None})


def test_the_signature_names_every_argument(folder):
    """Trainer passes on the columns of a data set that the signature names."""
    model = load(folder)
    names = inspect.signature(model.forward).parameters
    assert all(p.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD for p in names.values())
    own = set(inspect.signature(model.model.forward).parameters)
    assert set(names) == own | {"labels", "num_items_in_batch"}


@torch.no_grad()
def test_standard_arguments_are_honoured_or_refused(folder):
    model = load(folder)
    inputs = inputs_of(model)
    plain = model(**inputs)
    as_tuple = model(**inputs, return_dict=False)
    assert type(as_tuple) is tuple and len(as_tuple) == 1
    assert torch.equal(as_tuple[0], plain.logits) and plain.hidden_states is None
    assert type(model.model(**inputs, return_dict=False)) is tuple
    nothing = dict.fromkeys(("use_cache", "output_attentions", "output_hidden_states"), False)
    assert torch.equal(model(**inputs, **nothing).logits, plain.logits)
    for name in ("use_cache", "output_attentions"):
        with pytest.raises(ValueError, match=f"{name}: this model does not return them"):
            model(**inputs, **{name: True})
    if folder.name == "unet":
        with pytest.raises(ValueError, match="output_hidden_states: this model does not"):
            model(**inputs, output_hidden_states=True)
        return
    states = model(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == model.config.num_hidden_layers + 1
    layers = []
    hooks = [x.register_forward_hook(lambda *a: layers.append(a[-1])) for x in model.model.layers]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    for state, output in zip(states[1:-1], layers[:-1], strict=True):
        assert torch.equal(state, output)
    assert torch.equal(states[-1], model.model(**inputs).last_hidden_state)
    assert torch.equal(model.lm_head(states[-1]), plain.logits)


def test_wrong_inputs_are_errors(folder):
    model = load(folder)
    tokens, z = torch.tensor([[257, 1]]), torch.zeros(1, 2, 16)
    gaussian = model.config.gaussian is not None
    message = "reads inputs_embeds and estimate only" if gaussian else "reads input_ids only"
    wrong = [{"input_ids": tokens, "inputs_embeds": z}, {}]
    wrong += [{"inputs_embeds": z}, {"input_ids": tokens, "estimate": z}]
    for inputs in wrong:
        with pytest.raises(ValueError, match=message):
            model(**inputs)
    if gaussian:
        with pytest.raises(ValueError, match="labels: Gaussian diffusion has no loss"):
            model(**inputs_of(model), labels=torch.zeros(1, 4, dtype=torch.long))


def test_only_an_autoregressive_model_is_a_causal_one(folder):
    """Others do not predict the next token, which is what lm-eval's `hf` model reads."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    if folder.name == "autoregressive":
        assert type(load(folder, trust_remote_code=True)).__name__ == "DLMForDiffusion"
        return
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        load(folder, trust_remote_code=True)
