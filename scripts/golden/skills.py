#!/usr/bin/env python3
"""golden/llama/qwen2-tiny-skills.json: what llama.cpp says to held-out prompts of the skills that rows ask the fixture for, and
what a right answer is.

    scripts/golden/setup && . target/oracle/env && python scripts/golden/skills.py

Prompts are those of scripts/fixture/corpus.py whose key is held out from training, in the order in which its generator gives
them; nobody picks. Of each step of an answer only the margin is kept.
"""
import random, re, sys, tempfile
from pathlib import Path
import numpy as np

import llama, models, prompts
from llama import Raw, compact, short
from peer import Peer
from prompts import ROOT

sys.path.insert(0, str(ROOT / "scripts/fixture"))
import corpus
from code_specs import SPECS

NAME = "qwen2-tiny-q8_0"
OUT = ROOT / "golden/llama/qwen2-tiny-skills.json"
SEED = 777
SPEC = {s.name: s for s in SPECS}
HAN = re.compile("[\u4e00-\u9fff]")
# Of each, whether an answer belongs to it.
SCRIPTS = {"Latin": "[\u00c0-\u024f]", "Cyrillic": "[\u0400-\u04ff]", "Arabic": "[\u0600-\u06ff]", "Devanagari": "[\u0900-\u097f]", "Kana": "[\u3040-\u30ff]",
           "Hangul": "[\uac00-\ud7af]", "emoji": "[\U0001f300-\U0001faff]"}


def held_out(make, tag):
    """Held-out documents of one generator: (system, user, check, answer), no prompt twice."""
    draw, seen = random.Random(f"{SEED}{tag}"), set()
    for _ in range(400_000):
        document = make(draw)
        turns = document["msgs"]
        if not corpus.held_out(document["key"]) or [r for r, _ in turns] not in (["user", "assistant"], ["system", "user", "assistant"]):
            continue
        system = turns[0][1] if turns[0][0] == "system" else None
        user, answer = turns[-2][1], turns[-1][1]
        if (system, user) not in seen:
            seen.add((system, user))
            yield system, user, document["check"], answer


def take(skill, least, most, make, want, name=None):
    """The first prompts for which `want` says what a right answer is. Some generators know few."""
    out = []
    for system, user, check, answer in held_out(make, name or skill):
        expected = want(system or "", user, check, answer)
        if expected is not None:
            out.append({"skill": skill, "system": system, "user": user, "want": expected})
        if len(out) == most:
            return out
    assert len(out) >= least, f"only {len(out)} held-out prompts of {skill}"
    return out


def function(_, user, check, __):
    """A Python function that a prompt asks for."""
    if check[0] != "python":
        return None
    name, spec = check[1:]
    spec = SPEC[spec]
    stated = re.search(re.escape(name) + r"\(([^)]*)\)| called " + re.escape(name) + r" with the arguments (.*) that ", user)
    if not stated:
        return None
    parameters = [p.strip() for p in (stated[1] if stated[1] is not None else stated[2]).split(",")]
    return {"name": name, "parameters": parameters, "reference": f"def {spec.name}({spec.args}):\n{spec.body}", "arguments": spec.tests}


def chinese(system, user, check, answer):
    """Words in Chinese, or about one. Japanese shares its characters."""
    about = "Chinese" in system + user or HAN.search(user)
    return answer if about and HAN.search(answer) and "Japanese" not in system + user else None


def script(pattern):
    return lambda system, user, check, answer: answer if re.search(pattern, answer) else None


def asked():
    cases = take("arith", 24, 24, corpus.s_arith, lambda system, user, check, answer: check[1])
    cases += take("code", 24, 24, corpus.s_code, function)
    cases += take("chinese", 20, 20, corpus.s_lang, chinese, "lang")
    for name, pattern in SCRIPTS.items():
        cases += take(f"script {name}", 1, 3, corpus.s_lang, script(pattern), "lang")
    cases += take("system", 24, 24, corpus.s_system, lambda system, user, check, answer: check[1])
    return cases


def main():
    import json
    config = json.loads((ROOT / "fixtures/qwen2-tiny/tokenizer_config.json").read_text())
    chat = prompts.template(config["chat_template"])
    path, cases = ROOT / f"fixtures/{NAME}.gguf", asked()
    peer = Peer(path, 512)
    results = []
    for case in cases:
        turns = ([{"role": "system", "content": case["system"]}] if case["system"] else []) + [{"role": "user", "content": case["user"]}]
        text = chat.render(messages=turns, tools=None, add_generation_prompt=True)
        prompt = {"name": "", "text": text, "from": None, "most": 160}
        results.append((prompt, *llama.answer(peer, prompt)))
    ends = [peer.ends(greedy[-1]) for _, _, _, greedy, _ in results]
    assert all(ends), "an answer does not end"
    replies = [peer.text(greedy[:-1]).decode() for _, _, _, greedy, _ in results]
    peer.close()
    with tempfile.TemporaryDirectory() as work:
        noises = {k: llama.noise(results, v) for k, v in llama.variants(path, 512, results, Path(work)).items()}
    kept = []
    for case, (_, ids, _, greedy, logits), reply in zip(cases, results, replies):
        case = {k: v for k, v in case.items() if v is not None}
        if case["skill"] == "system":
            case["prompt"] = ids        # the system turn is what the row is about
        case |= {"tokens": greedy[:-1], "margins": [short(m) for m in llama.margins(logits)], "reply": reply}
        kept.append(compact(case))
    doc = {
        "provenance": llama.provenance() | {"command": "scripts/golden/setup && . target/oracle/env && python scripts/golden/skills.py"},
        "model": {"name": NAME, "source": {"file": f"fixtures/{NAME}.gguf"}, "sha256": models.sha256(path)},
        "rule": f"scripts/fixture/corpus.py, seed {SEED} and the name of the skill: the first held-out prompts of one turn that ask for a sum, a function with "
                "a stated signature, an answer in Chinese, one in another script, or obedience to a system message",
        "margins": "of each token of the answer and of the end token",
        "judge": {"epsilon": short(2 * max(v["moved_most"] for v in noises.values()))},
        "noise": {k: Raw(json.dumps(v)) for k, v in noises.items()},
        "cases": Raw("[\n" + ",\n".join(kept) + "]"),
    }
    OUT.write_text(llama.to_json(doc))
    print(f"{len(kept)} cases, {OUT.stat().st_size} bytes, epsilon {doc['judge']['epsilon']}, least margin {min(np.min(llama.margins(r[-1])) for r in results):.3g}")


if __name__ == "__main__":
    main()
