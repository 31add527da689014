//! What an answer may be: a grammar of bytes, and which tokens may come next.
//!
//! A grammar is a list of rules, each a list of alternatives, each a sequence of byte sets and rules. Where an answer
//! stands in it is a set of stacks, of which the top of each waits for a byte. The stacks that a byte leads to are
//! worked out once and remembered by number, so that after a while a step is one look into a table: the automaton grows
//! where answers go and nowhere else.
//!
//! A token may come next if its bytes can be read one after the other. Tokens are looked at in the order of their bytes,
//! so those that begin alike share the work, and what was found for a place is kept. An end-of-sequence token may come
//! where the grammar may end. Where nothing else may follow, the answer is complete without one.

pub mod json;
pub mod schema;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::text::Tokenizer;

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bytes([u64; 4]);

impl Bytes {
    /// Those from one to another.
    pub fn range(first: u8, last: u8) -> Bytes {
        (first..=last).fold(Bytes::default(), |set, b| set.with(b))
    }

    /// And this one.
    #[must_use]
    pub fn with(mut self, b: u8) -> Bytes {
        self.0[usize::from(b >> 6)] |= 1 << (b & 63);
        self
    }

    /// Those in either.
    #[must_use]
    pub fn or(self, other: Bytes) -> Bytes {
        Bytes(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// Without this one.
    #[must_use]
    pub fn without(mut self, b: u8) -> Bytes {
        self.0[usize::from(b >> 6)] &= !(1 << (b & 63));
        self
    }

    fn has(&self, b: u8) -> bool {
        self.0[usize::from(b >> 6)] >> (b & 63) & 1 == 1
    }
}

/// A part of a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element {
    /// One byte of these.
    Byte(Bytes),
    /// What a rule says.
    Rule(usize),
    /// The end of the sequence.
    End,
}

/// Rules while they are written. Sequences lie one after the other; a place in them is a number.
#[derive(Debug, Default)]
pub struct Rules {
    elements: Vec<Element>,
    /// For each rule, where its alternatives begin, and whether values are nested by it.
    rules: Vec<(Vec<u32>, bool)>,
}

impl Rules {
    /// A rule without alternatives yet.
    pub fn rule(&mut self) -> usize {
        self.rules.push((Vec::new(), false));
        self.rules.len() - 1
    }

    /// Marks a rule that may be entered only so deep in others.
    pub fn nests(&mut self, rule: usize) {
        self.rules[rule].1 = true;
    }

    /// Adds an alternative.
    pub fn or(&mut self, rule: usize, sequence: &[Element]) {
        self.rules[rule].0.push(self.elements.len() as u32);
        self.elements.extend_from_slice(sequence);
        self.elements.push(Element::End);
    }

    /// A rule of these alternatives.
    pub fn of(&mut self, alternatives: &[&[Element]]) -> usize {
        let rule = self.rule();
        alternatives.iter().for_each(|sequence| self.or(rule, sequence));
        rule
    }

    /// How much was written.
    pub fn size(&self) -> usize {
        self.elements.len()
    }
}

/// These bytes, one after the other.
pub fn literal(text: &str) -> Vec<Element> {
    text.bytes().map(|b| Element::Byte(Bytes::range(b, b))).collect()
}

/// Where an answer may stand: stacks of places, the top last. An empty stack is the end.
type Stacks = BTreeSet<Vec<u32>>;

/// A state by its number: a row of [`Automaton::next`].
type State = u32;

/// Nothing may follow.
const DEAD: State = 0;
/// Not worked out yet.
const UNKNOWN: State = u32::MAX;

/// What an answer has to be, for all answers that have to be it.
pub struct Grammar {
    rules: Rules,
    start: Stacks,
    grown: Mutex<Automaton>,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("elements", &self.rules.size()).finish_non_exhaustive()
    }
}

/// What was worked out so far.
#[derive(Default)]
struct Automaton {
    states: Vec<Stacks>,
    numbers: HashMap<Stacks, State>,
    next: Vec<[State; 256]>,
    masks: HashMap<State, Arc<Vec<u64>>>,
}

impl Grammar {
    /// From rules and the one that an answer has to follow.
    pub fn new(rules: Rules, root: usize) -> Grammar {
        let mut start = Stacks::new();
        rules.rules[root].0.iter().for_each(|&at| rules.settle(vec![at], &mut start));
        Grammar { rules, start, grown: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Automaton> {
        // What is worked out is whole after every statement.
        self.grown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a vocabulary that cannot spell what may have to be written.
    pub fn check(&self, vocabulary: &Vocabulary) -> Result<()> {
        let spelled = |e: &Element| match e {
            Element::Byte(set) => (0..=255).any(|b| set.has(b) && vocabulary.single.has(b)),
            Element::Rule(_) | Element::End => true,
        };
        match self.rules.elements.iter().all(spelled) {
            true => Ok(()),
            false => {
                Err(Error::new(Kind::Unsupported, "the model's vocabulary cannot spell what the grammar asks for"))
            }
        }
    }
}

impl Rules {
    /// Opens rules until every stack waits for a byte or is at its end.
    fn settle(&self, mut stack: Vec<u32>, into: &mut Stacks) {
        while let Some(&top) = stack.last() {
            match self.elements[top as usize] {
                Element::Byte(_) => break,
                Element::End => {
                    stack.pop();
                }
                Element::Rule(rule) => {
                    let (alternatives, nests) = &self.rules[rule];
                    stack.pop();
                    // Nothing is behind the last element: loops need no more room than one turn.
                    if self.elements[top as usize + 1] != Element::End {
                        stack.push(top + 1);
                    }
                    if *nests && stack.len() > limits::GRAMMAR_STACK_MAX {
                        return;
                    }
                    for &at in alternatives {
                        let mut stack = stack.clone();
                        stack.push(at);
                        self.settle(stack, into);
                    }
                    return;
                }
            }
        }
        into.insert(stack);
    }

    /// What a byte leads to.
    fn read(&self, stacks: &Stacks, byte: u8) -> Stacks {
        let mut next = Stacks::new();
        for stack in stacks {
            let Some(&top) = stack.last() else { continue };
            if let Element::Byte(set) = self.elements[top as usize]
                && set.has(byte)
            {
                let mut stack = stack.clone();
                *stack.last_mut().expect("invariant: it has a top") += 1;
                self.settle(stack, &mut next);
            }
        }
        next
    }
}

impl Automaton {
    fn number(&mut self, stacks: Stacks) -> State {
        if self.states.is_empty() {
            self.states.push(Stacks::new());
            self.numbers.insert(Stacks::new(), DEAD);
            self.next.push([DEAD; 256]);
        }
        if let Some(&state) = self.numbers.get(&stacks) {
            return state;
        }
        let state = self.states.len() as State;
        self.states.push(stacks.clone());
        self.numbers.insert(stacks, state);
        self.next.push([UNKNOWN; 256]);
        state
    }

    fn step(&mut self, rules: &Rules, from: State, byte: u8) -> State {
        let known = self.next[from as usize][usize::from(byte)];
        if known != UNKNOWN {
            return known;
        }
        let stacks = rules.read(&self.states[from as usize], byte);
        let state = self.number(stacks);
        self.next[from as usize][usize::from(byte)] = state;
        state
    }

    /// Tokens that may come next, a bit each.
    fn mask(&mut self, rules: &Rules, from: State, vocabulary: &Vocabulary) -> Arc<Vec<u64>> {
        if let Some(mask) = self.masks.get(&from) {
            return mask.clone();
        }
        let mut mask = vec![0u64; vocabulary.tokens.div_ceil(64)];
        // States after each byte of the last token; those of the bytes that the next one shares stand.
        let mut path: Vec<State> = vec![from];
        for (id, shared, bytes) in &vocabulary.sorted {
            path.truncate(*shared as usize + 1);
            if path.len() <= *shared as usize {
                // It begins as one that could not be read so far.
                continue;
            }
            for &b in &bytes[*shared as usize..] {
                let state = self.step(rules, path[path.len() - 1], b);
                if state == DEAD {
                    break;
                }
                path.push(state);
            }
            if path.len() == bytes.len() + 1 {
                mask[*id as usize / 64] |= 1 << (id % 64);
            }
        }
        let mask = Arc::new(mask);
        if self.masks.len() < limits::GRAMMAR_MASKS_MAX {
            self.masks.insert(from, mask.clone());
        }
        mask
    }
}

/// The tokens of a vocabulary in the order of their bytes. Made once for a model.
#[derive(Debug)]
pub struct Vocabulary {
    tokens: usize,
    /// Id, bytes at the beginning that it shares with the one before, and its bytes.
    sorted: Vec<(u32, u32, Box<[u8]>)>,
    /// Bytes that are a token.
    single: Bytes,
}

impl Vocabulary {
    /// Of the tokens that are text: those that end or lay out an answer are none.
    pub fn new(tokenizer: &Tokenizer) -> Vocabulary {
        let tokens = tokenizer.vocab_size();
        let text = |id: &u32| !tokenizer.is_end(*id) && !tokenizer.is_control(*id) && !tokenizer.is_filler(*id);
        let bytes = |id: u32| tokenizer.token_bytes(id).map(|b| (id, 0, Box::from(b)));
        let mut sorted: Vec<(u32, u32, Box<[u8]>)> = (0..tokens as u32).filter(text).filter_map(bytes).collect();
        sorted.retain(|(_, _, b)| !b.is_empty());
        sorted.sort_by(|a, b| a.2.cmp(&b.2));
        let mut single = Bytes::default();
        for i in 0..sorted.len() {
            if i > 0 {
                sorted[i].1 = sorted[i - 1].2.iter().zip(&sorted[i].2).take_while(|(a, b)| a == b).count() as u32;
            }
            if let [b] = *sorted[i].2 {
                single = single.with(b);
            }
        }
        Vocabulary { tokens, sorted, single }
    }
}

/// One answer's way through a grammar.
#[derive(Clone, Debug)]
pub struct Course {
    grammar: Arc<Grammar>,
    vocabulary: Arc<Vocabulary>,
    at: Stacks,
}

impl Course {
    /// At the beginning.
    pub fn new(grammar: Arc<Grammar>, vocabulary: Arc<Vocabulary>) -> Result<Course> {
        grammar.check(&vocabulary)?;
        let at = grammar.start.clone();
        Ok(Course { grammar, vocabulary, at })
    }

    /// The automaton, and the number of the place where the answer stands. What was worked out is forgotten when it
    /// gets large.
    fn place(&self) -> (MutexGuard<'_, Automaton>, State) {
        let mut grown = self.grammar.lock();
        if grown.states.len() > limits::GRAMMAR_STATES_MAX {
            *grown = Automaton::default();
        }
        let state = grown.number(self.at.clone());
        (grown, state)
    }

    /// Whether the answer may end here.
    pub fn may_end(&self) -> bool {
        self.at.contains(&Vec::new())
    }

    /// Whether nothing may follow.
    pub fn is_over(&self) -> bool {
        self.at.iter().all(Vec::is_empty)
    }

    /// Whether a token may come next.
    pub fn allows(&self, id: u32, tokenizer: &Tokenizer) -> bool {
        if tokenizer.is_end(id) {
            return self.may_end();
        }
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let (mut grown, mut state) = self.place();
        for &b in bytes {
            state = grown.step(&self.grammar.rules, state, b);
        }
        !bytes.is_empty() && !tokenizer.is_control(id) && state != DEAD
    }

    /// Takes every token that may not come next out of the choice.
    pub fn mask(&self, logits: &mut [f32], tokenizer: &Tokenizer) {
        let (mut grown, state) = self.place();
        let mask = grown.mask(&self.grammar.rules, state, &self.vocabulary);
        drop(grown);
        let may_end = self.may_end();
        for (id, x) in logits.iter_mut().enumerate() {
            let text = mask.get(id / 64).is_some_and(|word| word >> (id % 64) & 1 == 1);
            let end = may_end && tokenizer.is_end(id as u32);
            if !text && !end {
                *x = f32::NEG_INFINITY;
            }
        }
    }

    /// A token that may come next came.
    pub fn take(&mut self, bytes: &[u8]) {
        let (mut grown, mut state) = self.place();
        for &b in bytes {
            state = grown.step(&self.grammar.rules, state, b);
        }
        let at = grown.states[state as usize].clone();
        drop(grown);
        self.at = at;
    }
}
