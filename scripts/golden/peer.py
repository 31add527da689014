"""llama.cpp, as little of it as golden answers need: load a file, tokenise, tokens in, logits out.

It calls the C library through the low-level bindings of `llama-cpp-python`; the environment variable LLAMA_CPP_LIB_PATH
names the folder of the library (scripts/golden/setup builds one).
"""
import ctypes
import numpy as np
import llama_cpp.llama_cpp as C

VERSION = __import__("llama_cpp").__version__
THREADS = 2
_said = []


@C.llama_log_callback
def _listen(level, text, _):
    if level in (3, 4):     # warnings and errors
        _said.append(text.decode("utf-8", "replace").strip())


C.llama_log_set(_listen, ctypes.c_void_p(0))
C.llama_backend_init()


class Refused(Exception):
    """llama.cpp did not load the file; says what it said."""


def system_info():
    return C.llama_print_system_info().decode().strip()


class Peer:
    """One model with one sequence. The keyword arguments are llama.cpp's defaults on a CPU."""

    def __init__(self, path, context, kv="f16", flash=True, repack=True):
        _said.clear()
        mp = C.llama_model_default_params()
        mp.n_gpu_layers = 0
        mp.use_extra_bufts = repack
        self.model = C.llama_model_load_from_file(str(path).encode(), mp)
        if not self.model:
            why = next((s for s in _said if "error loading model: " in s), _said[-1] if _said else "no reason given")
            raise Refused(why.split("error loading model: ")[-1])
        cp = C.llama_context_default_params()
        cp.n_ctx = cp.n_batch = context             # a prompt is one call; ubatch stays 512
        cp.n_threads = cp.n_threads_batch = THREADS
        cp.type_k = cp.type_v = {"f16": C.GGML_TYPE_F16, "f32": C.GGML_TYPE_F32}[kv]
        cp.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = C.llama_init_from_model(self.model, cp)
        assert self.context, _said
        self.vocab = C.llama_model_get_vocab(self.model)
        self.size = C.llama_vocab_n_tokens(self.vocab)
        self.batch = C.llama_batch_init(context, 0, 1)

    def close(self):
        C.llama_batch_free(self.batch)
        C.llama_free(self.context)
        C.llama_model_free(self.model)

    def tokens(self, text):
        """Ids of a text. Markers written out in it become control tokens; BOS comes first if the file says so."""
        raw = text.encode()
        out = (C.llama_token * (len(raw) + 8))()
        n = C.llama_tokenize(self.vocab, raw, len(raw), out, len(out), True, True)
        assert n >= 0
        return list(out[:n])

    def text(self, ids):
        """Bytes of the ids; control tokens have none."""
        out = b""
        buffer = ctypes.create_string_buffer(256)
        for i in ids:
            n = C.llama_token_to_piece(self.vocab, i, buffer, len(buffer), 0, False)
            assert n >= 0
            out += buffer.raw[:n]
        return out

    def ends(self, i):
        return C.llama_vocab_is_eog(self.vocab, i)

    def is_control(self, i):
        return C.llama_vocab_is_control(self.vocab, i)

    def clear(self):
        C.llama_memory_clear(C.llama_get_memory(self.context), True)

    def feed(self, ids, at, wanted):
        """Appends ids at position `at`; the logits [len(wanted), size] after those of the indices `wanted`."""
        b = self.batch
        b.n_tokens = len(ids)
        for k, i in enumerate(ids):
            b.token[k] = i
            b.pos[k] = at + k
            b.n_seq_id[k] = 1
            b.seq_id[k][0] = 0
            b.logits[k] = 0
        for k in wanted:
            b.logits[k] = 1
        status = C.llama_decode(self.context, b)
        assert status == 0, (status, _said)
        rows = np.empty((len(wanted), self.size), np.float32)
        for n, k in enumerate(wanted):
            rows[n] = np.ctypeslib.as_array(C.llama_get_logits_ith(self.context, k), (self.size,))
        assert np.isfinite(rows).all()
        return rows

    def forced(self, ids, first, one_by_one=False):
        """Logits after each of ids[first..], all ids given."""
        self.clear()
        if not one_by_one:
            return self.feed(ids, 0, range(first, len(ids)))
        return np.concatenate([self.feed([i], at, [0] if at >= first else []) for at, i in enumerate(ids)])
