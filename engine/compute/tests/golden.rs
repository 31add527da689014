//! The formats against golden vectors made by the PyPI package `gguf` (scripts/golden/formats.py).

use compute::Format;

fn bits(v: &serde_json::Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn hex(v: &serde_json::Value) -> Vec<u8> {
    let s = v.as_str().unwrap();
    (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn every_format_decodes_and_encodes_as_gguf_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/formats.json");
    let doc: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let entries = doc["formats"].as_array().unwrap();
    assert_eq!(entries.len(), compute::quant::ALL.len(), "every format has golden vectors");
    for e in entries {
        let name = e["format"].as_str().unwrap();
        let format = Format::from_name(name).unwrap();
        assert_eq!(u64::from(format.0.ggml_type), e["ggml_type"].as_u64().unwrap(), "{name}");
        assert_eq!(format.0.block_len as u64, e["block_len"].as_u64().unwrap(), "{name}");
        assert_eq!(format.0.block_bytes as u64, e["block_bytes"].as_u64().unwrap(), "{name}");

        let (bytes, want) = (hex(&e["bytes"]), bits(&e["values"]));
        let mut got = vec![0f32; want.len()];
        format.decode_row(&bytes, &mut got);
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert!(
                g.to_bits() == *w || (*g == 0.0 && w << 1 == 0),
                "{name}: value {i}: {g} is not {}",
                f32::from_bits(*w)
            );
        }
        if let Some(encode) = e.get("encode") {
            let values: Vec<f32> = bits(&encode["values"]).into_iter().map(f32::from_bits).collect();
            let want = hex(&encode["bytes"]);
            let mut got = vec![0u8; want.len()];
            format.encode_row(&values, &mut got);
            assert_eq!(got, want, "{name}: encoded bytes");
        }
    }
}
