from dlms_jax.config import default_config


def get_config():
    c = default_config()
    c.name = "tiny"
    c.model.width = 128
    c.model.num_layers = 4
    c.model.num_heads = 4
    c.model.feed_forward = 352
    c.model.dtype = "float32"
    c.data.sequence_length = 256
    c.optimizer.name = "muon"
    c.optimizer.peak_learning_rate = 2e-3
    c.optimizer.muon_learning_rate = 0.02
    c.optimizer.warmup_steps = 50
    c.training.steps = 1000
    c.training.batch_size = 16
    c.training.log_every = 10
    c.evaluation.every = 250
    c.evaluation.rows = 128
    c.evaluation.samples = 4
    c.checkpoint.every = 250
    return c
