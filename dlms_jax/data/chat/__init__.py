"""CONVERSATIONS -> TOKEN IDS WITH A LOSS MASK -> ROWS: fine-tuning data.

A record is {"prompt": text, "response": text}, or {"messages": [{"role": ..., "content": ...},
...]}, or ShareGPT's {"conversations": [{"from": ..., "value": ...}, ...]}. A chat template (Jinja,
as in Hugging Face tokenizers) turns messages into text. Without one, an example is BOS, the prompt,
the response and EOS.

- An answer is what its message adds to the rendered text, up to the first EOS that the template
  writes for it. It is learned together with that EOS, or with one that is added after the last
  answer. Text after the EOS belongs to the next prompt. Messages after the last answer are left
  out.
- Prompts and answers are encoded separately, so no token spans a border, and `encode_prompt`, which
  is for sampling, gives the ids that training saw.
- A special token in the template becomes its id if the tokenizer knows it, and is ordinary text
  otherwise (the example still ends with EOS). A special token in a message is always ordinary text.
- `strftime_now` always gives 26 July 2024 (the date that Llama's templates use without it), because
  tokens must not depend on the day. It is undefined for templates that check whether it is defined,
  which have a date of their own.
"""

from dlms_jax.data.chat.examples import (
    ChatOptions,
    Example,
    encode_example,
    encode_prompt,
    read_examples,
)
from dlms_jax.data.chat.rows import check_fit, keep_fitting, pack_examples, pad_examples
from dlms_jax.data.chat.template import load_template

__all__ = [
    "ChatOptions",
    "Example",
    "check_fit",
    "encode_example",
    "encode_prompt",
    "keep_fitting",
    "load_template",
    "pack_examples",
    "pad_examples",
    "read_examples",
]
