//! Writes SafeTensors files as the package of this name does: the widest numbers first and then by name, so that each
//! tensor begins at a multiple of its number's width. The same model gives the same bytes everywhere.

use std::collections::BTreeMap;
use std::io::Write;

use compute::Format;
use serde_json::{Value as Json, json};

use crate::error::{Error, Kind, Place, Result};
use crate::file::at_most;
use crate::file::outgoing::{Counted, Data, Outgoing};
use crate::limits;

/// Where the header ends and every tensor begins.
const ALIGNMENT: usize = 8;

/// Writes a file of these tensors, and what is said of them in words.
pub fn write(
    out: &mut dyn Write,
    notes: &BTreeMap<String, String>,
    tensors: &[Outgoing<'_>],
    data: Data<'_>,
) -> Result<()> {
    let mut order = Vec::new();
    for (i, t) in tensors.iter().enumerate() {
        let (dtype, width) = number(t)?;
        order.push((std::cmp::Reverse(width), t.name, dtype, i));
    }
    order.sort();
    // By hand, because the order of the entries is that of the tensors.
    let mut entries = Vec::new();
    if !notes.is_empty() {
        entries.push(format!("\"__metadata__\":{}", json!(notes)));
    }
    let mut at = 0;
    for &(_, name, dtype, i) in &order {
        let info = json!({"dtype": dtype, "shape": tensors[i].shape, "data_offsets": [at, at + tensors[i].bytes]});
        entries.push(format!("{}:{info}", Json::from(name)));
        at += tensors[i].bytes;
    }
    let mut header = format!("{{{}}}", entries.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    at_most(header.len() as u64, limits::SAFETENSORS_HEADER_BYTES_MAX, "bytes of header", Place::Byte(0))?;
    let mut out = Counted::new(out);
    out.section(&(header.len() as u64).to_le_bytes(), 1)?;
    out.section(&header, 1)?;
    order.iter().try_for_each(|&(.., i)| out.tensor(&tensors[i], i, data, 1))
}

/// What the format calls a tensor's numbers, and the bytes of one.
fn number(t: &Outgoing<'_>) -> Result<(&'static str, u64)> {
    let format = Format::from_ggml(t.dtype).map_or("these", |f| f.0.name);
    match format {
        "F32" => Ok((format, 4)),
        "F16" | "BF16" => Ok((format, 2)),
        _ => Err(Error::new(Kind::Unsupported, format!("SafeTensors have no {format} numbers"))
            .at(Place::Tensor(t.name.into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::safetensors::parse;

    #[test]
    fn what_is_written_is_read_again_and_aligned() {
        let tensor = |name, dtype: &str, shape, bytes| {
            let dtype = Format::from_name(dtype).unwrap().0.ggml_type;
            Outgoing { name, dtype, shape, bytes }
        };
        let tensors = [tensor("a\"\n", "F16", &[3], 6), tensor("c", "F32", &[1, 2], 8), tensor("b", "BF16", &[1], 2)];
        let notes = BTreeMap::from([("format".to_string(), "pt".to_string()), ("x".into(), "\"".into())]);
        let mut out = Vec::new();
        let mut data = |i: usize, out: &mut dyn Write| {
            out.write_all(&vec![i as u8; tensors[i].bytes as usize]).unwrap();
            Ok(())
        };
        write(&mut out, &notes, &tensors, &mut data).unwrap();
        let len = u64::from_le_bytes(out[..8].try_into().unwrap()) as usize;
        assert_eq!((len % 8, &out[8 + len..]), (0, &[[1; 8], [0, 0, 0, 0, 0, 0, 2, 2]].concat()[..]));
        let read = parse(out.into()).unwrap();
        assert_eq!(read.metadata.string("safetensors.x").unwrap(), Some("\""));
        assert_eq!(read.tensors.keys().collect::<Vec<_>>(), ["a\"\n", "b", "c"]);
        assert_eq!((&read.tensors["c"].bytes[..], &read.tensors["b"].bytes[..]), (&[1; 8][..], &[2; 2][..]));
        let odd = [tensor("q", "Q8_0", &[32], 34)];
        let e = write(&mut Vec::new(), &notes, &odd, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!((e.kind, e.at), (Kind::Unsupported, Some(Place::Tensor("q".into()))));
    }
}
