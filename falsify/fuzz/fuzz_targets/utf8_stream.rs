//! Bytes in any pieces come out as `String::from_utf8_lossy` of the whole; stop sequences are found wherever text is cut.
#![no_main]

use engine::text::{StopFinder, Utf8Stream};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<Vec<u8>>, Vec<String>)| {
    let (pieces, stops) = input;
    let mut stream = Utf8Stream::new();
    let mut texts: Vec<String> = pieces.iter().map(|piece| stream.push(piece)).collect();
    texts.push(stream.finish());
    let whole = texts.concat();
    assert_eq!(whole, String::from_utf8_lossy(&pieces.concat()));

    let Ok(mut finder) = StopFinder::new(&stops) else { return };
    let mut out = String::new();
    let mut stopped = false;
    for text in &texts {
        let (part, found) = finder.push(text);
        out += &part;
        stopped = found;
    }
    out += &finder.finish();
    let ends = stops.iter().filter_map(|s| whole.find(s.as_str()).map(|start| (start + s.len(), start)));
    let expected = ends.min().map_or((whole.as_str(), false), |(_, start)| (&whole[..start], true));
    assert_eq!((out.as_str(), stopped), expected);
});
