//! The GGUF reader against arbitrary bytes: it answers or refuses, and what it accepts is what it promises.
#![no_main]

use engine::file::cursor::tensor_bytes;
use engine::file::gguf::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match parse(data.to_vec().into()) {
        Ok(checked) => {
            let mut total = 0;
            for (name, tensor) in &checked.tensors {
                assert!(!name.is_empty() && !tensor.shape.is_empty() && !tensor.shape.contains(&0));
                assert_eq!(tensor_bytes(tensor.format, &tensor.shape), Some(tensor.bytes.len()));
                total += tensor.bytes.len();
            }
            assert!(total < data.len(), "tensors overlap");
        }
        Err(error) => assert!(error.at.is_some() && !error.to_string().contains('\n')),
    }
});
