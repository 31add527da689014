//! What happens to text before a byte-pair encoder merges it: Unicode's composed form, and the cut into words.
//!
//! A pre-tokeniser is one row of [`ALL`]. The expressions are those of the models' `tokenizer.json`; where such a file
//! names a step instead (`Digits`, `Punctuation`), the row has the expression that means the same. They look ahead
//! (`\s+(?!\S)`), and the reference engine then gives up, silently, on a million spaces. The [`Cutter`] gives the same
//! words by expressions without look-ahead, in linear time.

use std::borrow::Cow;

use tokenizers::NormalizedString;
use tokenizers::utils::SysRegex;

use crate::error::{Error, Kind, Result};
use crate::limits;

/// A pre-tokeniser, as `tokenizer.ggml.pre` names it.
#[derive(Clone, Copy)]
pub(super) struct Pre {
    /// Its names in files.
    pub names: &'static [&'static str],
    /// One expression after the other cuts the words of the one before.
    pub words: &'static [&'static str],
    /// Whether text is put in Unicode's composed form first. llama.cpp never does; a model has seen what its own
    /// `tokenizer.json` did, so that rules where it is known.
    pub nfc: bool,
    /// Whether a word that is a token is that token, whatever the merges would make of it.
    pub whole_words: bool,
    /// Whether prompts begin with BOS where the file does not say.
    pub add_bos: bool,
}

/// The expression of GPT-2's `encoder.py`.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The letters that DeepSeek LLM's `tokenizer.json` lists: Latin, Greek, Cyrillic, Armenian, Georgian and some more.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
/// Its punctuation.
const DEEPSEEK_MARKS: &str = r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+";
const DEEPSEEK_CJK: &str = r"[一-龥ࠀ-一가-\x{D7FF}]+";

/// Every pre-tokeniser. Names that llama.cpp treats alike are one row.
pub(super) static ALL: &[Pre] = &[
    Pre { names: &["qwen2"], words: &[QWEN2], nfc: true, whole_words: false, add_bos: false },
    Pre {
        names: &["deepseek-r1-qwen", "hunyuan", "kormo", "megrez", "solar-open", "stablelm2"],
        words: &[QWEN2],
        nfc: false,
        whole_words: false,
        add_bos: false,
    },
    // The ids published for it are of uncomposed text.
    Pre { names: &["qwen35"], words: &[QWEN35], nfc: false, whole_words: false, add_bos: false },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2", "midm-2.0", "pixtral"],
        words: &[LLAMA3],
        nfc: false,
        whole_words: true,
        add_bos: true,
    },
    Pre { names: &["glm4"], words: &[LLAMA3], nfc: false, whole_words: true, add_bos: false },
    Pre {
        names: &["chatglm-bpe", "dbrx", "smaug-bpe"],
        words: &[LLAMA3],
        nfc: false,
        whole_words: false,
        add_bos: false,
    },
    Pre {
        names: &["gpt-2", "a.x-4.0", "exaone4", "gigachat", "granite-docling", "jais", "mellum", "phi-2", "trillion"],
        words: &[GPT2],
        nfc: false,
        whole_words: false,
        add_bos: false,
    },
    // GPT-NeoX's tokenizer, which composes.
    Pre { names: &["mpt", "olmo"], words: &[GPT2], nfc: true, whole_words: false, add_bos: false },
    Pre {
        names: &["starcoder", "codeshell", "exaone", "minerva-7b", "refact", "smollm"],
        words: &[r"\p{N}", GPT2],
        nfc: false,
        whole_words: false,
        add_bos: false,
    },
    Pre { names: &["command-r"], words: &[r"\p{N}", GPT2], nfc: true, whole_words: false, add_bos: false },
    Pre {
        names: &["falcon"],
        words: &[r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"],
        nfc: false,
        whole_words: false,
        add_bos: false,
    },
    Pre {
        names: &["deepseek-llm"],
        words: &["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"\s+$", DEEPSEEK_CJK, r"\p{N}+"],
        nfc: false,
        whole_words: false,
        add_bos: false,
    },
    Pre {
        names: &["deepseek-coder"],
        words: &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"],
        nfc: false,
        whole_words: false,
        add_bos: false,
    },
];

/// Gemma 4's: a line is a word. No file names it, since the tokenizer model does.
pub(super) static LINES: Pre =
    Pre { names: &[], words: &[r"[^\n]+|\n+"], nfc: false, whole_words: false, add_bos: true };

/// Unicode's composed form, by the tables of `tokenizers`. Pieces are kept small because it needs twenty times their
/// size.
pub(super) fn composed(text: &str) -> Cow<'_, str> {
    const PIECE: usize = 1 << 12;
    // Nothing below U+0300 composes with what is before it.
    let plain = |text: &str| text.chars().all(|c| c < '\u{300}');
    if plain(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let cut = rest.bytes().skip(PIECE).position(|b| b.is_ascii()).map_or(rest.len(), |n| PIECE + n);
        let (piece, after) = rest.split_at(cut);
        if plain(piece) {
            out.push_str(piece);
        } else {
            let mut normalized = NormalizedString::from(piece);
            normalized.nfc();
            out.push_str(normalized.get());
        }
        rest = after;
    }
    Cow::Owned(out)
}

/// Calls `word` with every word of the text, in order: nothing is left out.
pub(super) fn for_each_word(cutters: &[Cutter], text: &str, word: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let Some((cutter, finer)) = cutters.split_first() else {
        return pieces(text).try_for_each(word);
    };
    let mut rest = text;
    while !rest.is_empty() {
        let (first, after) = rest.split_at(cutter.first_word(rest));
        for_each_word(finer, first, word)?;
        rest = after;
    }
    Ok(())
}

/// The text in pieces that an encoder can take.
///
/// A million letters are one word, and merging them takes minutes and gigabytes. So a word past the limit is cut where
/// its last blanks begin, which no token spans in practice; without blanks it is cut anywhere, and its ids may differ
/// from the reference's at each cut (Llama 3's own tokenizer cuts at 25,000 characters).
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    const BLANKS: [char; 3] = [' ', '\n', '\u{2581}'];
    let mut rest = text;
    std::iter::from_fn(move || {
        let most = rest.floor_char_boundary(limits::WORD_BYTES_MAX);
        let begins = |&(at, _): &(usize, &str)| at > 0 && !rest[..at].ends_with(BLANKS);
        let cut = match most < rest.len() {
            true => rest[..most].rmatch_indices(BLANKS).find(begins).map_or(most, |(at, _)| at),
            false => most,
        };
        let (piece, after) = rest.split_at(cut);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Cuts text into words by a regular expression that is linear in the length of the text.
pub(super) struct Cutter {
    regex: SysRegex,
    /// Whether blanks in front of a word leave their last one to it.
    last_blank_joins: bool,
    /// Whether blanks with a line end among them are a word that ends in the line end.
    lines_end_words: bool,
}

impl Cutter {
    /// From an expression of a `tokenizer.json`. The one look-ahead that these have, `\s+(?!\S)|\s+`, means: blanks,
    /// all but the last if something follows. That is said here by `\s+` and a flag.
    pub fn new(expression: &str) -> Result<Cutter> {
        let without = expression.strip_suffix(r"\s+(?!\S)|\s+").map(|begin| format!(r"{begin}\s+"));
        let last_blank_joins = without.is_some();
        let regex = SysRegex::new(without.as_deref().unwrap_or(expression));
        let regex = regex.map_err(|e| Error::new(Kind::Inference, format!("bad pre-tokeniser expression: {e}")))?;
        Ok(Cutter { regex, last_blank_joins, lines_end_words: expression.contains(r"\s*[\r\n]+|") })
    }

    /// The length of the first word of a text that is not empty.
    fn first_word(&self, text: &str) -> usize {
        let word = match self.regex.find_iter(text).next() {
            Some((0, end)) if end > 0 => &text[..end],
            // What no alternative matches is a word too.
            Some((start, _)) if start > 0 => return start,
            _ => return text.len(),
        };
        let line = self.lines_end_words && word.ends_with(['\r', '\n']);
        let blank = self.last_blank_joins && !line && word.chars().all(char::is_whitespace);
        match word.char_indices().next_back() {
            Some((last, _)) if blank && last > 0 && word.len() < text.len() => last,
            _ => word.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// The words of expressions of a `tokenizer.json`, by the engine that HuggingFace's crate uses.
    fn reference<'t>(expressions: &[SysRegex], text: &'t str) -> Vec<&'t str> {
        let mut words = vec![text];
        for regex in expressions {
            let cut = |word: &'t str| {
                let mut at = 0;
                let mut cuts = Vec::new();
                for (start, end) in regex.find_iter(word) {
                    cuts.extend([&word[at..start], &word[start..end]]);
                    at = end;
                }
                cuts.push(&word[at..]);
                cuts
            };
            words = words.into_iter().flat_map(cut).filter(|word| !word.is_empty()).collect();
        }
        words
    }

    fn words<'t>(cutters: &[Cutter], text: &'t str) -> Vec<&'t str> {
        let mut lens = Vec::new();
        for_each_word(cutters, text, &mut |word| {
            lens.push(word.len());
            Ok(())
        })
        .unwrap();
        let mut at = 0;
        let word = |len: usize| {
            at += len;
            &text[at - len..at]
        };
        lens.into_iter().map(word).collect()
    }

    /// Every pre-tokeniser in both ways.
    static BOTH: LazyLock<Vec<(Vec<Cutter>, Vec<SysRegex>)>> = LazyLock::new(|| {
        let cutters = |pre: &Pre| pre.words.iter().map(|e| Cutter::new(e).unwrap()).collect();
        let regexes = |pre: &Pre| pre.words.iter().map(|e| SysRegex::new(e).unwrap()).collect();
        ALL.iter().chain([&LINES]).map(|pre| (cutters(pre), regexes(pre))).collect()
    });

    proptest! {
        #[test]
        fn words_are_those_of_the_reference_expression(
            text in prop_oneof!["\\PC{0,40}", "[ \t\r\n\u{a0}'sSlLvVeEſa12.!!é日\u{301}٣½$]{0,40}"],
        ) {
            for (i, (cutters, regexes)) in BOTH.iter().enumerate() {
                prop_assert_eq!(words(cutters, &text), reference(regexes, &text), "row {}", i);
            }
        }

        #[test]
        fn composing_piece_by_piece_is_composing(text in "[ a-eE\u{300}-\u{330}\u{1100}-\u{11ff}日é\n]{0,60}") {
            let mut whole = NormalizedString::from(text.as_str());
            whole.nfc();
            prop_assert_eq!(composed(&text), whole.get());
        }
    }

    #[test]
    fn no_two_pretokenisers_share_a_name() {
        let names: Vec<_> = ALL.iter().flat_map(|pre| pre.names).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn a_long_text_is_composed_in_pieces() {
        let text = "e\u{301} \u{e9}\u{327}".repeat(3000);
        let mut whole = NormalizedString::from(text.as_str());
        whole.nfc();
        assert_eq!(composed(&text), whole.get());
    }

    /// Where the reference engine gives up: it finds no word at all in this text.
    #[test]
    fn a_million_blanks_are_one_word() {
        let text = " ".repeat(1_200_000) + "x y";
        assert_eq!(SysRegex::new(QWEN2).unwrap().find_iter(&text).count(), 0);
        let words = words(&[Cutter::new(QWEN2).unwrap()], &text);
        assert_eq!(words[words.len() - 2..], [" x", " y"]);
        assert!(words.iter().all(|word| word.len() <= limits::WORD_BYTES_MAX));
        assert_eq!(words.concat(), text);
    }

    #[test]
    fn long_words_are_cut_where_blanks_begin_if_they_have_any() {
        let most = limits::WORD_BYTES_MAX;
        let lens = |text: &str| pieces(text).map(str::len).collect::<Vec<_>>();
        assert_eq!(lens(""), [0; 0]);
        assert_eq!(lens(&"a".repeat(most + 1)), [most, 1]);
        assert_eq!(lens(&("a".repeat(most - 9) + "\u{2581}\u{2581}bcdef")), [most - 9, 11]);
        assert_eq!(lens(&" ".repeat(most + 1)), [most, 1]);
        assert_eq!(lens(&"é日".repeat(most / 2))[0], most - 1);
    }
}
