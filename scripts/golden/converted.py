#!/usr/bin/env python3
"""What other readers make of the files that `apr convert` writes: golden/converted/.

    scripts/golden/setup --transformers && . target/oracle/transformers/env && python scripts/golden/converted.py folders
    scripts/golden/setup && . target/oracle/env && python scripts/golden/converted.py gguf

`folders`: GGUF files become folders, which transformers loads and answers from. `gguf`: folders become GGUF files, which
llama.cpp loads. The files are the same everywhere, so the hash of each stands for the file: the suite writes it anew and
knows what the other reader said. Where the same model has golden answers already, these must be the same.
"""
import argparse, hashlib, json, shlex, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "golden/converted"
FORGE = "cargo run --quiet --release -p falsify -- forge"
APR = "cargo run --quiet --release -p apr-cli --"
WORDS = "The cat sat on the mat, and then in the morning it went to the other side of the sea."
TEXTS = [WORDS, "", " ", "  two  spaces ", "a\n\nb", "Grüße, 日本 🚀"]
MOST = 8
FOLDERS = ["qwen2-f16", "qwen2-q8_0", "qwen2-yarn-f16", "qwen2-padded-f16", "llama-f16", "llama-tied-f16", "llama-linear-f32",
           "llama-llama3-f32", "llama-chat3-f16", "llama-spm-f16"]
GGUF = ["hf-qwen2-f16", "hf-qwen2-bf16", "hf-qwen2-yarn-f16", "hf-llama-f16", "hf-llama-tied-f16", "hf-llama-linear-f32",
        "hf-llama-llama3-f32", "hf-llama-chat3-f16", "hf-llama-spm-f16"]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def by_transformers(path):
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer
    with safe_open(path / "model.safetensors", "pt") as f:
        assert f.metadata()["format"] == "pt" and all(f.get_tensor(k).isfinite().all() for k in f.keys())
    tokenizer = AutoTokenizer.from_pretrained(path)
    model, told = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not any(told.values()), told
    # As the file says, not as the class of this name would do it.
    from tokenizers import Tokenizer
    plain = Tokenizer.from_file(str(path / "tokenizer.json"))
    ids = [plain.encode(text).ids for text in TEXTS]
    assert ids[0] == tokenizer(WORDS)["input_ids"], (ids[0], tokenizer(WORDS)["input_ids"])
    with torch.no_grad():
        out = model.generate(torch.tensor(ids[:1]), max_new_tokens=MOST, do_sample=False, repetition_penalty=1.0)
    return {"ids": ids, "greedy": out[0].tolist()[len(ids[0]):]}


def by_llama(path):
    from peer import Peer
    peer = Peer(path, 512, kv="f32", flash=False)
    ids = [peer.tokens(text) for text in TEXTS]
    greedy, at = [], len(ids[0])
    logits = peer.feed(ids[0], 0, [at - 1])
    while True:
        greedy.append(int(logits[-1].argmax()))
        if peer.ends(greedy[-1]) or len(greedy) == MOST:
            break
        logits = peer.feed(greedy[-1:], at + len(greedy) - 1, [0])
    peer.close()
    return {"ids": ids, "greedy": greedy}


def agree(name, case):
    """The model's golden answer to the same words, by transformers."""
    path = ROOT / f"golden/transformers/hf-{name.removeprefix('hf-')}.json"
    if path.exists():
        stored = json.loads(path.read_text())["cases"][0]
        assert stored["text"] == WORDS and (stored["prompt"], stored["greedy"]) == (case["ids"][0], case["greedy"]), (stored, case)
    return path.exists()


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("what", choices=["folders", "gguf"])
    parse.add_argument("--forge", default=FORGE, help="command that writes (NAME OUT) forged models")
    parse.add_argument("--apr", default=APR, help="command that is apr")
    a = parse.parse_args()
    run = lambda *words: subprocess.run([str(w) for w in words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    cases = []
    with tempfile.TemporaryDirectory() as work:
        for name in FOLDERS if a.what == "folders" else GGUF:
            given = Path(work) / (name + ".gguf" if a.what == "folders" else name)
            run(*shlex.split(a.forge), name, given)
            if a.what == "folders":
                made = Path(work) / f"{name}-out"
                run(*shlex.split(a.apr), "convert", "--quiet", given, f"{made}/")
                files, case = sorted(made.iterdir()), by_transformers(made)
            else:
                made = Path(work) / f"{name}.gguf"
                run(*shlex.split(a.apr), "convert", "--quiet", given, made)
                files, case = [made], by_llama(made)
            same = agree(name, case)
            cases.append({"from": name, "sha256": {f.name: sha256(f) for f in files}} | case)
            print(f"{name}: {case['greedy']}, {'as golden' if same else 'nothing to compare with'}", flush=True)
    if a.what == "folders":
        import safetensors, torch, transformers
        maker = f"transformers {transformers.__version__}, torch {torch.__version__}, safetensors {safetensors.__version__}"
        setup = "scripts/golden/setup --transformers && . target/oracle/transformers/env"
    else:
        import peer
        maker, setup = f"llama.cpp commit 0c1e57098b, from llama-cpp-python {peer.VERSION}", "scripts/golden/setup && . target/oracle/env"
    doc = {"provenance": {"maker": maker, "command": f"{setup} && python scripts/golden/converted.py {a.what}", "flags": "CPU, greedy"},
           "texts": TEXTS, "cases": cases}
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps(doc, ensure_ascii=False, indent=1)
    (OUT / f"{a.what}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
