//! Programs of two or three steps that a check writes itself, to look at one operation alone.
//!
//! They pass through the subject like the programs of whole models do, so that rewrites and evil backends reach them.
//! What an operation should give is no affair of this file.

use std::collections::HashMap;

use compute::backend::{RowOutput, Tap};
use compute::cpu::isa::Isa;
use compute::program::{KV_BLOCK, Op, Program, Tag, WeightId, WeightRef};
use compute::{Batch, BufferId, Format, Interest, Output, Row, Runner, Want};

use crate::lab::{Setup, on_backend};
use crate::subject::Subject;
use crate::verdict::{Halt, Refutation, instrument};

/// What a program gave: outputs, and what each operation wrote.
pub struct Ran {
    /// Backend, instruction set, threads.
    pub how: String,
    /// One for each token.
    pub outputs: Vec<RowOutput>,
    seen: HashMap<Tag, Vec<f32>>,
}

impl Tap for Ran {
    fn observe(&mut self, _: usize, tag: Tag, _: usize, values: &[f32]) {
        self.seen.insert(tag, values.to_vec());
    }
}

impl Ran {
    /// What the operation with this tag wrote, row after row.
    pub fn of(&self, tag: Tag) -> Result<&[f32], Halt> {
        let seen = self.seen.get(&tag).map(Vec::as_slice);
        seen.ok_or_else(|| instrument(format!("no operation {tag:?} was seen on {}", self.how)))
    }
}

/// The oracle backend, and every instruction set that this processor has.
pub fn ways() -> Vec<Setup> {
    let plain = Setup { oracle: true, threads: 1, ..Setup::default() };
    let level = |isa: Isa| Setup { isa: Some(isa.name()), threads: 1, ..Setup::default() };
    std::iter::once(plain).chain(Isa::available().into_iter().map(level)).collect()
}

/// Adds an F32 matrix to a program.
pub fn matrix(p: &mut Program, rows: usize, values: &[f32]) -> WeightId {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    stored(p, Format::F32, rows, bytes)
}

/// Adds a matrix as it is stored.
pub fn stored(p: &mut Program, format: Format, rows: usize, bytes: Vec<u8>) -> WeightId {
    let cols = bytes.len() / rows / format.0.block_bytes * format.0.block_len;
    p.weight(WeightRef { name: "made by the check".into(), bytes: bytes.into(), format, rows, cols })
}

/// Prepares a program as the subject would run it.
pub fn runner(s: &Subject, program: &Program, setup: Setup, interest: &Interest) -> Result<Box<dyn Runner>, Halt> {
    computing(on_backend(s, setup, |backend| backend.prepare(&s.rewritten(program.clone()), interest))?)
}

/// The value of a call to a backend that a sound one does without an error.
pub fn computing<T>(result: compute::Result<T>) -> Result<T, Halt> {
    result.map_err(|e| Refutation::new("the program runs", e.to_string(), "no error").into())
}

/// Runs these tokens as one sequence in one batch.
pub fn run(s: &Subject, program: &Program, setup: Setup, tokens: &[u32]) -> Result<Ran, Halt> {
    let mut runner = runner(s, program, setup, &Interest::Everything)?;
    let mut ran = Ran { how: runner.describe(), outputs: Vec::new(), seen: HashMap::new() };
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(KV_BLOCK) as u32).collect();
    computing(runner.reserve_blocks(blocks.len()))?;
    let row = |(i, &token): (usize, &u32)| Row { sequence: 0, position: i as u32, token, want: Want::Logits };
    let rows: Vec<Row> = tokens.iter().enumerate().map(row).collect();
    let mut out = Output::default();
    computing(runner.step(&Batch { rows: &rows, tables: &[&blocks] }, &mut out, &mut ran))?;
    ran.outputs = out.rows;
    Ok(ran)
}

/// Looks tokens up in a table, and hands the buffer on.
pub fn looked_up(table: impl FnOnce(&mut Program) -> WeightId, vocab: usize) -> (Program, BufferId) {
    let mut p = Program { vocab, ..Program::default() };
    let table = table(&mut p);
    let dst = p.buffer(p.w(table).cols);
    p.push(LOOKED_UP, Op::Embed { table, dst, scale: 1.0 });
    (p, dst)
}

/// A program ends with logits; here nobody looks at them.
pub fn ended(mut p: Program, src: BufferId) -> Program {
    let zeros = vec![0.0; p.width(src)];
    let weight = matrix(&mut p, 1, &zeros);
    p.push(Tag(9), Op::Logits { src, weight, scale: 1.0 });
    p
}

/// The first operation of [`looked_up`].
pub const LOOKED_UP: Tag = Tag(1);
/// For the operation that a check is about.
pub const COMPUTED: Tag = Tag(2);
