"""Records of JSON lines -> examples: token ids, and which of them are learned."""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import json
import pathlib
from typing import Any, Literal, NamedTuple

import numpy as np

from dlms_jax.data.chat.template import compile_template, render_template, spellings_of
from dlms_jax.data.checks import check_fields
from dlms_jax.data.corpora.streams import open_stream
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}  # other roles have the same names


class Example(NamedTuple):
    """One conversation of n tokens.

    Attributes:
      tokens: int32 [n]: BOS, the task's token if there is a task, the conversation, EOS.
      loss_mask: bool [n]: True in answers and at the EOS that ends each.
      prompt_length: the number of tokens before the first scored one.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    prompt_length: int


@dataclasses.dataclass(frozen=True)
class ChatOptions:
    """How a record becomes an example.

    Attributes:
      template: the text of a chat template, see `load_template`; "" for prompts and responses only.
      prompt_field, response_field, messages_field: the fields of a record.
      task: a special token of the tokenizer, which is put after BOS to name the task.
      task_field: the field in which a record names its own task, instead; "": no field.
      score: which answers are learned. For each of these, the template must leave the text before
        the answer as it was, which "all" cannot have if a template drops old reasoning, for
        example.
    """

    template: str = ""
    prompt_field: str = "prompt"
    response_field: str = "response"
    messages_field: str = "messages"
    task: str = ""
    task_field: str = "task"
    score: Literal["last", "all"] = "all"

    def __post_init__(self):
        check_fields(self, {})
        if self.score not in ("last", "all"):
            raise UserError(
                f"score={self.score!r}: the answers that are learned are 'last' or 'all'"
            )
        if self.template:
            compile_template(self.template)


def read_examples(
    paths: str | pathlib.Path | Iterable[str | pathlib.Path],
    tokenizer: Tokenizer,
    options: ChatOptions,
    check: Callable[[Example], None] | None = None,
) -> Iterator[Example]:
    """Yields the examples of JSON lines files (.gz, .zst and .bz2 too), in order.

    Args:
      paths: the files.
      tokenizer: the tokenizer of the model that is fine-tuned.
      options: how a record becomes an example.
      check: is called with each example, and may raise UserError.

    Raises:
      UserError: a record cannot be read, has no answer, or does not pass `check`; the message names
        the file and line.
    """
    for path in [paths] if isinstance(paths, str | pathlib.Path) else paths:
        empty = True
        try:
            with open_stream(pathlib.Path(path)) as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield _read(line, f"{path}:{number}", tokenizer, options, check)
                        empty = False
        except (EOFError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path} cannot be read: {reason}") from None
        if empty:
            raise UserError(f"{path} is empty; each line must be a JSON object")


def _read(line, place, tokenizer, options, check) -> Example:
    try:
        example = encode_example(_parse(line), tokenizer, options)
        if check:
            check(example)
        return example
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    except RecursionError:
        raise UserError(f"{place}: this JSON has too many nested brackets") from None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))  # a byte-order mark may open the file
    except UnicodeDecodeError:
        raise UserError("this line is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"this is not JSON: {error.msg}, column {error.colno}") from None
    except ValueError as error:  # a number of 5000 digits
        raise UserError(f"this JSON cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise UserError('this is not a JSON object; write {"prompt": ..., "response": ...}')
    return record


def encode_example(record: dict[str, Any], tokenizer: Tokenizer, options: ChatOptions) -> Example:
    """Returns the example of one record."""
    messages, places = _messages(record, options, answered=True)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise UserError("no message has the role 'assistant', so there is nothing to learn")
    if options.score == "last":
        answers = answers[-1:]
    for i in answers:
        if not messages[i].get("content", "").strip() and not messages[i].get("tool_calls"):
            raise UserError(f"{places[i]} is empty: an answer must have text")
    tokens, loss_mask = _Encoder(record, messages, tokenizer, options).encode(answers, places)
    if tokens[-1] != tokenizer.eos_id:
        tokens = np.append(tokens, np.int32(tokenizer.eos_id))
        loss_mask = np.append(loss_mask, True)
    return Example(tokens, loss_mask, int(loss_mask.argmax()))


def encode_prompt(record: dict[str, Any], tokenizer: Tokenizer, options: ChatOptions) -> np.ndarray:
    """Returns the int32 ids of a prompt, after which the answer to its last message is sampled."""
    messages, places = _messages(record, options, answered=False)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    answers = answers if options.score == "all" else []
    encoder = _Encoder(record, messages, tokenizer, options)
    return encoder.encode(answers, places, ask=True)[0]


# A record -> messages


def _messages(record, options, answered):
    """Returns a record's messages, and the place of each in it.

    answered: whether the record has a response.
    """
    field = next((f for f in (options.messages_field, "conversations") if f in record), None)
    if field is None:
        fields = {"user": options.prompt_field, "assistant": options.response_field}
        roles = ("user", "assistant") if answered else ("user",)
        messages = [{"role": role, "content": _text(record, fields[role])} for role in roles]
        return messages, [f"the field {fields[role]!r}" for role in roles]
    if not options.template:
        raise UserError(f"the field {field!r} needs a chat template: set one")
    if not isinstance(record[field], list) or not record[field]:
        raise UserError(f"the field {field!r} must be a list of messages, one or more")
    places = [f"{field}[{i}]" for i in range(len(record[field]))]
    return list(map(_message, record[field], places)), places


def _message(message, place) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise UserError(f'{place} must be {{"role": ..., "content": ...}}')
    if "from" in message and "role" not in message:  # ShareGPT
        role, content = _text(message, "from", place), _text(message, "value", place)
        return {"role": SHAREGPT_ROLES.get(role, role), "content": content}
    # null means absent, as in OpenAI's files; templates would write "None"
    message = {key: value for key, value in message.items() if value is not None}
    _text(message, "role", place)
    if "content" in message or "tool_calls" not in message:
        _text(message, "content", place)
    return message


def _text(record, field, place="the record") -> str:
    if field not in record:
        raise UserError(f"{place} has no field {field!r}")
    if not isinstance(record[field], str):
        raise UserError(f"{place}: the field {field!r} must be text")
    return record[field]


def _task_ids(record, tokenizer, options) -> list[int]:
    task = options.task
    if options.task_field and options.task_field in record:
        task = _text(record, options.task_field)
    own = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id)
    if task and tokenizer.special_ids.get(task, tokenizer.bos_id) in own:
        raise UserError(
            f"the task {task!r} must be a special token of the tokenizer, and not its BOS, EOS, "
            "padding or mask: add it to the tokenizer, or set task_field to '' if it is not a task"
        )
    return [tokenizer.special_ids[task]] if task else []


# Messages -> tokens


class _Encoder:
    """Renders and encodes the messages of one record, in which special tokens are hidden."""

    def __init__(self, record, messages, tokenizer, options):
        names = {number: name for name, number in tokenizer.special_ids.items()}
        self._tokenizer, self._template = tokenizer, options.template
        self._spellings = spellings_of(tuple(tokenizer.special_ids))
        self._start = [tokenizer.bos_id, *_task_ids(record, tokenizer, options)]
        self._eos = names[tokenizer.eos_id]
        given = {name: record.get(name) for name in ("tools", "documents")}
        used = options.template + json.dumps([messages, given], ensure_ascii=False, default=str)
        stand_ins = self._spellings.stand_ins(used)
        self._restore = {ord(stand_in): char for char, stand_in in stand_ins.items()}
        self._messages = self._spellings.hide(messages, stand_ins)
        self._variables = self._spellings.hide(given, stand_ins)
        self._variables |= {"bos_token": names[tokenizer.bos_id], "eos_token": self._eos}

    def encode(self, answers, places, ask=False):
        """Returns the ids, from BOS on, and which of them are learned: those of `answers`.

        ask: whether the text continues to where the answer to the last message starts.
        """
        pieces = []
        text, start = "", 0  # what is rendered so far, and how much of it is encoded
        for i in answers:
            prompt = self._rendered(i, True, text, places)
            text = self._rendered(i + 1, False, prompt, places)
            end, stop = self._end_of_answer(text, len(prompt))
            if end == len(prompt):
                raise UserError(f"{places[i]}: the chat template writes nothing for this answer")
            pieces += [(prompt[start:], False), (text[len(prompt) : stop], True)]
            start = stop
        if ask:
            prompt = self._rendered(len(self._messages), True, text, places)
            pieces.append((prompt[start:], False))
        ids = [self._ids(piece) for piece, _ in pieces]
        learned = [
            np.full(len(x), is_learned) for x, (_, is_learned) in zip(ids, pieces, strict=True)
        ]
        ids, learned = np.concatenate(ids), np.concatenate(learned)
        if len(ids) and ids[0] == self._tokenizer.bos_id:  # the template's own
            ids, learned = ids[1:], learned[1:]
        ids = np.concatenate([np.array(self._start, np.int32), ids])
        return ids, np.pad(learned, (len(self._start), 0))

    def _rendered(self, number, ask, before, places):
        """Returns the text of the first messages, which must begin with the text `before`."""
        text = render_template(
            self._template, self._messages[:number], add_generation_prompt=ask, **self._variables
        )
        if not text.startswith(before):
            raise UserError(
                f"{places[max(number - 1, 0)]}: here the chat template changes what it wrote "
                "before, so the answers cannot be found: use score='last', or another template"
            )
        return text

    def _end_of_answer(self, text, start):
        """Returns where an answer that starts at `start` ends, without and with its EOS."""
        for match in self._spellings.any.finditer(text, start):
            if match[0] == self._eos:
                return match.span()
        return len(text), len(text)

    def _ids(self, text) -> np.ndarray:
        ids = [np.zeros(0, np.int32)]
        for i, part in enumerate(self._spellings.any.split(text)):
            if i % 2:  # a special token
                ids.append(np.array([self._tokenizer.special_ids[part]], np.int32))
            elif part:
                ids.append(self._tokenizer.encode(part.translate(self._restore)))
        return np.concatenate(ids)
