#!/usr/bin/env python3
"""Golden vectors of the number formats, from the PyPI package `gguf`: golden/formats.json.

    pip install gguf==0.19.0 numpy && python scripts/golden/formats.py

For each format: blocks of random bytes (scales kept finite) with the values they decode to, as f32 bit patterns; and,
where the package can encode, values with the bytes they encode to.
"""
import json, os
import numpy as np
import gguf
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

# Offsets of half-float scales in a block, which must be finite for the values to mean anything.
SCALES = {"F16": [0], "BF16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
          "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
BLOCKS = 8
rng = np.random.default_rng(20261123)
bits = lambda a: [int(x) for x in np.ascontiguousarray(a, np.float32).reshape(-1).view(np.uint32)]
out = []
for name in ["F32", *SCALES]:
    t = T[name]
    length, size = gguf.GGML_QUANT_SIZES[t]
    blocks = BLOCKS if length > 1 else 256
    raw = rng.integers(0, 256, (blocks, size), np.uint8)
    for at in SCALES.get(name, []):
        half = rng.normal(0, 0.02, blocks).astype(np.float16)
        if name == "BF16":
            raw[:, 0:2] = (rng.normal(0, 2, blocks).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(-1, 2)
        else:
            raw[:, at:at + 2] = half.view(np.uint8).reshape(-1, 2)
    if name == "F32":
        raw = rng.normal(0, 1, blocks).astype(np.float32).view(np.uint8).reshape(-1, 4)
    if name == "F16":  # every kind: subnormal, largest, zero of both signs
        raw[:6, :] = np.array([0x0001, 0x03FF, 0x7BFF, 0xFBFF, 0x0000, 0x8000], np.uint16).view(np.uint8).reshape(-1, 2)
    decoded = dequantize(raw.reshape(1, -1), t) if name != "F32" else raw.view(np.float32)
    entry = {"format": name, "ggml_type": int(t), "block_len": length, "block_bytes": size,
             "bytes": raw.tobytes().hex(), "values": bits(decoded)}
    if name in ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        n = max(length, 32)
        values = (rng.standard_t(4, (BLOCKS, n)) * 0.1).astype(np.float32)
        values[0, :] = 0
        entry["encode"] = {"values": bits(values), "bytes": quantize(values, t).tobytes().hex()}
    out.append(entry)
doc = {"provenance": {"maker": "gguf (PyPI) " + __import__("importlib.metadata", fromlist=["version"]).version("gguf"),
                      "command": "python scripts/golden/formats.py", "seed": 20261123}, "formats": out}
path = os.path.join(os.path.dirname(__file__), "..", "..", "golden", "formats.json")
with open(path, "w") as f:
    json.dump(doc, f, separators=(",", ":"))
    f.write("\n")
