//! A second, smaller model drafts.

use compute::Want;
use compute::backend::NoTap;

use super::Drafter;
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::session::{Loaded, PREFILL_CHUNK, Session, Understood};
use crate::text::Tokenizer;

/// A draft ends before a token that the model itself holds for less likely than this.
const SURE: f32 = 0.4;

/// A model that drafts for another one, with a cache of its own.
pub struct DraftModel<'m> {
    session: Session<'m>,
}

impl<'m> DraftModel<'m> {
    /// Drafts for `main`, whose tokens have to be its own: a draft is token ids.
    pub fn new(draft: &'m mut Loaded, main: &Understood) -> Result<DraftModel<'m>> {
        agree(&main.tokenizer, &draft.tokenizer).map_err(|e| e.at(Place::Flag("--draft".into())))?;
        Ok(DraftModel { session: Session::new(draft) })
    }

    /// Runs what is new of the text; the output is that of its last token.
    fn read(&mut self, text: &[u32]) -> Result<()> {
        let same = self.session.tokens().iter().zip(text).take_while(|(a, b)| a == b).count();
        let known = same.min(text.len() - 1);
        self.session.truncate(known);
        text[known..].chunks(PREFILL_CHUNK).try_for_each(|part| self.feed(part))
    }

    fn feed(&mut self, ids: &[u32]) -> Result<()> {
        self.session.feed(ids, Want::Nothing, Want::Argmax, &mut NoTap).map_err(|e| e.at(Place::Flag("--draft".into())))
    }
}

impl Drafter for DraftModel<'_> {
    /// A text that has outgrown its context is nothing that it can read.
    fn knows(&mut self, text: &[u32]) -> bool {
        !text.is_empty() && text.len() < self.session.context()
    }

    fn draft(&mut self, text: &[u32], most: usize) -> Result<Vec<u32>> {
        if !self.knows(text) {
            return Ok(Vec::new());
        }
        self.read(text)?;
        let most = most.min(self.session.context() - text.len());
        let mut draft = Vec::with_capacity(most);
        while draft.len() < most {
            let Some(row) = self.session.output().rows.last() else { break };
            let (id, likely) = (row.argmax, (row.max - row.log_sum_exp).exp());
            let known = self.session.known();
            // It has been asked, which costs a step, so it says something.
            let unsure = !draft.is_empty() && likely < SURE;
            if unsure || known.filler.binary_search(&id).is_ok() {
                break;
            }
            draft.push(id);
            if known.tokenizer.is_end(id) {
                break;
            }
            if draft.len() < most {
                self.feed(&[id])?;
            }
        }
        Ok(draft)
    }
}

/// Whether every id means the same to both. What stands for nothing may be there or not: models of one family are padded
/// differently.
fn agree(main: &Tokenizer, draft: &Tokenizer) -> Result<()> {
    let count = main.vocab_size().max(draft.vocab_size()) as u32;
    let name = |t: &Tokenizer, id| t.token_text(id).filter(|_| !t.is_filler(id)).map_or("nothing".into(), quoted);
    let Some(id) = (0..count).find(|&id| name(main, id) != name(draft, id)) else { return Ok(()) };
    let (mine, its) = (name(main, id), name(draft, id));
    Err(Error::new(
        Kind::Usage,
        format!("another vocabulary: token {id} is {mine} to the model and {its} to the drafting one"),
    )
    .hint("drafts have to come from the same family, as from Qwen2.5 0.5B for Qwen2.5 7B"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::small;

    #[test]
    fn vocabularies_agree_but_for_their_filler() {
        let of = |extra: &[(&str, u64)]| Tokenizer::from_metadata(&small(extra)).unwrap();
        let (control, normal, filler) = (3, 1, 5);
        let main = of(&[("<|end|>", control), ("hello", normal)]);
        let padded = of(&[("<|end|>", control), ("hello", normal), ("[PAD258]", filler)]);
        agree(&main, &main).unwrap();
        agree(&main, &padded).unwrap();
        agree(&padded, &main).unwrap();
        let other = [of(&[("<|end|>", control)]), of(&[("hello", normal), ("<|end|>", control)])];
        for other in other {
            let e = agree(&main, &other).unwrap_err();
            assert_eq!(e.kind, Kind::Usage);
            assert!(e.what.contains("token 25"), "{e}");
            assert!(agree(&other, &main).is_err());
        }
    }
}
