"""Fine-tuning data: conversations -> tokens that say what is learned -> rows.

A record is {"prompt": text, "response": text}, or {"messages": [{"role": ..., "content": ...},
...]}, or ShareGPT's {"conversations": [{"from": ..., "value": ...}, ...]}. A chat template (Jinja,
as Hugging Face tokenizers have it) makes text of messages. Without one, an example is BOS, the
prompt as it stands, the response as it stands, EOS.

- An answer is what its message adds to the rendering, as far as the first EOS the template writes
  for it. It is learned with that EOS, or with one that is put after the last answer. What stands
  after the EOS belongs to the next prompt; messages after the last answer are left out.
- Prompts and answers are encoded apart, so no token spans a border and `encode_prompt`, which is
  for sampling, gives the ids that training saw.
- What a template spells is special where the tokenizer knows it, and ordinary text where not (the
  example still ends with EOS). What a message spells is always ordinary text.
- `strftime_now` is undefined: tokens must not depend on the day. Templates that ask whether it is
  defined have a date of their own for this case.
"""

from dlms_jax.data.chat.examples import (
    ChatOptions,
    Example,
    encode_example,
    encode_prompt,
    read_examples,
)
from dlms_jax.data.chat.rows import keep_fitting, pack_examples, pad_examples
from dlms_jax.data.chat.template import load_template

__all__ = [
    "ChatOptions",
    "Example",
    "encode_example",
    "encode_prompt",
    "keep_fitting",
    "load_template",
    "pack_examples",
    "pad_examples",
    "read_examples",
]
