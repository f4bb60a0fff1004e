"""Makes the tiny tokenizers and chat templates of tests/data/text and what others make of them.

Needs transformers 5, tokenizers, sentencepiece, gguf and regex. Run from the root of the repository:

    python tests/scripts/make_tokenizers.py

Writes tests/data/text/<name>/ (one repository's tokenizer files each), tokens.json (ids by
SentencePiece itself, or by transformers, for every text) and chats.json (prompts by
transformers' apply_chat_template) and, where the published vocabularies are at hand, vocabularies.json
(ids by SentencePiece or by plain_bpe below). Everything else is made here: the corpus, the tokenizers, the templates.
"""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import regex
import sentencepiece
import transformers
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

OUT = Path("tests/data/text")

CORPUS = """The ship sails at dawn. Every sailor knows the harbour and the old lighthouse.
She counted 12 gulls, then 345 more; nobody believed her story about 2024.
def area(width, height):
    return width * height  # spaces matter
Der Fluß ist breit, die Brücke schmal. Où est l'église du village?
Мы видели море утром. 海は広いな大きいな。
It's the captain's boat, isn't it? We'll see what they've found.
A   few    odd     spaces and	tabs.
"""

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n \n",
    "Hello world",
    " Hello world",
    "  Hello  world  ",
    "The ship sails at dawn.",
    "It's isn't WE'LL they've",
    "x = 12345;\n\treturn x\r\n",
    "naïve Ærøskøbing e\u0301 \u00e9 ﬁ ① Ⅷ",
    "море 海は広い 한국어 ไทย العربية",
    "emoji 😀👩‍👩‍👧‍👦🇩🇪 end",
    "tab\tnew\nline\u00a0nbsp\u3000wide\u200bzero",
    "one<s>two</s> three</s>",
    "<s>Hello</s>",
    "▁under ▁ score▁",
    "<mark>Hello <mark> world<mark>",
    "a\u0000b\u0007c\ufffd",
    "..." * 7 + "!!??",
]


# A few rules in place of NFKC, whose map alone takes 240 KB: from and to, in code points.
RULES = "FB01\t66 69\n2460\t31\n2167\t56 49 49 49\n3000\t20\nA0\t20\n65 301\tE9\n9\t20\nA\t20\n200B\t\n"


def clean(name):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def spm(name, kind, config, **options):
    """A SentencePiece model; ids are those of SentencePiece for plain text, and are checked to be."""
    folder = clean(name)
    corpus = folder / "corpus.txt"
    corpus.write_text(CORPUS * 20, encoding="utf-8")
    rules = folder / "rules.tsv"
    rules.write_text(RULES, encoding="utf-8")
    if options.pop("has_rules", False):
        options["normalization_rule_tsv"] = str(rules)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        model_type=kind,
        vocab_size=options.pop("vocab_size", 420),
        character_coverage=1.0,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    rules.unlink()
    corpus.unlink()
    (folder / "tokenizer.vocab").unlink()
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "config.json", {"model_type": "llama"})
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return folder, processor


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_cases(path, found):
    """One case a line."""
    lines = []
    for name, cases in found.items():
        rows = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in cases)
        lines.append(f" {json.dumps(name)}: [\n{rows}\n ]")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def without_special(text):
    return not any(token in text for token in ("<s>", "</s>", "<unk>"))


def spm_cases(folder, processor):
    """Plain texts by SentencePiece; texts with special tokens by the tokenizer that transformers builds when
    no class of its own stands in between."""
    generic = transformers.TokenizersBackend.from_pretrained(folder)
    cases = []
    for text in TEXTS:
        if without_special(text):
            ids = processor.encode(text)
            by = "sentencepiece"
        else:
            ids = generic(text, add_special_tokens=False)["input_ids"]
            by = "transformers"
        decoded = generic.decode(ids, skip_special_tokens=True)
        cases.append({"text": text, "ids": ids, "by": by, "decoded": decoded})
    return cases


def fast_cases(tokenizer):
    cases = []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        cases.append(
            {
                "text": text,
                "ids": ids,
                "by": "transformers",
                "decoded": tokenizer.decode(ids, skip_special_tokens=True),
                "special": tokenizer(text)["input_ids"],
            }
        )
    return cases


def byte_level(name, files):
    folder = clean(name)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        (CORPUS * 20).splitlines(keepends=True),
        trainers.BpeTrainer(
            vocab_size=420,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|endoftext|>"],
            show_progress=False,
        ),
    )
    if files == "json":
        bos = tokenizer.token_to_id("<|endoftext|>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
        )
        tokenizer.add_special_tokens(["<s>", "</s>"])
        tokenizer.add_tokens([AddedToken("<mark>", lstrip=True, rstrip=True)])
        tokenizer.save(str(folder / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        write_json(folder / "tokenizer_config.json", config)
        read = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer.model.save(str(folder))
        config = {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(tokenizer.get_vocab_size()): {
                    "content": "<mark>", "special": False, "lstrip": False, "rstrip": False,
                    "normalized": False, "single_word": False,
                },
            },
        }
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "config.json", {"model_type": "gpt2"})
        read = AutoTokenizer.from_pretrained(folder)
    return fast_cases(read)


# How words are cut, by the name in the file; each pattern is applied to what those before left.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = {
    "gpt-2": [GPT2],
    "mpt": [GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "refact": [r"\p{N}", GPT2],
    None: [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
}


def cut(parts, pattern):
    for part in parts:
        at = 0
        for match in regex.finditer(pattern, part):
            yield from (p for p in (part[at : match.start()], match.group()) if p)
            at = match.end()
        if part[at:]:
            yield part[at:]


def plain_bpe(text, vocab, ranks, patterns):
    """Byte-level BPE as the paper has it: the best-ranked pair is joined until none is left."""
    alphabet = bytes_to_unicode()
    ids = []
    parts = [text] if text else []
    for pattern in patterns:
        parts = list(cut(parts, pattern))
    for part in parts:
        symbols = [alphabet[b] for b in part.encode("utf-8")]
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:]))
            best = min(pairs, key=lambda pair: ranks.get(pair, 1 << 40))
            if best not in ranks:
                break
            joined, i = [], 0
            while i < len(symbols):
                if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == best:
                    joined.append(symbols[i] + symbols[i + 1])
                    i += 2
                else:
                    joined.append(symbols[i])
                    i += 1
            symbols = joined
        ids += [vocab[symbol] for symbol in symbols]
    return ids


def bytes_to_unicode():
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in kept]
    return {b: chr(b) for b in kept} | {b: chr(256 + i) for i, b in enumerate(others)}


def vocabularies():
    """Ids of the published GGUF vocabularies by SentencePiece and by plain_bpe. They are not in the
    repository; where they are absent, what was written before stays."""
    folder = Path(os.environ.get("MODELKIN_SHARED", "../shared")) / "data/vocabularies"
    if not folder.is_dir():
        print(f"skipped: no vocabularies at {folder}")
        return
    found = {}
    for name in ["llama-spm", "phi-3", "gpt-2", "gpt-neox", "mpt", "starcoder", "refact"]:
        fields = GGUFReader(folder / f"ggml-vocab-{name}.gguf").fields
        value = lambda key: fields[key].contents() if key in fields else None
        tokens = value("tokenizer.ggml.tokens")
        if value("tokenizer.ggml.model") == "llama":
            model = sentencepiece_model_pb2.ModelProto()
            scores, types = value("tokenizer.ggml.scores"), value("tokenizer.ggml.token_type")
            for index, (token, score, kind) in enumerate(zip(tokens, scores, types)):
                # SentencePiece wants one unknown piece; Phi-3's file calls the first one control.
                kind = 2 if index == 0 else 3 if kind == 2 else kind
                model.pieces.add(piece=token, score=score, type=kind)
            model.trainer_spec.model_type = 2
            model.trainer_spec.byte_fallback = True
            model.normalizer_spec.name = "identity"
            model.normalizer_spec.remove_extra_whitespaces = False
            processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
            encode = processor.encode
        else:
            vocab = {token: index for index, token in enumerate(tokens)}
            merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
            ranks = {merge: rank for rank, merge in enumerate(merges)}
            patterns = WORDS[value("tokenizer.ggml.pre")]
            types = value("tokenizer.ggml.token_type")
            users = sorted((t for t, kind in zip(tokens, types) if kind == 4), key=len, reverse=True)
            users = regex.compile("(" + "|".join(map(regex.escape, users)) + ")") if users else None
            encode = lambda text: [
                index
                # User-defined tokens are found first, whatever surrounds them.
                for odd, part in enumerate(users.split(text) if users else [text])
                for index in ([vocab[part]] if odd % 2 else plain_bpe(part, vocab, ranks, patterns))
            ]
        texts = [text for text in TEXTS if without_special(text)]
        found[name] = [{"text": text, "ids": encode(text)} for text in texts]
    write_cases(OUT / "vocabularies.json", found)


LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + strftime_now("%d %b %Y") + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("only one tool call at once") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if loop.first and content or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
            {%- if call.function.arguments is string %}
                {{- call.function.arguments }}
            {%- else %}
                {{- call.function.arguments | tojson }}
            {%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages if message.role in ["user", "assistant"] %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate: ' + message.role) }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set function = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in function.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

# Not of any one model: whitespace control, scopes, loops, Python's ways of writing values.
ODD = """{# a comment #}
{% for message in messages %}
  {% if loop.index > 3 %}{% break %}{% endif %}
  {% generation %}
  {{ loop.index }}/{{ loop.length }} {{ message.role | upper }}: {{ message.content | string | replace("\\n", "|") }}
  {% endgeneration %}
{% else %}
nothing
{% endfor %}
{% macro wrap(x, left='<', right='>') %}{{ left }}{{ x }}{{ right }}{% endmacro %}
{{ wrap('a') }}{{ wrap('b', right=']') }} {{ true }} {{ none }} {{ 1.0 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ -7 % 3 }} {{ 2 ** 10 }}
{{ [1, 'two', none, {'k': [true, 3.5]}] }}
{{ {'a': 1, 'b': "it's ä"} | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': {'x': []}} | tojson(indent=2, sort_keys=true) }}
{{ ['x', 'y'] | join(', ') }} {{ 'abc'[1:] }} {{ 'abc'[::-1] }} {{ 'a-b-c'.split('-', 1)[1] }} {{ 'title case'.title() }}
{{ "%s is %d" | format("x", 3) }} {{ 'x' if undefined_name is defined else 'y' }}{{ undefined_name }}
{%- set ns = namespace(n=0) %}{% for i in range(5) if i is odd %}{% set ns.n = ns.n + i %}{% endfor %}
{{ ns.n }} {{ messages | map(attribute='role') | list | length }} {{ messages | selectattr('role', '==', 'user') | list | length }}
{{ dict(a=1, **{'b': 2}) | tojson }} {{ '"q" \\\\ \\t' | tojson }} {{ (1, 2) | list }} {{ 'A' < 'B' and not 1 > 2 }}
{{ messages | rejectattr('role', 'in', ['system']) | map(attribute='role') | unique | list | tojson }}
end
"""

TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "Height of the tide at a harbour, in \"metres\" — naïve.",
        "parameters": {
            "type": "object",
            "properties": {"harbour": {"type": "string", "enum": ["Brest", "Åbo"]}, "hour": {"type": "number", "minimum": 0.5}},
            "required": ["harbour"],
        },
    },
}
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"harbour": "Åbo", "hour": 6.0}}}

CHATS = {
    "one": [{"role": "user", "content": "  When does the ship sail?\n"}],
    "system": [
        {"role": "system", "content": "You are a harbour master. "},
        {"role": "user", "content": "Grüß Gott 😀"},
        {"role": "assistant", "content": "<think>\nthey greet\n</think>\n\nHello."},
        {"role": "user", "content": "Bye"},
    ],
    "parts": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is this?"}]},
    ],
    "tools": [
        {"role": "user", "content": "Tide?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "{\"height\": 1.25}"},
        {"role": "tool", "content": "more"},
        {"role": "assistant", "content": "1.25 m"},
    ],
    "wrong": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
}

OPTIONS = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False, "tools": [TOOL]},
    {"add_generation_prompt": True, "variables": {"enable_thinking": False}},
]


class FixedTime(datetime):
    """The day that strftime_now tells."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 12, 31, 23, 59, 59)


def chats():
    chat_template_utils.datetime = FixedTime
    folder = clean("chat")
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="</s>"))
    reader = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    cases = []
    templates = {"llama3": LLAMA3, "chatml": CHATML, "mistral": MISTRAL, "gemma": GEMMA, "odd": ODD}
    for name, template in templates.items():
        (folder / f"{name}.jinja").write_text(template, encoding="utf-8")
        for chat, messages in CHATS.items():
            for options in OPTIONS:
                case = {"template": name, "chat": chat, "messages": messages, "options": options}
                given = dict(options)
                given.update(given.pop("variables", {}))
                try:
                    case["prompt"] = reader.apply_chat_template(
                        messages, chat_template=template, tokenize=False, **given
                    )
                except Exception as error:  # whatever a template raises is its refusal
                    case["refused"] = str(error)
                cases.append(case)
    rows = ",\n".join(" " + json.dumps(case, ensure_ascii=False) for case in cases)
    (OUT / "chats.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    found = {}
    llama = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    # As Llama was trained: no normalisation, a dummy prefix, digits one by one.
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    for name, kind, config, options in [
        ("spm-bpe", "bpe", {**llama, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
         {**plain, "split_digits": True, "allow_whitespace_only_pieces": True}),
        ("spm-bpe-user", "bpe", {**llama, "add_bos_token": False, "add_eos_token": True},
         {**plain, "user_defined_symbols": ["<mark>", "\t", "...", "  "], "add_dummy_prefix": False}),
        ("spm-unigram", "unigram", {**llama, "tokenizer_class": "T5Tokenizer"},
         {"user_defined_symbols": ["<mark>"], "has_rules": True}),
        ("spm-unigram-plain", "unigram", llama, plain),
    ]:
        folder, processor = spm(name, kind, config, **options)
        found[name] = spm_cases(folder, processor)
    found["bytes-json"] = byte_level("bytes-json", "json")
    found["bytes-files"] = byte_level("bytes-files", "files")
    write_cases(OUT / "tokens.json", found)
    vocabularies()
    chats()


if __name__ == "__main__":
    main()
