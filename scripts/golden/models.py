"""Two files that are derived from others, made with numpy and the package `gguf`: the fixture in F16, and any file with its
weights decoded to F32."""
import hashlib, json, struct
import numpy as np
import gguf
from gguf.quants import dequantize

FLOATS = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _copy(reader, writer, but=()):
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture" or field.name in but:
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)


def _finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def fixture_f16(folder, described, out):
    """Writes what scripts/fixture/to_gguf.py --outtype f16 writes (the same bytes), without torch: weights from the
    safetensors in `folder`, metadata from the GGUF file `described`."""
    with open(folder / "model.safetensors", "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        start = f.tell()
        reader = gguf.GGUFReader(described)
        writer = gguf.GGUFWriter(out, "qwen2")
        late = ("general.file_type", "general.quantization_version")
        for name in list(reader.fields):
            if name == "tokenizer.ggml.model":      # where the converter puts these two
                writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
                writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            _copy(type("One", (), {"fields": {name: reader.fields[name]}}), writer, but=late)
        layers = reader.get_field("qwen2.block_count").contents()
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, layers)
        for key, tensor in head.items():
            if key == "__metadata__":
                continue
            assert tensor["dtype"] == "BF16", key
            a, b = tensor["data_offsets"]
            f.seek(start + a)
            bits = np.frombuffer(f.read(b - a), "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32).reshape(tensor["shape"])
            writer.add_tensor(names.get_name(key, (".weight", ".bias")), values.astype(np.float16) if values.ndim == 2 else values)
    _finish(writer)


def decoded(path, out):
    """The file with every weight decoded to F32: the arithmetic that a quantised file approximates."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.get_field("general.architecture").contents())
    _copy(reader, writer)
    for t in reader.tensors:
        data = t.data.astype(np.float32) if t.tensor_type in FLOATS else dequantize(t.data, t.tensor_type)
        writer.add_tensor(t.name, np.ascontiguousarray(data, np.float32))
    _finish(writer)
