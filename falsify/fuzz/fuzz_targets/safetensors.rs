//! The SafeTensors reader against arbitrary bytes: it answers or refuses, and what it accepts is what it promises.
#![no_main]

use engine::file::cursor::tensor_bytes;
use engine::file::safetensors::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match parse(data.to_vec().into()) {
        Ok(checked) => {
            let mut mapped = 0;
            for tensor in checked.tensors.values() {
                assert!(!tensor.shape.is_empty() && !tensor.shape.contains(&0));
                assert_eq!(tensor_bytes(tensor.format, &tensor.shape), Some(tensor.bytes.len()));
                // Eight-bit floats are widened; everything else lies in the file.
                mapped += tensor.bytes.len();
            }
            assert!(mapped < 2 * data.len(), "tensors overlap");
        }
        Err(error) => assert!(error.at.is_some() && !error.to_string().contains('\n')),
    }
});
