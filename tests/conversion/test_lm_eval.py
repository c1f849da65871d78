"""lm-eval's `hf` model reads an autoregressive export, and gives our likelihoods."""

from conversion.exported import random_checkpoint
import jax
import numpy as np
import pytest

from dlms_jax.conversion.export import export
from dlms_jax.conversion.parity import Ours
from dlms_jax.diffusion import Layout


@pytest.mark.slow  # needs pip install -e '.[eval]'
def test_likelihoods_of_lm_eval(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    source = random_checkpoint(tmp_path / "run", objective__name="autoregressive")
    export(source, tmp_path / "out", "qwen3", verify=False)
    model = huggingface.HFLM(
        pretrained=str(tmp_path / "out"), device="cpu", dtype="float32", add_bos_token=True
    )
    pairs = [("Python is", " a language"), ("", "The quick"), ("a b", "c")]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    found = [log_p for log_p, _ in model.loglikelihood(requests)]

    ours, tokenizer = Ours(source.config, source), source.tokenizer
    for (context, text), log_p in zip(pairs, found, strict=True):
        ids = [*tokenizer.encode(context), *tokenizer.encode(text)]
        tokens = np.array([[tokenizer.bos_id, *ids]], np.int32)
        places = np.arange(tokens.shape[1], dtype=np.int32)[None]
        layout = Layout(np.ones_like(places), places)
        logits = ours.logits(tokens, np.zeros(tokens.shape, np.float32), layout)
        log_p_LxV = jax.nn.log_softmax(np.asarray(logits)[0, :, : tokenizer.size])
        first = 1 + len(tokenizer.encode(context))
        expected = sum(log_p_LxV[i - 1, tokens[0, i]] for i in range(first, tokens.shape[1]))
        assert log_p == pytest.approx(float(expected), rel=1e-5)

    # The harness puts BOS before a whole text itself: with add_bos_token it scores BOS, too.
    alone = huggingface.HFLM(
        pretrained=str(tmp_path / "out"), device="cpu", dtype="float32", add_bos_token=False
    )
    text = pairs[1][1]
    rolling = [m.loglikelihood_rolling([Instance("", {}, (text,), 0)])[0] for m in (alone, model)]
    assert rolling[0] == pytest.approx(found[1], rel=1e-5) and rolling[1] < found[1] - 1


@pytest.mark.slow  # needs pip install -e '.[eval]'
def test_lm_eval_refuses_a_diffusion_model(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    export(random_checkpoint(tmp_path / "run"), tmp_path / "out", verify=False)
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        huggingface.HFLM(pretrained=str(tmp_path / "out"), device="cpu", trust_remote_code=True)
