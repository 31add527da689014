"""Makes golden/text/vocab_ids.json: risky texts, and what the reference tokenizers make of them with every published
vocabulary. Run scripts/golden/published and scripts/golden/setup first.

    python scripts/golden/vocab.py                 writes it
    python scripts/golden/vocab.py gpt-2 17        shows the ids of text 17

The references: HuggingFace's `tokenizers` for byte-pair encoding and WordPiece, Google's `sentencepiece` for the rest.
Both get the vocabulary out of the GGUF file, and the steps that the models' tokenizer.json names (Digits, Punctuation,
ByteLevel); expressions are read from pretokenizer.rs, run by another engine (Oniguruma). llama.cpp gets the same texts;
where it answers otherwise, the golden file says so. Text is a user's: the names of control tokens are text. Prompts with
tokens of structure in them are asked of llama.cpp alone, since a GGUF file is the only description that it and we share.

Needs gguf, tokenizers, sentencepiece and protobuf.
"""
import ctypes, hashlib, importlib.metadata, json, random, re, sys, unicodedata
from pathlib import Path

import gguf, sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers as pre

ROOT = Path(__file__).resolve().parents[2]
VOCAB = ROOT / "target/oracle/vocab"
OUT = ROOT / "golden/text/vocab_ids.json"
LLAMA = "commit 0c1e57098b"
PACKAGES = ["gguf", "tokenizers", "sentencepiece"]

FAMILY = "\U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466"
PLAIN = [
    "", " ", "a", "Hello, world!", "  two  spaces  ", "\r\n", "a\r\nb\r\n\r\nc", "\n\n\n\nx", "\n \n\t\n x", "\t\tif x:\n\t\t\treturn",
    " " * 100, " " * 100 + "x", "x" + " " * 100, "\n" * 31, "\n" * 33 + "end", "\u00a0\u2003 em spaces\u3000", "a\u0085b\u2028c\u1680d", "1234567890", "3.14159e-10",
    "1,000,000.00 and 50%", "\u0661\u0662\u0663\u0664 \u096a\u096b \u2167 \u00bd\u00b2", "I'm you're it's we'll he'd I've DON'T IT'S 'tis", "it'\u017f o'Reilly '' 'S 'LL", "don\u2019t",
    "for (int i=0;i<n;++i){a[i]^=0xFF;} // done", "def f(x):\n    return x ** 2  # done\n\n\n", "{\"a\": [1, 2, {\"b\": null}]}", "https://example.com/a?b=c&d=%20#e",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u662f2024\u5e74\u3002", "\u3053\u3093\u306b\u3061\u306f\u3001\u30ab\u30bf\u30ab\u30ca\uff11\uff12", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4!", "\U00020000\U0002a700\ufa0e\u9fff",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u0436\u0438\u043a", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0643\u0650\u062a\u064e\u0627\u0628\u061f", "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u1780\u17b6\u1793\u17cb\u178f\u17c2", "Stra\u00dfe \u1e9e \ufb01 \ufb03 \u0130\u0131", "\u01c5\u02b0\u02bc \u2160\u24b6", "\U0001F600", "\U0001F680\U0001F525\u2764\ufe0f", FAMILY, "\U0001F1E9\U0001F1EA \U0001F44D\U0001F3FD",
    "e\u0301 a\u0308 n\u0303", "\u1e69 s\u0323\u0307", "o" + "\u0301" * 40, " \u0301a \u0301", "\u1112\u1161\u11ab \ud55c", "\u0000", "a\u0000b\u0001\u007f\u0080", "\ufeffBOM", "\ufffd", "\u200b\u200c\u200d\u2060 zero",
    "\u202eright\u202c", "\U0010ffff\ue000\u0378", "<|im_end|>", "user<|im_start|>system", "<s></s>[INST] <<SYS>>", "<unk><pad>[CLS][SEP]", "<0x0A><0x+f>", "\u2581a\u2581\u2581b", "\u0120Hello \u010a", "!" * 50, "a" * 300, "=" * 64 + "-" * 64,
    "$x+=1<y>^~|`z", "_snake_case__x CamelCaseHTTP", "\\n\\t\\\\ \\u0041", "\u00ab\u00bb\u2014\u2026\u201cq\u201d", "\u20ac\u00a3\u00a5 \u00a9\u00ae \u2122\u00b0", "\u2200x\u2208\u211d: x\u00b2\u22650", "\u00f5 \u00f7 \u00c1 \u00fd \u00fe",
]
SEEDED = 96
PARTS = ["a", "the", " The", "ING", "'s", "'LL", "'", "\u2019", "7", "42", "2024", "\u0663", "\u00bd", " ", "  ", "    ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u3000", "\u2028", ".", "...", "!?", "(", "_", "$", "<", "|>", "==", "\u3002", "\u2014", "\u20ac",
         "\u4e2d\u6587", "\u306e", "\ud55c\uad6d", "\u0436", "\u0628\u064e", "\u0939\u093f", "\u0e01\u0e34", "\u00e9", "e\u0301", "\u0301", "\u00df", "\u01c5", "\u02b0", "\U0001F600", "\U0001F3FD", "\u200d", "\ufe0f", FAMILY, "\u0000", "\u200b", "\u2581", "\u0120", "</s>", "<|end|>", "<0x41>"]


def texts():
    draw = random.Random("vocabularies")
    return PLAIN + ["".join(draw.choice(PARTS) for _ in range(draw.randint(3, 9))) for _ in range(SEEDED)]


def expressions():
    source = (ROOT / "engine/src/text/pretokenizer.rs").read_text()
    return dict(re.findall(r'const ([A-Z0-9_]+): &str =\s*r"([^"]*)";', source))


E = expressions()
DIGIT, ISOLATED = pre.Digits(individual_digits=True), "isolated"
split = lambda expression: pre.Split(Regex(expression), ISOLATED)
gpt2 = lambda: pre.ByteLevel(add_prefix_space=False, use_regex=True)
raw = lambda: pre.ByteLevel(add_prefix_space=False, use_regex=False)
DEEPSEEK = [split("[\r\n]")]
# Steps before merging, whether text is composed, whether a word that is a token is taken whole.
STEPS = {
    "qwen2": ([split(E["QWEN2"]), raw()], True, False),
    "qwen35": ([split(E["QWEN35"]), raw()], False, False),
    "llama-bpe": ([split(E["LLAMA3"]), raw()], False, True),
    "gpt-2": ([gpt2()], False, False),
    "mpt": ([gpt2()], True, False),
    "starcoder": ([DIGIT, gpt2()], False, False),
    "refact": ([DIGIT, gpt2()], False, False),
    "command-r": ([DIGIT, gpt2()], True, False),
    "falcon": ([pre.Punctuation("contiguous"), gpt2(), pre.Digits(individual_digits=False), split("[0-9][0-9][0-9]")], False, False),
    "deepseek-coder": ([*DEEPSEEK, split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(E["DEEPSEEK_CJK"]), DIGIT, raw()], False, False),
    "deepseek-llm": ([*DEEPSEEK, split(E["DEEPSEEK_LETTERS"]), split(E["DEEPSEEK_MARKS"]), split(r"\s+$"), split(E["DEEPSEEK_CJK"]), DIGIT, raw()], False, False),
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


class Vocabulary:
    def __init__(self, name):
        self.path = VOCAB / f"ggml-vocab-{name}.gguf"
        fields = gguf.GGUFReader(self.path).fields
        get = lambda key: fields[f"tokenizer.ggml.{key}"].contents() if f"tokenizer.ggml.{key}" in fields else None
        self.model, self.pre, self.tokens, self.types, self.merges, self.scores = map(get, ("model", "pre", "tokens", "token_type", "merges", "scores"))

    def words(self):
        """Words that are matched whole in a user's text: user-defined ones that are neither filler nor structure."""
        structure = re.compile(r"<\|[\w.:-]+\|>|</s>|<｜end▁of▁sentence｜>|\[PAD\d+\]", re.A)
        return [t for t, kind in zip(self.tokens, self.types) if kind == USER_DEFINED and not structure.fullmatch(t)]

    def reference(self):
        """A function from a text to ids."""
        return {"gpt2": self.byte_pairs, "gemma4": self.byte_pairs, "llama": self.sentence_pieces, "bert": self.word_pieces}[self.model]()

    def byte_pairs(self):
        vocab = {t: i for i, t in enumerate(self.tokens)}
        merges = [tuple(m.split(" ", 1)) for m in self.merges]
        if self.model == "gemma4":
            tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
            tok.normalizer = normalizers.Replace(" ", "\u2581")
        else:
            steps, nfc, whole = STEPS[self.pre]
            tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole))
            tok.pre_tokenizer = pre.Sequence(steps)
            if nfc:
                tok.normalizer = normalizers.NFC()
        tok.add_tokens([AddedToken(t, normalized=False) for t in self.words()])
        return lambda text: tok.encode(text, add_special_tokens=False).ids

    def sentence_pieces(self):
        model = proto.ModelProto()
        kinds = {NORMAL: 1, UNKNOWN: 3, CONTROL: 3, USER_DEFINED: 3, UNUSED: 5, BYTE: 6}    # the numbers are sentencepiece's too
        for i, (text, kind, score) in enumerate(zip(self.tokens, self.types, self.scores)):
            words = {USER_DEFINED: 4} if text in self.words() else {}
            model.pieces.add(piece=text, score=score, type=2 if i == 0 else words.get(kind, kinds[kind]))
        model.trainer_spec.model_type = proto.TrainerSpec.BPE
        model.trainer_spec.byte_fallback = True
        model.normalizer_spec.name = "identity"
        model.normalizer_spec.add_dummy_prefix = True
        model.normalizer_spec.remove_extra_whitespaces = False
        model.normalizer_spec.escape_whitespaces = True
        tok = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        return lambda text: tok.encode(text)

    def word_pieces(self):
        def name(text, kind):
            if kind != NORMAL:
                return text
            return text[1:] if text.startswith("\u2581") else "##" + text
        vocab = {name(t, k): i for i, (t, k) in enumerate(zip(self.tokens, self.types))}
        tok = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=100))
        tok.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
        tok.pre_tokenizer = pre.BertPreTokenizer()
        return lambda text: tok.encode(text, add_special_tokens=False).ids

    def llama(self, C):
        """llama.cpp's function from a text to ids. It composes nothing, so it gets composed text where the model does that."""
        params = C.llama_model_default_params()
        params.vocab_only = True
        model = C.llama_model_load_from_file(str(self.path).encode(), params)
        vocab = C.llama_model_get_vocab(model)
        nfc = self.model == "gpt2" and STEPS[self.pre][1]

        def ids(text, prompt=False):
            text = (unicodedata.normalize("NFC", text) if nfc else text).encode()
            out = (C.llama_token * (4 * len(text) + 8))()
            n = C.llama_tokenize(vocab, text, len(text), out, len(out), prompt, prompt)
            return list(out[:n])
        return ids


    def prompts(self):
        """Texts with tokens of structure: the first three, the last two, and a word that is matched whole. None begins a
        text, where we put no second BOS and llama.cpp does."""
        structure = [t for t, kind in zip(self.tokens, self.types) if kind == CONTROL and not re.search("unused|reserved|PAD", t, re.I)]
        marks = [*structure[:3], *structure[-2:], *self.words()[:1]]
        return [text for m in marks for text in (f"x{m}\n y {m}z", f"y  {m}  {marks[0]}{m} a\u0301\r\n")]


def digest(ids):
    """FNV-1a of the ids as 32-bit little-endian numbers."""
    h = 0x811C9DC5
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{h:08x}"


def main():
    every = texts()
    if len(sys.argv) == 3:
        text = every[int(sys.argv[2])]
        print(repr(text), Vocabulary(sys.argv[1]).reference()(text))
        return
    import llama_cpp.llama_cpp as C
    silent = C.llama_log_callback(lambda *_: None)
    C.llama_log_set(silent, ctypes.c_void_p(0))
    C.llama_backend_init()
    out = {}
    for path in sorted(VOCAB.glob("*.out")):
        name = path.name.removeprefix("ggml-vocab-").removesuffix(".gguf.out")
        vocabulary = Vocabulary(name)
        ours, llama = vocabulary.reference(), vocabulary.llama(C)
        ids = [ours(t) for t in every]
        differ = [n for n, t in enumerate(every) if llama(t) != ids[n]]
        out[name] = {"sha256": hashlib.sha256(vocabulary.path.read_bytes()).hexdigest(), "llama.cpp differs": differ, "ids": " ".join(map(digest, ids)),
                     "prompts": {p: digest(llama(p, True)) for p in vocabulary.prompts()}}
        print(name, len(ids), "texts; llama.cpp differs in", len(differ), flush=True)
        for n in differ:
            print("   ", n, ascii(every[n])[:70], ids[n][:12], llama(every[n])[:12])
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    provenance = {"prompts": "llama.cpp's ids, markers parsed, with BOS and the like where the file wants them", "maker": f"{versions}; compared with llama.cpp {LLAMA}", "command": "scripts/golden/published && python scripts/golden/vocab.py",
                  "digest": " ".join(digest.__doc__.split()), "vocabularies": "scripts/golden/published fetches them"}
    lines = [json.dumps(provenance, indent=1), json.dumps(every), *(json.dumps({k: v}, indent=1)[2:-2] for k, v in out.items())]
    OUT.write_text('{\n"provenance": ' + lines[0] + ',\n"texts": ' + lines[1] + ',\n"vocabularies": {\n' + ",\n".join(lines[2:]) + "\n}\n}\n")
    print(OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
