"""Fine-tuning data: what is learned is what the assistant said, and nobody's words are special."""

from collections import Counter
import gzip
import json
import re

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from dlms_jax.data.chat import (
    ChatOptions,
    Example,
    encode_example,
    encode_prompt,
    keep_fitting,
    load_template,
    pack_examples,
    pad_examples,
    read_examples,
)
from dlms_jax.data.tokenizers import BPETokenizer, ByteTokenizer
from dlms_jax.errors import UserError

SPECIALS = ("<|im_start|>", "<|im_end|>", "<|summarize|>", "<|start_header_id|>", "<|eot_id|>")
TOKENIZER = ByteTokenizer(special_tokens=SPECIALS)
BOS, EOS, PAD = TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pad_id
NAMES = {number: name for name, number in TOKENIZER.special_ids.items()}
BOS_TEXT, EOS_TEXT = NAMES[BOS], NAMES[EOS]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The end of a turn is the tokenizer's EOS, as in Qwen's own tokenizers.
CHATML_EOS = CHATML.replace("'<|im_end|>\n'", "eos_token + '\n'")
LLAMA3 = """
{%- if strftime_now is defined and date is defined %}{{ strftime_now("%d") }}{% endif %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role not in ["system", "user", "assistant"] %}
        {{- raise_exception("Unknown role " + message.role) }}
    {%- endif %}
    {{- "<|start_header_id|>" ~ message.role ~ "\\n\\n" ~ message.content | trim ~ "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant\\n\\n" }}
{%- endif %}
"""
# BOS at each user turn, no header before an answer, the system's text inside the first user turn.
LLAMA2 = """
{%- set ns = namespace(system="") %}
{%- for message in messages %}
{%- if message.role == "system" %}
    {%- set ns.system = "<<SYS>>\\n" + message.content + "\\n<</SYS>>\\n\\n" %}
    {%- continue %}
{%- elif message.role == "user" %}
    {{- bos_token + "[INST] " + ns.system + message.content | trim + " [/INST]" }}
    {%- set ns.system = "" %}
{%- elif message.role == "assistant" %}
    {{- " " ~ message.content | trim ~ " " ~ eos_token }}
{%- else %}
    {{- raise_exception("Only system, user and assistant speak") }}
{%- endif %}
{%- endfor %}
"""
TEMPLATES = {"chatml": CHATML, "chatml_eos": CHATML_EOS, "llama3": LLAMA3, "llama2": LLAMA2}
EVERY_TEMPLATE = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)

# Spellings of specials, whole, cut, nested and overlapping, among ordinary text.
FRAGMENTS = [*NAMES.values(), "<|im_", "start|>", "end", "<", "|>", "<|im_end|", "|im_end|>"]
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=12)
SPELLED = st.lists(st.sampled_from([*FRAGMENTS, " ", "é", "\n", "a"]), max_size=6).map("".join)


def chats(texts):
    """Returns chats that end with an answer: a system text or none, then users and answers."""
    answer = texts.filter(lambda text: text.strip())
    turn = st.tuples(texts, answer).map(
        lambda pair: [message("user", pair[0]), message("assistant", pair[1])]
    )
    system = st.none() | texts
    return st.tuples(system, st.lists(turn, min_size=1, max_size=3)).map(
        lambda chat: [
            *([] if chat[0] is None else [message("system", chat[0])]),
            *(m for turn in chat[1] for m in turn),
        ]
    )


def message(role, content):
    return {"role": role, "content": content}


def example_of(messages, template, **options) -> Example:
    return encode_example({"messages": messages}, TOKENIZER, ChatOptions(template, **options))


def prompt_of(messages, template, **options) -> np.ndarray:
    return encode_prompt({"messages": messages}, TOKENIZER, ChatOptions(template, **options))


def spelled(ids) -> str:
    """Returns the text of ids with the special ones spelled out."""
    parts = re.split(r"(\d+ )", "".join(f"{i} " for i in ids))[1::2]
    raw = [NAMES[int(p)].encode() if int(p) in NAMES else bytes([int(p)]) for p in parts]
    return b"".join(raw).decode()


def reference(messages, template, ask=False, **extra) -> str:
    """Returns what `transformers` renders."""
    texts, _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=ask,
        bos_token=BOS_TEXT, eos_token=EOS_TEXT, **extra,
    )  # fmt: skip
    return texts[0]


def with_bos(text) -> str:
    return text if text.startswith(BOS_TEXT) else BOS_TEXT + text


def learned_texts(example) -> list[str]:
    """Returns the text of each run of scored tokens."""
    edges = np.flatnonzero(np.diff(example.loss_mask, prepend=False, append=False))
    return [spelled(example.tokens[a:b]) for a, b in edges.reshape(-1, 2)]


def error_of(call, *args, **kwargs) -> str:
    """Returns the message of the UserError that a call must end with, if it is one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


# Rendering


@EVERY_TEMPLATE
@settings(deadline=None, max_examples=60)
@given(messages=chats(PLAIN))
def test_rendering_is_that_of_transformers(template, messages):
    whole = with_bos(reference(messages, template))
    if whole.rstrip().endswith(EOS_TEXT):
        whole = whole.rstrip()  # an example ends with EOS, whatever the template writes after it
    else:
        whole += EOS_TEXT
    for score in ("last", "all"):
        assert spelled(example_of(messages, template, score=score).tokens) == whole
        for ask in (messages[:-1], messages):
            expected = with_bos(reference(ask, template, ask=True))
            assert spelled(prompt_of(ask, template, score=score)) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | tojson }}{{ messages[0] | tojson(indent=2, sort_keys=true) }}",
        "{% for m in messages %}{{ m.content }}{% break %}{% endfor %}",
        "{% if true %}\n  {% set x = 1 %}\n  {{ x }}\n{% endif %}\n\n",
        "{{ tools | tojson }} {{ tools[0].name }}{{ documents is none }}",
        "{% generation %}\n{{ messages[0].content }}\n{% endgeneration %}\n.",
        "{{ messages[0].note is defined }}",
    ],
)
def test_features_of_templates_are_those_of_transformers(template):
    messages = [{"role": "user", "content": "<b>'é' & \"你\"</b>", "note": None}]
    tools = [{"name": "f<", "x": [1, 2.5, True, None]}]
    record = {"messages": messages, "tools": tools}
    without_null = [message("user", messages[0]["content"])]  # apply_chat_template drops nulls
    ids = encode_prompt(record, TOKENIZER, ChatOptions(template))
    assert spelled(ids) == BOS_TEXT + reference(without_null, template, True, tools=tools)


def test_byte_order_mark_is_no_part_of_a_template(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("\ufeff" + CHATML)
    assert load_template(tmp_path) == CHATML


def test_date_is_always_the_same():
    """Tokens must not depend on the day; a template that asks for a date of its own has that."""
    guarded = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}then{% endif %}"
    assert spelled(prompt_of([message("user", "a")], guarded)) == BOS_TEXT + "then"
    found = prompt_of([message("user", "a")], "{{ strftime_now('%d %B %Y') }}")
    assert spelled(found) == BOS_TEXT + "26 July 2024"


def test_template_is_sandboxed():
    text = error_of(prompt_of, [message("user", "a")], "{{ messages.append(1) }}")
    assert "append" in text
    error_of(prompt_of, [message("user", "a")], "{{ ''.__class__.__mro__[1].__subclasses__() }}")


# What is learned


@settings(deadline=None, max_examples=100)
@given(messages=chats(PLAIN | SPELLED))
def test_learned_is_each_answer_with_the_end_of_its_turn(messages):
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    assert learned_texts(example_of(messages, CHATML)) == [
        *(answer + "<|im_end|>\n" for answer in answers[:-1]),
        answers[-1] + "<|im_end|>\n" + EOS_TEXT,
    ]
    by_eos = [answer + EOS_TEXT for answer in answers]
    assert learned_texts(example_of(messages, CHATML_EOS)) == by_eos
    assert learned_texts(example_of(messages, LLAMA2)) == [
        f" {a.strip()} {EOS_TEXT}" for a in answers
    ]
    for template in TEMPLATES.values():
        every, last = (
            learned_texts(example_of(messages, template, score=s)) for s in ("all", "last")
        )
        assert last == every[-1:]


@EVERY_TEMPLATE
@settings(deadline=None, max_examples=60)
@given(messages=chats(PLAIN | SPELLED), score=st.sampled_from(["last", "all"]))
def test_inference_sees_the_ids_of_training(template, messages, score):
    tokens, scored, length = example_of(messages, template, score=score)
    last = np.flatnonzero(np.diff(scored, prepend=False) & scored)[-1]
    assert prompt_of(messages[:-1], template, score=score).tolist() == tokens[:last].tolist()
    assert tokens.dtype == np.int32 and scored.dtype == bool and len(tokens) == len(scored)
    assert length == np.flatnonzero(scored)[0]
    assert tokens[0] == BOS and tokens[-1] == EOS and scored[-1]
    if template != LLAMA2:
        assert (tokens == BOS).sum() == 1
    if template in (CHATML, LLAMA3):
        assert (tokens == EOS).sum() == 1
    assert tokens[-2] != EOS


def test_worked_example():
    messages = [
        message("user", "Hi"),
        message("assistant", "A"),
        message("user", ""),
        message("assistant", "B"),
    ]
    tokens, scored, length = example_of(messages, CHATML_EOS)
    text = [
        BOS_TEXT,
        "<|im_start|>user\nHi",
        EOS_TEXT,
        "\n<|im_start|>assistant\n",
        "A",
        EOS_TEXT,
        "\n<|im_start|>user\n",
        EOS_TEXT,
        "\n<|im_start|>assistant\n",
        "B",
        EOS_TEXT,
    ]
    flags = [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    sizes = [len(spelled_ids(part)) for part in text]
    assert tokens.tolist() == [i for part in text for i in spelled_ids(part)]
    assert scored.tolist() == np.repeat(np.array(flags, bool), sizes).tolist()
    assert length == sum(sizes[:4])


def spelled_ids(text) -> list[int]:
    """Returns the ids of a text whose specials are special."""
    pattern = "|".join(map(re.escape, sorted(NAMES.values(), key=len, reverse=True)))
    parts = re.split(f"({pattern})", text)
    ids = [[TOKENIZER.special_ids[p]] if i % 2 else list(p.encode()) for i, p in enumerate(parts)]
    return sum(ids, [])


@settings(deadline=None, max_examples=60)
@given(prompt=PLAIN | SPELLED, response=(PLAIN | SPELLED).filter(str.strip))
def test_without_a_template_texts_stand_as_they_are(prompt, response):
    record = {"prompt": prompt, "response": response, "other": 1}
    tokens, scored, length = encode_example(record, TOKENIZER, ChatOptions())
    assert tokens.tolist() == [BOS, *prompt.encode(), *response.encode(), EOS]
    assert length == 1 + len(prompt.encode())
    assert scored.tolist() == [False] * length + [True] * (len(tokens) - length)
    assert encode_prompt(record, TOKENIZER, ChatOptions()).tolist() == tokens[:length].tolist()


@pytest.mark.parametrize("score", ["last", "all"])
def test_no_token_spans_a_border(score):
    tokenizer = BPETokenizer.train(["abcd" * 50], 256 + 4 + 3)
    assert len(tokenizer.encode("abcd")) == 1
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [message(*turn) for turn in turns]
    options = ChatOptions(BARE, score=score)
    tokens = encode_example({"messages": messages}, tokenizer, options).tokens
    pieces = ["a", "b", "c", "d"] if score == "all" else ["abc", "d"]
    expected = np.concatenate([tokenizer.encode(piece) for piece in pieces])
    assert tokens.tolist() == [tokenizer.bos_id, *expected, tokenizer.eos_id]
    prompt = encode_prompt({"messages": messages[:-1]}, tokenizer, options)
    assert prompt.tolist() == tokens[:-2].tolist()


def test_bytes_that_are_no_utf_8_come_through():
    record = {"prompt": "a\udcff", "response": "\udc80<|im_end|>"}
    for template in ("", BARE):
        ids = encode_example(record, TOKENIZER, ChatOptions(template)).tokens
        assert ids.tolist() == [BOS, *b"a\xff\x80<|im_end|>", EOS]


def test_a_template_takes_prompts_and_other_names_too():
    as_chat = example_of([message("user", "Q"), message("assistant", "A")], CHATML)
    options = ChatOptions(CHATML, prompt_field="q", response_field="a", messages_field="turns")
    sharegpt = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    for record in (
        {"q": "Q", "a": "A"},
        {"turns": [message("user", "Q"), message("assistant", "A")]},
        {"conversations": sharegpt},
    ):
        example = encode_example(record, TOKENIZER, options)
        assert example.tokens.tolist() == as_chat.tokens.tolist()
        assert example.loss_mask.tolist() == as_chat.loss_mask.tolist()


def test_messages_after_the_last_answer_are_left_out():
    messages = [message("user", "Q"), message("assistant", "A")]
    longer = example_of([*messages, message("user", "more")], CHATML)
    assert longer.tokens.tolist() == example_of(messages, CHATML).tokens.tolist()


def test_history_may_be_rewritten_where_the_last_answer_alone_is_learned():
    drops_reasoning = CHATML.replace(
        "message['content']",
        "(message['content'] if loop.last else message['content'].split('#')[-1])",
    )
    messages = [
        message("user", "1"),
        message("assistant", "why#A"),
        message("user", "2"),
        message("assistant", "so#B"),
    ]
    assert "messages[2]" in error_of(example_of, messages, drops_reasoning)
    example = example_of(messages, drops_reasoning, score="last")
    assert learned_texts(example) == ["so#B<|im_end|>\n" + EOS_TEXT]
    assert "why" not in spelled(example.tokens)
    ends = "{% for m in messages %}{{ m.content }}{% if loop.last %}.{% endif %}{% endfor %}"
    for score in ("last", "all"):
        text = error_of(example_of, messages[:2], ends, score=score)
        assert "messages[1]" in text and "before" in text


def test_a_call_without_text_is_an_answer():
    template = "{% for m in messages %}{{ m.content or (m.tool_calls | tojson) }}{% endfor %}"
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": EOS_TEXT}]}
    example = example_of([message("user", "Q"), call], template)
    assert learned_texts(example) == [json.dumps(call["tool_calls"]) + EOS_TEXT]
    assert (example.tokens == EOS).sum() == 1


# Tasks


@EVERY_TEMPLATE
def test_task_stands_after_bos_and_a_record_has_the_last_word(template):
    record = {"prompt": "Q", "response": "A"}
    plain = encode_example(record, TOKENIZER, ChatOptions(template))
    summarize, other = (TOKENIZER.special_ids[name] for name in ("<|summarize|>", "<|im_end|>"))
    for extra, options, expected in (
        ({}, {"task": "<|summarize|>"}, [summarize]),
        ({"task": "<|im_end|>"}, {"task": "<|summarize|>"}, [other]),
        ({"task": ""}, {"task": "<|summarize|>"}, []),
        ({"task": "sums", "": "sums"}, {"task_field": ""}, []),
        ({"kind": "<|summarize|>"}, {"task_field": "kind"}, [summarize]),
    ):
        options = ChatOptions(template, **options)
        example = encode_example(record | extra, TOKENIZER, options)
        assert example.tokens.tolist() == [BOS, *expected, *plain.tokens[1:]]
        assert example.loss_mask.tolist() == [False] * len(expected) + plain.loss_mask.tolist()
        prompt = encode_prompt(record | extra, TOKENIZER, options)
        assert prompt.tolist() == example.tokens[: example.prompt_length].tolist()


@pytest.mark.parametrize("task", ["<|none|>", BOS_TEXT, NAMES[TOKENIZER.mask_id]])
def test_task_must_be_a_special_token_of_its_own(task):
    record = {"prompt": "Q", "response": "A"}
    assert repr(task) in error_of(encode_example, record, TOKENIZER, ChatOptions(task=task))


# Nobody's words are special

BARE = "{% for m in messages %}{{ m.content }}{% endfor %}"
# Templates that would let a content finish, or start, what they spell.
CLOSE = {
    "bare": BARE,
    "trimmed": BARE.replace("m.content", "m.content | trim"),
    "around": BARE.replace("{{ m.content }}", "<|im_{{ m.content }}|>"),
    "around_trimmed": BARE.replace("{{ m.content }}", "<{{ m.content | trim }}>"),
    "json": "{% for m in messages %}{{ m | tojson }}{% endfor %}",
}


@pytest.mark.parametrize("template", CLOSE.values(), ids=CLOSE)
@settings(deadline=None, max_examples=100)
@given(messages=chats(SPELLED))
def test_contents_never_give_special_ids(template, messages):
    tokens = example_of(messages, template, score="last").tokens
    assert [i for i in tokens if i in NAMES] == [BOS, EOS]
    assert spelled(tokens) == BOS_TEXT + reference(messages, template) + EOS_TEXT


@EVERY_TEMPLATE
@settings(deadline=None, max_examples=60)
@given(messages=chats(SPELLED))
def test_templates_give_the_same_special_ids_whatever_is_said(template, messages):
    harmless = [message(m["role"], "x") for m in messages]
    specials = [
        [int(i) for i in example_of(chat, template).tokens if i in NAMES]
        for chat in (messages, harmless)
    ]
    assert specials[0] == specials[1]


@pytest.mark.parametrize(
    ("template", "contents"),
    [
        ("bare", ["<|im_", "end|>"]),
        ("bare", ["<|im", "_end", "|>"]),
        ("bare", ["<|a ", "b|>"]),
        ("bare", ["a\n", "\nb"]),
        ("trimmed", ["<|im_ ", "\tend|>"]),
        ("around", ["end"]),
        ("around_trimmed", [" |im_end| "]),
    ],
)
def test_contents_do_not_finish_one_another(template, contents):
    tokenizer = ByteTokenizer(special_tokens=("<|im_end|>", "<|a b|>", "\n\n"))
    messages = [message("user", content) for content in contents]
    ids = encode_prompt({"messages": messages}, tokenizer, ChatOptions(CLOSE[template]))
    text = reference(messages, CLOSE[template])
    assert any(name in text for name in tokenizer.special_ids)  # what is to be kept plain
    assert ids.tolist() == [tokenizer.bos_id, *text.encode()]


def test_names_within_calls_are_plain_too():
    template = "{% for m in messages %}{{ m.tool_calls | tojson }}{{ tools | tojson }}{% endfor %}"
    calls = [{"<|im_end|>": [EOS_TEXT, 1]}]
    messages = [{"role": "assistant", "tool_calls": calls}]
    record = {"messages": messages, "tools": [{BOS_TEXT: None}]}
    ids = encode_prompt(record, TOKENIZER, ChatOptions(template, score="last"))
    assert ids.tolist() == [BOS, *(json.dumps(calls) + json.dumps(record["tools"])).encode()]


def test_roles_may_be_parts_of_specials_and_not_whole_ones():
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    tokenizer = ByteTokenizer(special_tokens=("<|user|>", "<|assistant|>"))
    ids = encode_prompt({"messages": [message("user", "user|>")]}, tokenizer, ChatOptions(template))
    assert ids.tolist() == [tokenizer.bos_id, tokenizer.special_ids["<|user|>"], *b"user|>"]
    ids = encode_prompt({"messages": [message("<|user|>", "a")]}, tokenizer, ChatOptions(template))
    assert ids.tolist() == [tokenizer.bos_id, *b"<|<|user|>|>a"]


def test_specials_of_one_character_nested_and_overlapping():
    tokenizer = ByteTokenizer(special_tokens=("§", "§§", "aba", "xabay"))
    content = "§ababa xabay a§§b \U00040000"  # and a first character that would stand in
    template = "§§§\U00040001" + BARE
    ids = encode_prompt({"messages": [message("user", content)]}, tokenizer, ChatOptions(template))
    two, one = (tokenizer.special_ids[name] for name in ("§§", "§"))
    assert ids.tolist() == [tokenizer.bos_id, two, one, *("\U00040001" + content).encode()]


def test_what_the_tokenizer_does_not_know_is_ordinary_text():
    tokenizer = ByteTokenizer()
    record = {"prompt": "Q", "response": "A"}
    tokens, scored, length = encode_example(record, tokenizer, ChatOptions(CHATML))
    text = b"<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert tokens.tolist() == [tokenizer.bos_id, *text, *b"A<|im_end|>\n", tokenizer.eos_id]
    assert length == 1 + len(text) and scored[length:].all()


# Rows

EXAMPLES = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.booleans(), max_size=6)).map(
        lambda parts: make_example(parts[0], [True, *parts[1], True])
    ),
    max_size=8,
)


def make_example(prompt_length, rest) -> Example:
    """Returns an example whose tokens tell where they are from."""
    body = [*range(1, prompt_length), *range(100, 99 + len(rest))]
    scored = np.array([False] * prompt_length + rest)
    return Example(np.array([BOS, *body, EOS], np.int32), scored, prompt_length)


def check_shapes(rows, number, length):
    for array, kind in zip(rows.cells, (np.int32, np.int32, np.int32, bool), strict=True):
        assert array.shape == (number, length) and array.dtype == kind
    padding = rows.segments_RxL == 0
    assert not rows.loss_mask_RxL[padding].any() and not rows.positions_RxL[padding].any()
    assert (rows.tokens_RxL[padding] == PAD).all()


@settings(deadline=None, max_examples=200)
@given(examples=EXAMPLES, length=st.integers(14, 40))
def test_packing_keeps_every_example_whole(examples, length):
    rows = pack_examples(examples, length, PAD)
    check_shapes(rows, len(rows.tokens_RxL), length)
    found = Counter()
    for tokens, segments, positions, scored in zip(*rows.cells, strict=True):
        filled = segments[segments > 0]
        assert len(filled) and (segments[: len(filled)] == filled).all()  # padding at the end only
        assert filled[0] == 1 and set(np.diff(filled)) <= {0, 1}
        for segment in range(1, filled[-1] + 1):
            part = segments == segment
            assert positions[part].tolist() == list(range(part.sum()))
            found[(*tokens[part], *scored[part])] += 1
    assert found == Counter((*e.tokens, *e.loss_mask) for e in examples)


def test_packing_fills_rows():
    examples = [make_example(3, [True] * n) for n in (7, 2, 5, 4)]  # 10, 5, 8 and 7 tokens
    assert len(pack_examples(examples, 15, PAD).tokens_RxL) == 2


@settings(deadline=None, max_examples=200)
@given(examples=EXAMPLES, more=st.integers(0, 5), eos=st.sampled_from(["once", "fill"]))
def test_padding_aligns_answers_and_moves_no_position(examples, more, eos):
    columns = 6 + more
    length = columns + 8 + more
    rows = pad_examples(examples, length, columns, PAD, EOS, eos)
    check_shapes(rows, len(examples), length)
    for example, tokens, segments, positions, scored in zip(examples, *rows.cells, strict=True):
        start, size = columns - example.prompt_length, len(example.tokens)
        end = start + size
        assert np.flatnonzero(scored)[0] == columns
        assert tokens[start:end].tolist() == example.tokens.tolist()
        assert scored[start:end].tolist() == example.loss_mask.tolist()
        assert not segments[:start].any() and (segments[start:end] == 1).all()
        assert positions[start:end].tolist() == list(range(size))
        if eos == "once":
            assert not segments[end:].any() and (tokens == EOS).sum() == 1
        else:
            assert (tokens[end:] == EOS).all() and scored[end:].all()
            assert positions[start:].tolist() == list(range(length - start))
            assert (segments[start:] == 1).all()


def test_no_examples_are_no_rows():
    check_shapes(pack_examples([], 8, PAD), 0, 8)
    check_shapes(pad_examples([], 8, 4, PAD, EOS), 0, 8)


def test_what_is_too_long_is_refused_or_counted():
    short, long = make_example(2, [True, True]), make_example(5, [True] * 4)  # 4 and 9 tokens
    text = error_of(pack_examples, [short, long], 8, PAD)
    assert "example 2" in text and "9 tokens" in text and "8" in text
    assert pack_examples([short, long], 9, PAD).tokens_RxL.shape[1] == 9
    text = error_of(pad_examples, [short, long], 20, 4, PAD, EOS)
    assert "example 2" in text and "prompt of 5" in text
    text = error_of(pad_examples, [short, long], 8, 5, PAD, EOS)
    assert "example 2" in text and "4 tokens" in text and "3 columns" in text
    assert pad_examples([short, long], 9, 5, PAD, EOS).tokens_RxL[1, -1] == EOS
    for arguments, number in (((8,), 1), ((9,), 2), ((20, 4), 1), ((8, 5), 1), ((9, 5), 2)):
        kept, left_out = keep_fitting([short, long], *arguments)
        assert len(kept) == number and left_out == 2 - number
    assert "never" in error_of(pad_examples, [], 8, 4, PAD, EOS, "never")


# Files


def write(path, *lines):
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    )
    return path


def test_files_are_read_in_order(tmp_path):
    records = [{"prompt": "Ä\u2028", "response": str(i)} for i in range(4)]
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in records]
    first = write(tmp_path / "b.jsonl", b"\xef\xbb\xbf" + lines[0], b"", b"  ", lines[1])
    second = tmp_path / "a.jsonl.gz"
    second.write_bytes(gzip.compress(lines[2] + b"\r\n" + lines[3] + b"\n"))
    found = [
        e.tokens.tolist() for e in read_examples([first, str(second)], TOKENIZER, ChatOptions())
    ]
    expected = [encode_example(record, TOKENIZER, ChatOptions()) for record in records]
    assert found == [e.tokens.tolist() for e in expected]
    assert len(list(read_examples(str(second), TOKENIZER, ChatOptions()))) == 2


GOOD = {"prompt": "a", "response": "b"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"prompt": "a", ', "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "brackets"),
        (b'{"a": ' + b"9" * 5000 + b"}", "read"),
        (b"[]", "object"),
        ({"prompt": "a"}, "'response'"),
        ({"response": "a"}, "'prompt'"),
        ({"prompt": 1, "response": "b"}, "'prompt'"),
        ({"prompt": "a", "response": None}, "'response'"),
        ({"prompt": "a", "response": " \n"}, "'response' is empty"),
        ({"prompt": "a\ud800", "response": "b"}, "surrogate"),
        (GOOD | {"task": "sum"}, "'sum'"),
        (GOOD | {"task": 3}, "'task'"),
        ({"messages": "hello"}, "'messages'"),
        ({"messages": []}, "'messages'"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "a"}]}, "messages[0] has no field 'role'"),
        ({"messages": [message(["user"], "a")]}, "messages[0]: the field 'role'"),
        ({"messages": [message("user", None)]}, "messages[0] has no field 'content'"),
        ({"messages": [message("user", [{"type": "text"}])]}, "messages[0]: the field 'content'"),
        ({"messages": [message("user", "a"), message("assistant", "")]}, "messages[1] is empty"),
        ({"messages": [message("user", "a")]}, "assistant"),
        ({"messages": [message("robot", "a"), message("assistant", "b")]}, "Unknown role robot"),
        ({"conversations": [{"from": "human"}]}, "conversations[0] has no field 'value'"),
        ({"conversations": [{"from": 1, "value": "a"}]}, "conversations[0]: the field 'from'"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(tmp_path, line, said):
    path = write(tmp_path / "chats.jsonl", GOOD, line, GOOD)
    examples = read_examples(path, TOKENIZER, ChatOptions(LLAMA3))
    assert next(examples).tokens[0] == BOS
    text = error_of(next, examples)
    assert text.startswith(f"{path}:2: ") and said in text


def test_messages_need_a_template(tmp_path):
    path = write(tmp_path / "a.jsonl", {"messages": [message("user", "a")]})
    text = error_of(list, read_examples(path, TOKENIZER, ChatOptions()))
    assert text.startswith(f"{path}:1: ") and "template" in text


def test_bad_files_are_named(tmp_path):
    missing, empty, cut = (tmp_path / name for name in ("no.jsonl", "empty.jsonl", "cut.jsonl.gz"))
    write(empty, b"", b" ")
    cut.write_bytes(gzip.compress(b'{"prompt": "a", "response": "b"}\n' * 9)[:-9])
    for path in (missing, empty, cut, tmp_path):
        assert str(path) in error_of(list, read_examples([path], TOKENIZER, ChatOptions()))


def test_template_that_ignores_an_answer_is_named():
    messages = [message("user", "a"), message("assistant", "b")]
    for template in ("fixed", "{{ messages[0].content }}", CHATML_EOS.replace("'content'", "'no'")):
        error_of(example_of, messages, template)
    ignoring = "{{ messages[0].content }}{% if messages | length > 1 %}{{ eos_token }}{% endif %}"
    assert "messages[1]" in error_of(example_of, messages, ignoring)


def test_broken_templates_are_named():
    assert "line 2" in error_of(ChatOptions, "\n{% if %}")
    assert "'first'" in error_of(ChatOptions, score="first")
    text = error_of(prompt_of, [message("user", "a")], "{{ raise_exception('no\nway') }}")
    assert text.endswith("no way")
    assert "zero" in error_of(prompt_of, [message("user", "a")], "{{ 1 // 0 }}")


def test_templates_are_found_where_hugging_face_puts_them(tmp_path):
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "Ä {{ 1 }}"}))
    assert load_template(config) == load_template(tmp_path) == "Ä {{ 1 }}"
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert load_template(str(tmp_path)) == "d"
    own = tmp_path / "chat_template.jinja"
    own.write_text(LLAMA2, encoding="utf-8")
    assert load_template(tmp_path) == load_template(own) == LLAMA2


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"{", b"[]", b'{"a": 1}', b'{"chat_template": 1}', b'{"chat_template": ["a"]}',
     b'{"chat_template": [{"name": "rag", "template": "a"}]}'],
)  # fmt: skip
def test_files_without_a_template_are_named(tmp_path, content):
    config = tmp_path / "tokenizer_config.json"
    config.write_bytes(content)
    assert str(config) in error_of(load_template, tmp_path)


def test_missing_templates_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "no.jinja"):
        assert str(path) in error_of(load_template, path)
