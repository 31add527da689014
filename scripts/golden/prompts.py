"""What the models are asked. The prompts were chosen by rule, before any answer was seen.

A prompt is {name, from, and either text, or ids, or messages with the text that they render to}. Logits are kept from
position `from` on; None means the last position of the prompt.
"""
import json, random, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PER_SKILL, SEED = 2, 777
RULE = (f"scripts/fixture/corpus.py eval_set({PER_SKILL}, seed={SEED}), held out from training: the first {PER_SKILL} of each skill; of long_512 the "
        "first with more than 300 tokens, of long_2k and long_4k the first; of smoke the first, What is 2+2?. Then raw texts written here. "
        "Every position is kept of the `mixed` conversations and the raw texts.")
RAW = ["The quick brown fox", "def add(a, b):\n", "1, 2, 3, 4,", "Grüße aus Köln, 你好, こんにちは 🚀\n\n  Привет!",
       "<|im_start|>user\nWhat is 3+4?<|im_end|>\n<|im_start|>assistant\n"]
WORDS = "The cat sat on the mat, and then in the morning it went to the other side of the sea."


def template(source):
    """A chat template as transformers (5.x, utils/chat_template_utils.py) compiles it."""
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    env.filters["tojson"] = lambda x, **k: json.dumps(x, ensure_ascii=False, **k)
    return env.from_string(source)


def fixture(count):
    """Prompts for the trained model. `count` gives the number of tokens of a text."""
    sys.path.insert(0, str(ROOT / "scripts/fixture"))
    import corpus

    class Prompt(str):          # eval_set() gives texts; this remembers the document
        pass

    def prompt_of(document):
        segments = corpus.segments(document)
        last = max(i for i, s in enumerate(segments) if s[1])
        text = Prompt("".join(s[0] for s in segments[:last]))
        text.document = document
        return text, segments[last][0]

    corpus.prompt_of = prompt_of
    config = json.loads((ROOT / "fixtures/qwen2-tiny/tokenizer_config.json").read_text())
    chat = template(config["chat_template"])
    out = []
    for skill, items in corpus.eval_set(PER_SKILL, SEED).items():
        texts = [text for text, *_ in items]
        if skill == "long_512":
            texts = [t for t in texts if count(t) > 300]
        for n, text in enumerate(texts[:1 if skill.startswith("long_") or skill == "smoke" else PER_SKILL], 1):
            prompt = {"name": f"{skill}-{n}", "from": 0 if skill == "mixed" else None}
            if skill == "smoke":
                prompt["messages"] = [{"role": "user", "content": corpus.SMOKE[0][0]}]
            elif "msgs" in text.document:
                # All but the last turn, which is the answer.
                turns = text.document["msgs"]
                while turns[-1][0] != "assistant":
                    turns = turns[:-1]
                prompt["messages"] = [{"role": role, "content": content} for role, content in turns[:-1]]
            if text_tools := getattr(text, "document", {}).get("tools"):
                prompt["tools"] = text_tools
            if "messages" in prompt:
                rendered = chat.render(messages=prompt["messages"], tools=prompt.get("tools"), add_generation_prompt=True)
                assert rendered == text, (rendered, text)
            out.append(prompt | {"text": str(text)})
    out += [{"name": f"text-{n}", "from": 0, "text": text} for n, text in enumerate(RAW, 1)]
    assert len({p["name"] for p in out}) == len(out)
    return out


def forged(name, ids):
    """Prompts for a model with random weights, out of its ordinary token `ids`."""
    draw = random.Random(f"golden {name}")
    some = lambda n: [draw.choice(ids) for _ in range(n)]
    if "-long-" in name:        # rows of the end alone: the file stays small
        return [{"name": str(n), "ids": some(n), "from": n - 16, "most": 16} for n in (2049, 4000)]
    out = [{"name": "one", "ids": some(1), "from": None, "most": 32},      # a prompt of one token
           {"name": "text", "text": WORDS, "from": None, "most": 16},
           {"name": "every", "ids": some(64), "from": 0, "most": 1},       # every position of a prefill
           {"name": "cross", "ids": some(120), "from": None, "most": 16}]  # decoding across position 128
    if "-linear-" in name:      # beyond the original context, which is a quarter of 2048
        out.append({"name": "past", "ids": some(600), "from": 584, "most": 16})
    return out


def context(name):
    """Positions that the prompts of a forged model and their answers need."""
    return 4096 if "-long-" in name else 1024 if "-linear-" in name else 512
