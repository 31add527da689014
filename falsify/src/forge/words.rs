//! Tokenizers for forged models: byte-level BPE as GPT-2 began it, small enough to read or as large as a real
//! one, and a small SentencePiece.

/// What a model file says about its tokenizer.
#[derive(Clone, Debug)]
pub struct Words {
    /// The pre-tokenizer's name in GGUF: `qwen2` or `llama-bpe`.
    pub pre: &'static str,
    /// Token texts in the byte alphabet; index = id.
    pub tokens: Vec<String>,
    /// llama.cpp's token types: [`NORMAL`], [`CONTROL`], [`UNUSED`].
    pub types: Vec<i32>,
    /// What joins tokens.
    pub joins: Joins,
    /// Begins a text where `add_bos` says so.
    pub bos: u32,
    /// Ends a turn.
    pub eos: u32,
    /// Fills batches.
    pub pad: u32,
    /// Whether a prompt begins with `bos`.
    pub add_bos: bool,
    /// The chat template (Jinja).
    pub template: &'static str,
}

/// What makes long tokens of short ones, which is what the tokenizer models of GGUF differ in.
#[derive(Clone, Debug)]
pub enum Joins {
    /// Byte-level BPE: `left right`, best first.
    Merges(Vec<String>),
    /// SentencePiece: a score for each token.
    Scores(Vec<f32>),
}

/// Ordinary text.
pub const NORMAL: i32 = 1;
/// A marker that never comes from a user's text.
pub const CONTROL: i32 = 3;
/// Stands for what the vocabulary cannot spell.
pub const UNKNOWN: i32 = 2;
/// One byte, spelled `<0x0A>`.
pub const BYTE: i32 = 6;
/// A row of the embedding table that stands for nothing.
pub const UNUSED: i32 = 5;

/// ChatML, as Qwen2 models have it.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The template of Llama 3.
pub const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}\
{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + \
message['content'] | trim + '<|eot_id|>' %}\
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

/// The template of Zephyr and TinyLlama, whose roles are text.
pub const ZEPHYR: &str = "{% for message in messages %}\
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

/// Merges of the small vocabulary: with 256 bytes and three markers it has 320 tokens.
const MERGES: [&str; 61] = [
    "Ġ t", "Ġ a", "h e", "i n", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "Ġ w", "Ġ o", "e n", "Ġ c", "i t", "i s",
    "a n", "o r", "e s", "Ġ b", "e d", "Ġ f", "in g", "Ġ p", "o u", "Ġa n", "a l", "a r", "Ġt o", "Ġ m", "Ġo f",
    "Ġ in", "Ġ d", "Ġ h", "Ġan d", "i c", "a s", "l e", "Ġt h", "i on", "o m", "l l", "en t", "Ġ n", "Ġ l", "s t",
    "Ġ re", "v e", "Ġ e", "r o", "l y", "Ġb e", "Ġ g", "Ċ Ċ", "u s", "us er", "s y", "Ġ Ġ", "as s", "it h", "Ġw ith",
];

/// The printable stand-in for each byte, so that any bytes are text (GPT-2's `bytes_to_unicode`).
pub fn byte_alphabet() -> [char; 256] {
    let mut spare = (256u32..).filter_map(char::from_u32);
    std::array::from_fn(|b| match b as u8 {
        b @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(b),
        _ => spare.next().unwrap_or_default(),
    })
}

/// The bytes in the order in which GPT-2 and its descendants number them: those that stand for themselves
/// first.
fn bytes_in_order() -> Vec<String> {
    let mut alphabet = byte_alphabet();
    alphabet.sort_unstable();
    alphabet.iter().map(char::to_string).collect()
}

impl Words {
    fn new(merges: Vec<String>) -> Words {
        let mut tokens = bytes_in_order();
        tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
        let types = vec![NORMAL; tokens.len()];
        let joins = Joins::Merges(merges);
        Words { pre: "qwen2", tokens, types, joins, bos: 0, eos: 0, pad: 0, add_bos: false, template: CHATML }
    }

    /// The merges; SentencePiece has none.
    pub fn merges(&self) -> &[String] {
        match &self.joins {
            Joins::Merges(merges) => merges,
            Joins::Scores(_) => &[],
        }
    }

    fn push(&mut self, token: &str, kind: i32) -> u32 {
        self.tokens.push(token.into());
        self.types.push(kind);
        if let Joins::Scores(scores) = &mut self.joins {
            scores.push(0.0);
        }
        (self.tokens.len() - 1) as u32
    }

    fn with_chatml(mut self) -> Words {
        self.pad = self.push("<|endoftext|>", CONTROL);
        self.bos = self.pad;
        self.push("<|im_start|>", CONTROL);
        self.eos = self.push("<|im_end|>", CONTROL);
        self
    }

    /// 320 tokens, Qwen2's pre-tokenizer and markers.
    pub fn small() -> Words {
        Words::new(MERGES.iter().map(|m| m.to_string()).collect()).with_chatml()
    }

    /// The same tokens for a Llama: its pre-tokenizer, and prompts begin with `<|endoftext|>`.
    pub fn small_llama() -> Words {
        Words { pre: "llama-bpe", add_bos: true, ..Words::small() }
    }

    /// The small vocabulary with the markers and the template of Llama 3.
    pub fn small_llama3() -> Words {
        let mut words = Words::new(MERGES.iter().map(|m| m.to_string()).collect());
        words.bos = words.push("<|begin_of_text|>", CONTROL);
        words.pad = words.push("<|end_of_text|>", CONTROL);
        words.push("<|start_header_id|>", CONTROL);
        words.push("<|end_header_id|>", CONTROL);
        words.eos = words.push("<|eot_id|>", CONTROL);
        Words { pre: "llama-bpe", add_bos: true, template: LLAMA3, ..words }
    }

    /// SentencePiece as Llama 2 has it, with 414 tokens: three of structure, the bytes, the printable characters of
    /// ASCII, and what the merges of the small vocabulary make of them. U+2581 is a space.
    pub fn small_pieces() -> Words {
        let structure = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
        let mut tokens: Vec<(String, i32, f32)> = structure.map(|(name, kind)| (name.into(), kind, 0.0)).into();
        tokens.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), BYTE, 0.0)));
        let joined = MERGES.iter().filter(|merge| !merge.contains('Ċ'));
        let long = joined.map(|merge| merge.replace(' ', "").replace('Ġ', "\u{2581}"));
        let pieces = long.chain(std::iter::once("\u{2581}".into())).chain(('!'..='~').map(String::from));
        // The best first.
        tokens.extend(pieces.zip(0..).map(|(piece, rank)| (piece, NORMAL, -(rank as f32))));
        let scores = tokens.iter().map(|t| t.2).collect();
        Words {
            pre: "default",
            types: tokens.iter().map(|t| t.1).collect(),
            tokens: tokens.into_iter().map(|t| t.0).collect(),
            joins: Joins::Scores(scores),
            bos: 1,
            eos: 2,
            pad: 0,
            add_bos: true,
            template: ZEPHYR,
        }
    }

    /// As many tokens and merges as Qwen2.5 has, 151646 without padding, made up: all pairs of bytes until
    /// there are 60000 tokens, then pairs of pairs of letters.
    pub fn large() -> Words {
        const PAIRS: usize = 60_000 - 256;
        const MARKERS_AT: usize = 151_643;
        let bytes = bytes_in_order();
        let pairs = || bytes.iter().flat_map(|x| bytes.iter().map(move |y| (x, y))).take(PAIRS);
        let mut merges: Vec<String> = pairs().map(|(x, y)| format!("{x} {y}")).collect();

        let letter = |s: &String| s.bytes().all(|b| b.is_ascii_alphabetic());
        let words: Vec<String> =
            pairs().filter(|(x, y)| letter(x) && letter(y)).map(|(x, y)| format!("{x}{y}")).collect();
        let fours = words.iter().flat_map(|p| words.iter().map(move |q| format!("{p} {q}")));
        merges.extend(fours.take(MARKERS_AT - 256 - PAIRS));
        Words::new(merges).with_chatml()
    }

    /// Padded with unused tokens, as converters pad a vocabulary to the rows of its embedding table.
    pub fn padded_to(mut self, rows: usize) -> Words {
        while self.tokens.len() < rows {
            self.push(&format!("[PAD{}]", self.tokens.len()), UNUSED);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every merge joins two tokens into a third, and no two tokens are equal.
    fn is_sound(words: &Words) {
        let known: BTreeSet<&str> = words.tokens.iter().map(String::as_str).collect();
        assert_eq!(known.len(), words.tokens.len());
        assert_eq!(words.types.len(), words.tokens.len());
        let merges = match &words.joins {
            Joins::Merges(merges) => &merges[..],
            Joins::Scores(scores) => {
                assert_eq!(scores.len(), words.tokens.len());
                &[]
            }
        };
        for merge in merges {
            let (left, right) = merge.split_once(' ').unwrap();
            let joined = format!("{left}{right}");
            assert!([left, right, &joined].iter().all(|t| known.contains(t)), "{merge}");
        }
    }

    #[test]
    fn vocabularies_are_sound_and_of_the_sizes_they_say() {
        let small = [Words::small(), Words::small_llama(), Words::small_llama3(), Words::small_pieces()];
        for words in small.into_iter().chain([Words::large()]) {
            is_sound(&words);
        }
        assert_eq!(Words::small_pieces().tokens.len(), 414);
        assert_eq!(Words::small().tokens.len(), 320);
        assert_eq!(Words::large().tokens.len(), 151_646);
        let padded = Words::small().padded_to(352);
        assert_eq!((padded.tokens.len(), padded.types[351]), (352, UNUSED));
    }

    #[test]
    fn markers_have_the_ids_of_qwen2_in_the_large_vocabulary() {
        let words = Words::large();
        assert_eq!((words.pad, words.eos), (151_643, 151_645));
    }

    #[test]
    fn the_byte_alphabet_is_that_of_gpt2() {
        let alphabet = byte_alphabet();
        assert_eq!((alphabet[b' ' as usize], alphabet[b'\n' as usize], alphabet[b'a' as usize]), ('Ġ', 'Ċ', 'a'));
        assert_eq!(alphabet.iter().collect::<BTreeSet<_>>().len(), 256);
        assert_eq!(bytes_in_order()[0], "!");
    }
}
