#!/usr/bin/env python3
"""Golden answers of HuggingFace's own code, on the CPU in F32: golden/transformers/.

    scripts/golden/setup --transformers && . target/oracle/transformers/env && python scripts/golden/hf.py [NAME...]

For the trained model in fixtures/qwen2-tiny and for every folder of the forge (hf-*): tokens and logits by `transformers`,
what each part of one layer gives, and in tensors.json every number of the weights as `safetensors` reads it. The files
have the form of golden/llama (golden/README.md); `rows` are exact, so there is no field `exact`.
"""
import argparse, hashlib, json, random, shlex, subprocess, sys, tempfile
from pathlib import Path
import numpy as np
import safetensors, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "golden/transformers"
FORGE = "cargo run --quiet --release -p falsify -- forge"
FIXTURE = "qwen2-tiny"
BEST = 4
ROW = f"margin = best - second best, log-sum-exp, then id, logit of the best {BEST}"
CHAT = ["What is 2+2?", "Hello!", "Write a Python function that adds two numbers."]
RAW = ["The quick brown fox", "def add(a, b):\n", "1, 2, 3, 4,", "Grüße aus Köln, 你好, こんにちは 🚀\n\n  Привет!"]
WORDS = "The cat sat on the mat, and then in the morning it went to the other side of the sea."
# What a hook at a module of a layer sees, by the name that the engine's stages have.
STAGES = {
    "input_layernorm": "AttentionNorm", "self_attn.q_proj": "Q", "self_attn.k_proj": "K", "self_attn.v_proj": "V",
    "self_attn.o_proj": "AttentionOutput", "post_attention_layernorm": "FfnNorm", "mlp.gate_proj": "FfnGate",
    "mlp.up_proj": "FfnUp", "mlp.down_proj": "FfnDown",
}


class Raw(str):
    """JSON that is written as it is."""


def dump(doc):
    """JSON with a line for each row."""
    held = []
    def hold(x):
        if isinstance(x, Raw):
            held.append(x)
            return f"@{len(held) - 1}@"
        if isinstance(x, dict):
            return {k: hold(v) for k, v in x.items()}
        return [hold(v) for v in x] if isinstance(x, list) else x
    text = json.dumps(hold(doc), indent=1, ensure_ascii=False)
    for n, raw in enumerate(held):
        text = text.replace(f'"@{n}@"', raw, 1)
    return text + "\n"


def compact(x):
    return Raw(json.dumps(x, ensure_ascii=False, separators=(",", ":")))


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def provenance(names):
    return {"maker": f"transformers {transformers.__version__}, torch {torch.__version__}, safetensors {safetensors.__version__}",
            "command": f"scripts/golden/setup --transformers && . target/oracle/transformers/env && python scripts/golden/hf.py {names}".strip(),
            "flags": "CPU, weights and arithmetic in F32, sdpa attention; the prompt in one pass, then one token at a time; greedy"}


# ---- tokens and logits

@torch.no_grad()
def answer(model, ids, most, ends):
    """Greedy tokens, and logits at every position but the last token's."""
    out = model(torch.tensor([ids]), use_cache=True)
    logits, cache, greedy = [out.logits[0]], out.past_key_values, []
    while True:
        greedy.append(int(logits[-1][-1].argmax()))
        if greedy[-1] in ends or len(greedy) == most:
            return greedy, torch.cat(logits).double().numpy()
        out = model(torch.tensor([greedy[-1:]]), past_key_values=cache, use_cache=True)
        logits.append(out.logits[0])
        cache = out.past_key_values


def rows(logits):
    lines = []
    for x in logits:
        best = np.argsort(-x, kind="stable")[:BEST]
        lse = x.max() + np.log(np.exp(x - x.max()).sum())
        pairs = ",".join(f"{i},{x[i]:.5g}" for i in best)
        lines.append(f"[{x[best[0]] - x[best[1]]:.4g},{lse:.5g},{pairs}]")
    return Raw("[\n" + ",\n".join(lines) + "]")


def margins(logits):
    two = np.partition(logits, -2, axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


def prompts(name, tokenizer):
    """{name, text or messages, ids, most, from}."""
    if name == FIXTURE:
        for n, text in enumerate(CHAT, 1):
            messages = [{"role": "user", "content": text}]
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            yield {"name": f"chat-{n}", "messages": messages, "text": rendered, "ids": ids, "most": 24, "from": len(ids) - 1}
        for n, text in enumerate(RAW, 1):
            yield {"name": f"text-{n}", "text": text, "ids": tokenizer(text)["input_ids"], "most": 8, "from": 0}
        return
    draw = random.Random(f"golden {name}")
    some = lambda n: [draw.randrange(317) for _ in range(n)]
    ids = tokenizer(WORDS)["input_ids"]
    yield {"name": "text", "text": WORDS, "ids": ids, "most": 8, "from": len(ids) - 1}
    yield {"name": "every", "ids": some(24), "most": 1, "from": 0}
    yield {"name": "cross", "ids": some(120), "most": 16, "from": 119}      # decoding across position 128


@torch.no_grad()
def stages(model, ids):
    """[layer, stage, norm of the row, its first eight values] at the last position of a prompt, for the last layer."""
    seen, layer = [], len(model.model.layers) - 1
    def hook(at, stage):
        def keep(_, __, out):
            row = out[0, -1].double().numpy()
            seen.append(compact([at, stage, float(f"{np.linalg.norm(row):.6g}"), [float(f"{v:.5g}") for v in row[:8]]]))
        return keep
    parts = [(model.model.embed_tokens, 0, "Embed"), (model.model.norm, 0, "OutputNorm")]
    parts += [(model.model.layers[layer].get_submodule(m), layer, stage) for m, stage in STAGES.items()]
    hooks = [module.register_forward_hook(hook(at, stage)) for module, at, stage in parts]
    model(torch.tensor([ids]))
    for h in hooks:
        h.remove()
    return seen


def write(name, folder, source):
    load = lambda dtype: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "generation_config.json").read_text())
    ends = config["eos_token_id"]
    model, double = load(torch.float32), load(torch.float64)
    cases, every, moved = [], [], 0.0
    for p in prompts(name, tokenizer):
        greedy, logits = answer(model, p["ids"], p["most"], ends)
        with torch.no_grad():
            other = double(torch.tensor([p["ids"] + greedy[:-1]])).logits[0].numpy()
        moved = max(moved, np.abs(other - logits).max())
        kept = logits[p["from"]:]
        every.append(margins(kept))
        case = {"name": p["name"]} | {k: compact(p[k]) for k in ("messages", "text") if k in p}
        end = greedy[-1] in ends
        case |= {"prompt": compact(p["ids"]), "greedy": compact(greedy), "end": "eog" if end else "length"}
        if name == FIXTURE:
            reply = tokenizer.decode(greedy[:-1] if end else greedy, skip_special_tokens=True)
            if "\ufffd" not in reply:
                case["reply"] = reply
        cases.append(case | {"from": p["from"], "rows": rows(kept)})
    every = np.concatenate(every)
    epsilon = 0.01      # five digits are stored, and sums run in another order; `noise` is far below
    assert moved < epsilon / 4, moved
    doc = {
        "provenance": provenance(name),
        "model": {"name": name, "source": source, "sha256": sha256(folder / "model.safetensors")},
        "prompts": f"raw texts, and random ordinary ids of random.Random('golden {name}')" if name != FIXTURE else "written in scripts/golden/hf.py",
        "row": ROW, "eog": compact(sorted(ends)),
        "judge": {"epsilon": epsilon, "decisive_rows": int((every > epsilon).sum()), "near_ties_allowed": 0.02},
        "noise": {"float64_moved_most": float(f"{moved:.3g}")},
        "stages": {"case": cases[0]["name"], "row": "layer, stage, norm, first eight values", "values": stages(model, json.loads(cases[0]["prompt"]))},
        "cases": cases,
    }
    (OUT / f"{name}.json").write_text(dump(doc))
    print(f"{name}: {len(cases)} cases, {len(every)} rows, least margin {every.min():.3g}, F64 moves {moved:.2g}, "
          f"{(OUT / f'{name}.json').stat().st_size} bytes", flush=True)


# ---- numbers

def numbers(path):
    """{tensor: [dtype, shape, SHA-256 of the values as little-endian F32]}, NaNs all alike, as the package reads them."""
    out = {}
    with safetensors.safe_open(path, "pt") as f:
        for key in f.keys():
            tensor = f.get_tensor(key)
            values = tensor.to(torch.float32).contiguous().numpy().astype("<f4").reshape(-1)
            bits = values.view("<u4").copy()
            bits[np.isnan(values)] = 0x7FC00000
            out[key] = compact([str(tensor.dtype).removeprefix("torch."), list(tensor.shape), hashlib.sha256(bits.tobytes()).hexdigest()[:32]])
        return {"sha256": sha256(path), "metadata": f.metadata(), "tensors": out}


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("names", nargs="*", help="default: all")
    parse.add_argument("--forge", default=FORGE, help="command that lists (--list) and writes (NAME OUT) forged models")
    a = parse.parse_args()
    forge = shlex.split(a.forge)
    listed = subprocess.run([*forge, "--list"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    known = [FIXTURE] + [n for n in listed if n.startswith("hf-") and not n.startswith(("hf-shape-", "hf-shards-", "hf-types"))]
    if unknown := set(a.names) - set(known):
        sys.exit(f"no such model: {', '.join(sorted(unknown))}")
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        def made(name):
            path = Path(work) / name
            subprocess.run([*forge, name, str(path)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            return path
        for name in a.names or known:
            if name == FIXTURE:
                write(name, ROOT / "fixtures" / name, {"file": f"fixtures/{name}"})
            else:
                write(name, made(name), {"forge": name})
        if not a.names:
            files = {"hf-types": made("hf-types"), FIXTURE: ROOT / "fixtures" / FIXTURE / "model.safetensors"}
            files |= {n: Path(work) / n / "model.safetensors" for n in ("hf-qwen2-f32", "hf-qwen2-f16", "hf-qwen2-bf16")}
            (OUT / "tensors.json").write_text(dump({"provenance": provenance(""), "files": {n: numbers(p) for n, p in files.items()}}))
            for file in OUT.glob("*.json"):
                if file.stem not in known + ["tensors"]:
                    file.unlink()


if __name__ == "__main__":
    main()
