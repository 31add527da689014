//! Stop sequences, found while the text is still arriving.
//!
//! Text is held back only while it may still become a stop sequence. The sequence that is complete first ends the text
//! (the longest, if several end at the same byte): that does not depend on how the text was cut into tokens.

use crate::error::{Error, Kind, Place, Result};
use crate::limits;

/// Watches for the stop sequences of one request.
#[derive(Debug, Clone)]
pub struct StopFinder {
    stops: Vec<Stop>,
    /// Text that ends in the beginning of a stop sequence.
    held: String,
    stopped: bool,
}

/// One sequence, as Knuth, Morris and Pratt search for it: every byte of the text is looked at once.
#[derive(Debug, Clone)]
struct Stop {
    bytes: Vec<u8>,
    /// `back[n]`: the longest proper beginning of `bytes` that `bytes[..n + 1]` ends with.
    back: Vec<usize>,
    /// How much of `bytes` the text ends with now.
    matched: usize,
}

impl StopFinder {
    /// For these sequences. None at all is fine.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<StopFinder> {
        let usage = |what: String| Err(Error::new(Kind::Usage, what).at(Place::Flag("--stop".into())));
        if stops.len() > limits::STOPS_MAX {
            return usage(format!("{} stop sequences; at most {} are allowed", stops.len(), limits::STOPS_MAX));
        }
        for stop in stops.iter().map(AsRef::as_ref) {
            if stop.is_empty() {
                return usage("a stop sequence is empty: it would end every text before it begins".into());
            }
            if stop.len() > limits::STOP_BYTES_MAX {
                return usage(format!(
                    "a stop sequence has {} bytes; at most {} are allowed",
                    stop.len(),
                    limits::STOP_BYTES_MAX
                ));
            }
        }
        let stops = stops.iter().map(|s| Stop::new(s.as_ref().as_bytes())).collect();
        Ok(StopFinder { stops, held: String::new(), stopped: false })
    }

    /// Takes text; gives what is certainly before any stop sequence, and whether one was found. After that, nothing
    /// more.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        if self.stopped {
            return (String::new(), true);
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            let complete = self.stops.iter_mut().filter_map(|stop| stop.step(byte)).max();
            if let Some(len) = complete {
                self.stopped = true;
                // A sequence begins where a character begins, so these are character boundaries.
                self.held.truncate(before + i + 1 - len);
                return (std::mem::take(&mut self.held), true);
            }
        }
        let may_become = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let keep = self.held.split_off(self.held.len() - may_become);
        (std::mem::replace(&mut self.held, keep), false)
    }

    /// The end of the text: what was held back after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl Stop {
    fn new(bytes: &[u8]) -> Stop {
        let mut back = vec![0; bytes.len()];
        for n in 1..bytes.len() {
            let mut len = back[n - 1];
            while len > 0 && bytes[len] != bytes[n] {
                len = back[len - 1];
            }
            back[n] = len + usize::from(bytes[len] == bytes[n]);
        }
        Stop { bytes: bytes.to_vec(), back, matched: 0 }
    }

    /// One byte further. The sequence's length when this byte completes it.
    fn step(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.back[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        (self.matched == self.bytes.len()).then_some(self.matched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut finder = StopFinder::new(stops).unwrap();
        let mut out = String::new();
        for piece in pieces {
            let (text, stopped) = finder.push(piece);
            out += &text;
            if stopped {
                assert_eq!(finder.push("more"), (String::new(), true));
                assert_eq!(finder.finish(), "");
                return (out, true);
            }
        }
        (out + &finder.finish(), false)
    }

    #[test]
    fn a_sequence_straddles_tokens() {
        assert_eq!(run(&["</end>"], &["a <", "/en", "d> b"]), ("a ".into(), true));
        assert_eq!(run(&["</end>"], &["a <", "/en", "ding"]), ("a </ending".into(), false));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), false));
        assert_eq!(run(&["é"], &["caf", "é!"]), ("caf".into(), true));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(run(&["aabaaaba"], &["aabaaabaaabaaaba"]), ("".into(), true));
        assert_eq!(run(&["aabaaac"], &["aabaa", "abaaac"]), ("aaba".into(), true));
    }

    #[test]
    fn the_sequence_complete_first_wins_then_the_longest() {
        assert_eq!(run(&["abcd", "bc"], &["abcd"]), ("a".into(), true));
        assert_eq!(run(&["c", "abc"], &["xab", "c"]), ("x".into(), true));
    }

    #[test]
    fn only_what_may_become_a_stop_is_held_back() {
        let mut finder = StopFinder::new(&["STOP"]).unwrap();
        assert_eq!(finder.push("abS"), ("ab".into(), false));
        assert_eq!(finder.push("T"), (String::new(), false));
        assert_eq!(finder.push("x"), ("STx".into(), false));
    }

    #[test]
    fn bad_sequences_are_refused() {
        assert_eq!(StopFinder::new(&["a", ""]).unwrap_err().kind, Kind::Usage);
        assert_eq!(StopFinder::new(&["x".repeat(limits::STOP_BYTES_MAX + 1)]).unwrap_err().kind, Kind::Usage);
        assert_eq!(StopFinder::new(&["x"; limits::STOPS_MAX + 1]).unwrap_err().kind, Kind::Usage);
    }

    proptest! {
        /// The definition, by searching the whole text: the smallest end, then the smallest start.
        #[test]
        fn streaming_is_searching_the_whole_text(
            stops in prop::collection::vec(prop_oneof!["[ab€🦀]{1,4}", "[ab]{4,9}"], 0..5),
            pieces in prop::collection::vec(prop_oneof!["[abc€🦀]{0,5}", "[ab]{0,9}"], 0..12),
        ) {
            let whole = pieces.concat();
            let found = stops.iter().filter_map(|s| whole.find(s.as_str()).map(|start| (start + s.len(), start))).min();
            let expected = found.map_or((whole.clone(), false), |(_, start)| (whole[..start].to_string(), true));
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stops, &pieces), expected);
        }
    }
}
