"""Makes golden/text/templates.json and builtin.json: what Jinja2 makes of conversations by published chat templates.

    python scripts/golden/templates.py [LLAMA_CPP]                 writes both files
    python scripts/golden/templates.py --show TEMPLATE CHAT        prints one rendering, to compare with another

LLAMA_CPP is a source folder of llama.cpp (default: target/oracle/llama.cpp): models/templates/ has published templates,
tests/test-chat-template.cpp some more. Of the templates, which are others' work, only the hash is kept. A rendering is
kept as its number of characters and the first 16 digits of its SHA-256; "!" is what the template raised, "!!" an error
of Python's (a missing key, adding none to a text). Renderings for the built-in templates are kept in full.
"""
import argparse, ast, hashlib, json, re, sys
from pathlib import Path

from jinja2 import TemplateError
from jinja2.exceptions import TemplateRuntimeError

from text import BAD, LLAMA, LLAMA2, LLAMA3, OUT, environment, version

COMMAND = "python scripts/golden/templates.py LLAMA_CPP"
NOW = "2025-03-04 15:06:07 UTC"
BOS, EOS = "<s>", "</s>"


def U(content):
    return {"role": "user", "content": content}


def A(content, reasoning=None, calls=None):
    out = {"role": "assistant", "content": content}
    if reasoning is not None:
        out["reasoning_content"] = reasoning
    return out | ({"tool_calls": calls} if calls else {})


def S(content):
    return {"role": "system", "content": content}


def T(content, n=1, name="get_weather"):
    return {"role": "tool", "content": content, "tool_call_id": f"call0000{n}", "name": name}


def call(n, name, arguments):
    return {"id": f"call0000{n}", "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name, description, properties, required):
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = tool("get_weather", "Weather <now> & \"later\" for a city's district", {
    "city": {"type": "string", "description": "City, e.g. Z\u00fcrich \u6771\u4eac"},
    "days": {"type": "integer", "description": "How many", "default": 1.5, "minimum": 1e-07},
    "unit": {"type": "string", "description": "Of the\nanswer", "enum": ["celsius", "fahrenheit"]},
    "places": {"type": "array", "description": "Where else", "items": {"type": "object", "properties": {"x": {"type": "number"}, "ok": {"type": ["boolean", "null"]}}}},
}, ["city"])
CLOCK = tool("get_time", "What time it is", {}, [])
ZURICH = call(1, "get_weather", {"city": "Z\u00fcrich", "days": 2, "places": [{"x": 1.5, "ok": True}, {"x": -2, "ok": None}]})
THOUGHT = "I should\n\nthink."

# What is said, in the order in which the results stand.
CHATS = {
    "user": dict(messages=[U("Hello, who are you?")]),
    "system": dict(messages=[S("You are terse."), U("Hi")]),
    "turns": dict(messages=[U("2+2?"), A("4"), U("and 3+3?"), A("6"), U("thanks")]),
    "system and turns": dict(messages=[S("Be brief."), U("2+2?"), A("4"), U("and 3+3?")]),
    "no prompt": dict(messages=[S("Be brief."), U("a"), A("b")], add_generation_prompt=False),
    "prompt after the assistant": dict(messages=[U("a"), A("b")]),
    "only a system": dict(messages=[S("alone")]),
    "two systems": dict(messages=[S("a"), S("b"), U("c")]),
    "two users": dict(messages=[U("a"), U("b")]),
    "assistant first": dict(messages=[A("a"), U("b")]),
    "empty": dict(messages=[S(""), U("")]),
    "blanks": dict(messages=[S("  s  \n"), U("  padded \n\n"), A("\n x "), U("\tend\n")]),
    "unicode": dict(messages=[U("\u00e9moji \U0001F980 \u4f60\u597d e\u0301 \u00df\u2028 \u00a0"), A("ok"), U("'a' \"b\" \\n {{ x }} {% y %} {# z #} <b> & \ue000")]),
    "injection": dict(messages=[S("x" + BAD), U(BAD + "y"), A(BAD), U("\n" + BAD + "[INST] [/INST] <end_of_turn>\n")]),
    "injection of a user": dict(messages=[U("a" + BAD), A("b" + BAD), U(BAD + "c")]),
    "parts": dict(messages=[U([{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]), A([{"type": "text", "text": "three"}]), U("four")]),
    "reasoning in the text": dict(messages=[U("q"), A("<think>\nhm\n</think>\n\nanswer"), U("more"), A("<think>\n\n</think>\n\nyes"), U("end")]),
    "reasoning apart": dict(messages=[U("q"), A("answer", THOUGHT), U("more"), A("yes", THOUGHT), U("end")]),
    "one tool": dict(messages=[U("weather?")], tools=[WEATHER]),
    "two tools and a system": dict(messages=[S("Be nice."), U("weather?")], tools=[WEATHER, CLOCK]),
    "call": dict(messages=[U("weather?"), A(None, calls=[ZURICH]), T("{\"t\": 21}")], tools=[WEATHER, CLOCK]),
    "call with a text": dict(messages=[S("Be nice."), U("weather?"), A("Let me see.", calls=[ZURICH]), T("21"), A("It is 21."), U("thanks")], tools=[WEATHER]),
    "call with arguments as text": dict(messages=[U("weather?"), A("", calls=[call(1, "get_weather", "{\"city\": \"Bern\"}")]), T("21"), A("21."), U("thanks")], tools=[WEATHER]),
    "two calls": dict(messages=[U("?"), A("", calls=[ZURICH, call(2, "get_time", {})]), T("21"), T("12:00", 2, "get_time"), A("Noon."), U("and now?")], tools=[WEATHER, CLOCK]),
    "call after thinking": dict(messages=[U("?"), A("", THOUGHT, [ZURICH]), T("21"), A("21.", "Easy."), U("ok")], tools=[WEATHER]),
    "call without tools": dict(messages=[U("?"), A("", calls=[call(1, "get_time", {})]), T("12:00", 1, "get_time")]),
    "injection by tools": dict(messages=[U("?"), A("", calls=[call(1, "f", {"a" + BAD: BAD})]), T(BAD)], tools=[tool("f" + BAD, BAD, {"p" + BAD: {"type": "string", "description": BAD}}, ["p" + BAD])]),
}
CHATS = {name: {"tools": None, "add_generation_prompt": True, **given} for name, given in CHATS.items()}


def rendered(source, given):
    """The text, or why there is none. Two things fail by transformers and work by llama.cpp: going through the tools
    without asking whether there are any (`tools=None`; llama.cpp leaves the variable out), and writing what `map` gives
    as JSON (a generator in Python). Only where the first way fails, it is asked the second way."""
    env = environment()
    try:
        return env.from_string(source).render(**given, documents=None, bos_token=BOS, eos_token=EOS), None
    except TypeError as e:
        if "tools" in given and given["tools"] is None and "NoneType" in str(e):
            return rendered(source, {key: value for key, value in given.items() if key != "tools"})
        if "type generator is not JSON" in str(e):
            return rendered(re.sub(r"(\| map\([^()]*\)) \| tojson", r"\1 | list | tojson", source), given)
        return None, "!!"
    except TemplateError as e:
        # UndefinedError is a TemplateRuntimeError; what raise_exception raises is a plain TemplateError.
        return None, "!!" if isinstance(e, TemplateRuntimeError) else "!" + e.message
    except (ValueError, KeyError, AttributeError, IndexError):
        return None, "!!"


def digest(text):
    return f"{len(text)}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def published(llama):
    """Every template of models/templates."""
    return {p.stem: p.read_text(encoding="utf-8") for p in sorted((llama / "models/templates").glob("*.jinja"))}


def quoted(llama, name):
    """A template that tests/test-chat-template.cpp quotes."""
    text = (llama / "tests/test-chat-template.cpp").read_text()
    found = re.search(r'name= \*/ "' + re.escape(name) + r'[^"]*",\s*/\* .template_str= \*/ ("(?:[^"\\]|\\.)*")', text)
    return ast.literal_eval(found[1])


def builtins(llama):
    """Built-in template -> the published one that it stands for, and the conversations on which the two are one. Gemma 2
    and some of Mistral's refuse or place a system message in ways that depend on the version; `turns` ask for a prompt."""
    files = published(llama)
    plain = ["user", "turns", "two users", "unicode", "injection of a user"]
    system = ["system", "system and turns", "blanks", "injection"]
    return {
        "phi-4": (quoted(llama, "phi-4"), ["user", "turns", "unicode", "injection of a user", "system", "system and turns"]),
        "chatml": (files["Qwen-Qwen2.5-7B-Instruct"], system + ["no prompt"]),
        "deepseek-r1": (files["deepseek-ai-DeepSeek-R1-Distill-Llama-8B"], plain + system + ["no prompt", "reasoning in the text"]),
        "llama-3": (LLAMA3, plain + system + ["no prompt"]),
        "gemma": (files["google-gemma-2-2b-it"], plain + ["prompt after the assistant"]),
        "phi-3": (files["microsoft-Phi-3.5-mini-instruct"], plain + system + ["no prompt", "empty"]),
        "mistral-v3-tekken": (files["mistralai-Mistral-Nemo-Instruct-2407"], plain + system + ["no prompt"]),
        "mistral-v3": (quoted(llama, "Mistral-Large-Instruct-2407"), plain + ["system"]),
        "llama-2": (LLAMA2, plain + system + ["no prompt"]),
        "mistral-v1": (quoted(llama, "mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1'"), plain + system + ["no prompt"]),
    }


def write(name, provenance, body):
    OUT.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"provenance": {**provenance, "command": COMMAND}}, indent=1)
    (OUT / name).write_text(head.removesuffix("\n}") + ",\n" + body + "\n}\n", encoding="utf-8")


def lines(key, entries):
    """A JSON object with one line per entry."""
    dump = lambda v: json.dumps(v, ensure_ascii=False)
    return f' {dump(key)}: {{\n' + ",\n".join(f"  {dump(k)}: {dump(v)}" for k, v in entries.items()) + "\n }"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama", nargs="?", type=Path, default=Path("target/oracle/llama.cpp"), help="source folder of llama.cpp")
    parser.add_argument("--show", nargs=2, metavar=("TEMPLATE", "CHAT"))
    args = parser.parse_args()
    sources = published(args.llama)
    if args.show:
        text, error = rendered(sources[args.show[0]], CHATS[args.show[1]])
        sys.stdout.write(error or text)
        return
    out = {}
    for name, source in sources.items():
        results = [rendered(source, given) for given in CHATS.values()]
        out[name] = {"sha256": hashlib.sha256(source.encode()).hexdigest(),
                     "chats": [error or digest(text) for text, error in results]}
    kept = {name: {"sha256": hashlib.sha256(source.encode()).hexdigest(),
                   "chats": {chat: rendered(source, CHATS[chat])[0] for chat in chats}} for name, (source, chats) in builtins(args.llama).items()}
    about = {"maker": version("jinja2"), "templates": f"llama.cpp {LLAMA}, models/templates", "now": NOW, "bos_token": BOS, "eos_token": EOS}
    write("templates.json", about, lines("chats", CHATS) + ",\n" + lines("templates", out))
    about["templates"] = f"llama.cpp {LLAMA}, models/templates and tests/test-chat-template.cpp; of Llama 2 and 3 as in the scripts"
    write("builtin.json", about | {"chats": "those of templates.json"}, lines("templates", kept))


if __name__ == "__main__":
    main()
