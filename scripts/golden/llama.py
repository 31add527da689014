#!/usr/bin/env python3
"""Golden answers of llama.cpp, for the fixture and for every small model of the forge: golden/llama/.

    scripts/golden/setup && . target/oracle/env && python scripts/golden/llama.py [NAME...]

Without names it makes all of them and removes those whose model is gone. golden/README.md says what the files hold and
how they are compared.
"""
import argparse, json, os, platform, re, shlex, subprocess, sys, tempfile
from pathlib import Path
import numpy as np

import models, prompts
import peer as llama
from peer import Peer, Refused
from prompts import ROOT

OUT = ROOT / "golden/llama"
COMMIT = "0c1e57098b"
BEST = 8
EXACT_BEST = 4
NEAR = 0.05
TIES = 0.02
SHARED = "qwen2-tiny-prompts.json"
F16_SHA256 = "5fa2b63f9f99f0e863ed51f79087f625595a80c583a92ae5b34cd9340c9b521e"
FORGE = "cargo run --quiet --release -p falsify -- forge"
FIXTURES = ["qwen2-tiny-q8_0", "qwen2-tiny-q4_k_m", "qwen2-tiny-f16"]
# Forged, but nothing to answer: full shapes, fuzz seeds, one that is another in three files, padding that llama.cpp would
# sample, folders that it does not read.
NO_ANSWERS = re.compile(r"^(full|shape|seed|hf)-|-split-|-loud-")
ROW = f"margin = best - second best, log-sum-exp, then id, logit of the best {BEST}"
EXACT = f"rows of the variant `exact` (weights decoded to F32, F32 cache, no flash attention), best {EXACT_BEST}, of the cases that keep every position"
# The same tokens computed otherwise: options of Peer, whether one token at a time, whether with decoded weights. How far
# the logits move is what a correct engine may differ by.
VARIANTS = {
    "one_by_one": (dict(), True, False),
    "no_repack": (dict(repack=False), False, False),
    "exact": (dict(kv="f32", flash=False, repack=False), False, True),
}


def cpu():
    if os.path.exists("/proc/cpuinfo"):
        found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M))
        return f"{found.get('model name', platform.machine())} (family {found.get('cpu family')}, model {found.get('model')})"
    return platform.processor() or platform.machine()


def provenance(names=""):
    return {
        "maker": f"llama.cpp commit {COMMIT}, from llama-cpp-python {llama.VERSION}",
        "command": f"scripts/golden/setup && . target/oracle/env && python scripts/golden/llama.py {names}".strip(),
        "flags": f"CPU, {llama.THREADS} threads, f16 KV cache, flash attention on, weight repacking on, ubatch 512; prompt in one batch, then one token at a time; greedy",
        "cpu": cpu(), "build": llama.system_info(),
    }


# ---- answers

def answer(peer, prompt):
    """Greedy tokens after a prompt and the logits [positions from `from` on, vocabulary] that gave them."""
    ids = peer.tokens(prompt["text"]) if "text" in prompt else prompt["ids"]
    first = len(ids) - 1 if prompt["from"] is None else prompt["from"]
    peer.clear()
    logits = [peer.feed(ids, 0, range(first, len(ids)))]
    greedy = []
    while True:
        greedy.append(int(logits[-1][-1].argmax()))
        if peer.ends(greedy[-1]) or len(greedy) == prompt.get("most", 64):
            break
        logits.append(peer.feed(greedy[-1:], len(ids) + len(greedy) - 1, [0]))
    return ids, first, greedy, np.concatenate(logits)


def best(logits):
    """[rows, BEST] ids, best first; the lower id where logits are equal."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :BEST]


def margins(logits):
    two = np.partition(logits, -2, axis=1)[:, -2:].astype(np.float64)
    return two[:, 1] - two[:, 0]


def rows_text(logits, count=BEST):
    """The rows as JSON, a line each; the columns are ROW."""
    lines = []
    for row, ids, margin in zip(logits, best(logits), margins(logits)):
        x = row.astype(np.float64)
        lse = x.max() + np.log(np.exp(x - x.max()).sum())
        lines.append(f"[{margin:.4g},{lse:.5g}," + ",".join(f"{i},{row[i]:.5g}" for i in ids[:count]) + "]")
    return Raw("[\n" + ",\n".join(lines) + "]")


def short(x):
    return float(f"{x:.3g}")


# ---- how much the oracle differs from itself

def variants(path, context, results, work):
    """The results' tokens computed otherwise: {variant: [logits of each result]}."""
    out = {}
    for name, (options, one_by_one, decode) in VARIANTS.items():
        file = path
        if decode:
            file = work / "decoded.gguf"
            models.decoded(path, file)
        peer = Peer(file, context, **options)
        out[name] = [peer.forced(ids + greedy[:-1], first, one_by_one) for _, ids, first, greedy, _ in results]
        peer.close()
    return out


def noise(results, others):
    """How far the logits of the best 8 move, and where the best token changes."""
    moved, flips = [], []
    for (*_, logits), other in zip(results, others):
        top = best(logits)
        moved.append(np.abs(np.take_along_axis(other, top, 1) - np.take_along_axis(logits, top, 1)).max(axis=1))
        flips.extend(margins(logits)[other.argmax(axis=1) != top[:, 0]])
    moved = np.concatenate(moved)
    return {"moved_median": short(np.median(moved)), "moved_99_percent": short(np.quantile(moved, 0.99)), "moved_most": short(moved.max()),
            "other_best": len(flips), "other_best_at_margin": short(max(flips, default=0.0))}


# ---- one file

class Raw(str):
    """Text that goes into the JSON as it is."""


def to_json(doc):
    raws = []
    def keep(x):
        if isinstance(x, Raw):
            raws.append(x)
            return f"@raw {len(raws) - 1}@"
        if isinstance(x, dict):
            return {k: keep(v) for k, v in x.items()}
        return [keep(v) for v in x] if isinstance(x, list) else x
    text = json.dumps(keep(doc), indent=1, ensure_ascii=False)
    return re.sub(r'"@raw (\d+)@"', lambda m: raws[int(m[1])], text) + "\n"


def compact(x):
    return Raw(json.dumps(x, ensure_ascii=False, separators=(",", ":")))


def question(prompt, ids):
    """The part of a case that does not depend on the answer."""
    out = {"name": prompt["name"]}
    out |= {key: compact(prompt[key]) for key in ("messages", "tools", "text") if key in prompt}
    return out | {"prompt": compact(ids)}


def write(name, path, source, asked, context, rule, work, shared=None):
    """golden/llama/NAME.json for the model at `path`. `asked` makes prompts from a loaded peer. With `shared` the questions go
    to the file of that name, which several models have in common."""
    peer = Peer(path, context)
    results = [(p, *answer(peer, p)) for p in asked(peer)]
    others = variants(path, context, results, work)
    cases = []
    for n, (prompt, ids, first, greedy, logits) in enumerate(results):
        end = "eog" if peer.ends(greedy[-1]) else "length"
        case = {"name": prompt["name"]} if shared else question(prompt, ids)
        case |= {"greedy": compact(greedy), "end": end}
        if "text" in prompt:
            reply = peer.text(greedy[:-1] if end == "eog" else greedy)
            try:
                case["reply"] = reply.decode()
            except UnicodeDecodeError:
                pass        # random bytes
        case |= {"from": first, "rows": rows_text(logits)}
        if prompt["from"] == 0:
            case["exact"] = rows_text(others["exact"][n], EXACT_BEST)
        cases.append(case)
    eog = [i for i in range(peer.size) if peer.ends(i)]
    peer.close()

    every = np.concatenate([margins(r[-1]) for r in results])
    noises = {k: noise(results, v) for k, v in others.items()}
    epsilon = short(2 * max(v["moved_most"] for v in noises.values()))
    ties = max(TIES, 2 * max(v["other_best"] for v in noises.values()) / len(every))
    doc = {
        "provenance": provenance(name),
        "model": {"name": name, "source": source, "bytes": path.stat().st_size, "sha256": models.sha256(path)},
        "prompts": shared or rule,
        "row": ROW, "exact": EXACT, "eog": compact(eog),
        "judge": {"epsilon": epsilon, "decisive_rows": int((every > epsilon).sum()), "near_ties_allowed": short(ties)},
        "margins": {"rows": len(every), f"below_{NEAR}": int((every < NEAR).sum()), "least": short(every.min()), "median": short(np.median(every))},
        "noise": {k: Raw(json.dumps(v)) for k, v in noises.items()},
        "cases": cases,
    }
    (OUT / f"{name}.json").write_text(to_json(doc))
    if shared:
        questions = {"provenance": provenance(" ".join(FIXTURES)), "rule": rule, "cases": [question(p, ids) for p, ids, *_ in results]}
        (OUT / shared).write_text(to_json(questions))
    print(f"{name}: {len(cases)} cases, {len(every)} rows, {doc['margins'][f'below_{NEAR}']} below {NEAR}, epsilon {epsilon}, "
          f"{doc['judge']['decisive_rows']} decisive, {(OUT / f'{name}.json').stat().st_size} bytes", flush=True)


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("names", nargs="*", help="fixtures and forged models; default: all")
    parse.add_argument("--forge", default=FORGE, help="command that lists (--list) and writes (NAME OUT) forged models")
    a = parse.parse_args()
    forge = shlex.split(a.forge)
    listed = subprocess.run([*forge, "--list"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    known = FIXTURES + [n for n in listed if not NO_ANSWERS.search(n)]
    if unknown := set(a.names) - set(known):
        sys.exit(f"no such model: {', '.join(sorted(unknown))}")
    OUT.mkdir(parents=True, exist_ok=True)
    refusals = OUT / "refused.json"
    refused = json.loads(refusals.read_text())["models"] if refusals.exists() else {}
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        for name in a.names or known:
            if name in FIXTURES:
                path, source = ROOT / f"fixtures/{name}.gguf", {"file": f"fixtures/{name}.gguf"}
                if name.endswith("-f16"):
                    path = work / f"{name}.gguf"
                    models.fixture_f16(ROOT / "fixtures/qwen2-tiny", ROOT / "fixtures/qwen2-tiny-q8_0.gguf", path)
                    assert models.sha256(path) == F16_SHA256
                    source = {"made": "scripts/fixture/to_gguf.py fixtures/qwen2-tiny OUT --outtype f16, or scripts/golden/models.py"}
                asked = lambda peer: prompts.fixture(lambda text: len(peer.tokens(text)))
                write(name, path, source, asked, 4096, prompts.RULE, work, SHARED)
                continue
            path = work / "forged.gguf"
            subprocess.run([*forge, name, str(path)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            asked = lambda peer: prompts.forged(name, [i for i in range(peer.size) if not peer.is_control(i)])
            try:
                write(name, path, {"forge": name}, asked, prompts.context(name), f"random ordinary ids, random.Random('golden {name}'), and one text", work)
                refused.pop(name, None)
            except Refused as e:
                refused[name] = {"sha256": models.sha256(path), "message": str(e).replace(str(path), "FILE")}
                print(f"{name}: refused: {refused[name]['message']}", flush=True)
    if not a.names:
        refused = {n: r for n, r in refused.items() if n in known}
        for file in OUT.glob("*.json"):
            if file.stem not in known and file not in (refusals, OUT / SHARED):
                file.unlink()
    refusals.write_text(to_json({"provenance": provenance(), "models": refused}))


if __name__ == "__main__":
    main()
