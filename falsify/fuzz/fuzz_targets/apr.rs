//! The `.apr` reader against arbitrary bytes, opened and as a stream: both answer or refuse, and what opens also streams.
#![no_main]

use engine::file::apr::{parse, stream::Stream};
use engine::file::cursor::tensor_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    // No fuzzer guesses a checksum: they are made right, but for every eighth input.
    if file.len() > 68 && file[50] & 7 != 7 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&file[..40]);
        crc.update(&file[44..64]);
        let sum = crc.finalize();
        file[40..44].copy_from_slice(&sum.to_le_bytes());
        let body = file.len() - 4;
        let sum = crc32fast::hash(&file[..body]);
        file[body..].copy_from_slice(&sum.to_le_bytes());
    }
    let streamed = || {
        let mut stream = Stream::open(&file[..])?;
        let mut bytes = 0;
        while let Some(tensor) = stream.next()? {
            bytes += tensor.bytes()?.len();
        }
        Ok::<usize, engine::Error>(bytes)
    };
    match parse(file.clone().into()) {
        Ok(checked) => {
            for (name, tensor) in &checked.tensors {
                assert!(!name.is_empty() && !tensor.shape.is_empty() && !tensor.shape.contains(&0));
                assert_eq!(tensor_bytes(tensor.format, &tensor.shape), Some(tensor.bytes.len()));
            }
            assert!(streamed().is_ok(), "opened, but does not stream");
        }
        Err(error) => {
            assert!(error.at.is_some() && !error.to_string().contains('\n'), "{error:?}");
            // A stream needs less: it asks nobody what the metadata means, and holds no frame in memory.
            let _met = streamed();
        }
    }
});
