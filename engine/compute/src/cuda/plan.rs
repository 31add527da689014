//! The plan of a program on the GPU: which kernels run, in order. Fusion is a peephole over neighbours, as on the CPU:
//! any valid program runs, and what a tap wants to see is not fused over.

use crate::backend::Interest;
use crate::program::{BufferId, NormKind, Op, Program, RopeLayout, RopeTable, Tag, WeightId};

/// One or two kernels, and who looks at what they wrote.
pub(super) struct Node {
    pub work: Work,
    /// What a tap is shown afterwards.
    pub taps: Vec<Tapped>,
}

/// An operation that a tap wants to see.
pub(super) struct Tapped {
    pub index: usize,
    pub tag: Tag,
    pub buffer: usize,
}

/// One matrix of a [`Work::Product`].
pub(super) struct Part {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub dst: usize,
}

/// An elementwise operation; the numbers are those of `rows.cu`.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Elementwise {
    Copy = 0,
    Add = 1,
    Silu = 2,
    Gelu = 3,
    Scale = 4,
}

/// A rotation of one buffer: index of the rope table, pairing.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    pub buf: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub table: usize,
    pub layout: RopeLayout,
}

/// What is to be done. Buffers by index; `quantise`: the result is also written as a product reads it.
pub(super) enum Work {
    Embed {
        table: WeightId,
        dst: usize,
        scale: f32,
    },
    Norm {
        add: Option<usize>,
        src: usize,
        dst: usize,
        weight: Option<WeightId>,
        bias: Option<WeightId>,
        layer: bool,
        eps: f32,
        over: usize,
        quantise: bool,
    },
    Map {
        op: Elementwise,
        src: usize,
        other: usize,
        /// None: only the quantised form is wanted.
        dst: Option<usize>,
        quantise: bool,
    },
    Rope(Turn),
    /// The rotations of q and k where they stand right before, the cache append, and attention.
    Attend {
        op: Op,
        q: Option<Turn>,
        k: Option<Turn>,
        /// Index into the sets of visible ranges.
        visible: usize,
        quantise: bool,
    },
    /// Up to four matrices that share their input, all packed or all float.
    Product {
        src: usize,
        packed: bool,
        parts: Vec<Part>,
    },
    Logits {
        src: usize,
        weight: WeightId,
        scale: f32,
    },
}

/// Matrices in one launch.
const PARTS_MAX: usize = 4;
/// Quantised together.
const STEP: usize = 32;

/// A program's kernels.
pub(super) struct Plan {
    pub nodes: Vec<Node>,
    /// Every rope table of the program.
    pub ropes: Vec<RopeTable>,
    /// One attention operation for each way of seeing: window and causality.
    pub visible: Vec<Op>,
}

/// Whether the weight is repacked and multiplied by quantised activations.
pub(super) fn is_packed(program: &Program, w: WeightId) -> bool {
    program.w(w).format.0.kernels.packing.is_some()
}

impl Plan {
    pub fn new(program: &Program, interest: &Interest) -> Plan {
        let mut plan = Plan { nodes: Vec::new(), ropes: Vec::new(), visible: Vec::new() };
        for (index, step) in program.steps.iter().enumerate() {
            plan.push(program, &step.op);
            if interest.covers(step.tag)
                && let Some(buffer) = program.output_of(&step.op)
                && let Some(last) = plan.nodes.last_mut()
            {
                last.taps.push(Tapped { index, tag: step.tag, buffer: buffer.0 as usize });
            }
        }
        plan
    }

    fn push(&mut self, program: &Program, op: &Op) {
        let id = |b: &BufferId| b.0 as usize;
        let work = match op {
            Op::Embed { table, dst, scale } => Work::Embed { table: *table, dst: id(dst), scale: *scale },
            Op::Norm { kind, src, dst, weight, bias, eps, per_head, .. } => {
                let (src, width) = (id(src), program.width(*src));
                let over = per_head.unwrap_or(width);
                // A residual right before is added on the way in.
                let add = match self.untapped() {
                    Some(Work::Map { op: Elementwise::Add, src: delta, dst: Some(dst), quantise: false, .. })
                        if *dst == src && *delta != src && over == width =>
                    {
                        let delta = *delta;
                        self.nodes.pop();
                        Some(delta)
                    }
                    _ => None,
                };
                let layer = *kind == NormKind::Layer;
                let (weight, bias, eps) = (*weight, *bias, *eps);
                Work::Norm { add, src, dst: id(dst), weight, bias, layer, eps, over, quantise: false }
            }
            Op::MatMul { src, weight, bias, dst } => {
                let part = Part { weight: *weight, bias: *bias, dst: id(dst) };
                return self.product(program, id(src), program.width(*src), part);
            }
            Op::Rope { buf, heads, head_dim, layout, table } => {
                let at = self.ropes.iter().position(|t| t == table).unwrap_or(self.ropes.len());
                if at == self.ropes.len() {
                    self.ropes.push(table.clone());
                }
                Work::Rope(Turn { buf: id(buf), heads: *heads, head_dim: *head_dim, table: at, layout: *layout })
            }
            Op::Attend { q, k, v, window, causal, .. } => {
                let same = |o: &Op| matches!(o, Op::Attend { window: w, causal: c, .. } if w == window && c == causal);
                let visible = self.visible.iter().position(same).unwrap_or(self.visible.len());
                if visible == self.visible.len() {
                    self.visible.push(op.clone());
                }
                let apart = q != k && k != v && q != v;
                let mut turns = [None, None];
                while apart && turns.iter().any(Option::is_none) {
                    match self.untapped() {
                        Some(Work::Rope(t)) if t.buf == id(q) && turns[0].is_none() => turns[0] = Some(*t),
                        Some(Work::Rope(t)) if t.buf == id(k) && turns[1].is_none() => turns[1] = Some(*t),
                        _ => break,
                    }
                    self.nodes.pop();
                }
                Work::Attend { op: op.clone(), q: turns[0], k: turns[1], visible, quantise: false }
            }
            Op::Gate { gate, up, dst, act } => {
                let op = match act {
                    crate::program::Act::Silu => Elementwise::Silu,
                    crate::program::Act::GeluTanh => Elementwise::Gelu,
                };
                Work::Map { op, src: id(gate), other: id(up), dst: Some(id(dst)), quantise: false }
            }
            Op::Add { src, dst } => {
                Work::Map { op: Elementwise::Add, src: id(src), other: id(src), dst: Some(id(dst)), quantise: false }
            }
            Op::Logits { src, weight, scale } => Work::Logits { src: id(src), weight: *weight, scale: *scale },
        };
        self.nodes.push(Node { work, taps: Vec::new() });
    }

    /// The last node, if nobody wants to look in between.
    fn untapped(&self) -> Option<&Work> {
        self.nodes.last().filter(|n| n.taps.is_empty()).map(|n| &n.work)
    }

    fn product(&mut self, program: &Program, src: usize, width: usize, part: Part) {
        let is_float = !is_packed(program, part.weight);
        if let Some(Node { work: Work::Product { src: s, packed, parts }, taps }) = self.nodes.last_mut()
            && *s == src
            && *packed != is_float
            && taps.is_empty()
            && parts.len() < PARTS_MAX
            // A part must not overwrite the input of its neighbours, nor their output.
            && parts.iter().all(|q| q.dst != src && q.dst != part.dst)
        {
            parts.push(part);
            return;
        }
        if !is_float && !self.quantise_on_the_way(src, width) {
            let work = Work::Map { op: Elementwise::Copy, src, other: src, dst: None, quantise: true };
            self.nodes.push(Node { work, taps: Vec::new() });
        }
        let work = Work::Product { src, packed: !is_float, parts: vec![part] };
        self.nodes.push(Node { work, taps: Vec::new() });
    }

    /// Has whoever wrote buffer `src` last quantise it too, if that is the node right before and it can.
    fn quantise_on_the_way(&mut self, src: usize, width: usize) -> bool {
        match self.nodes.last_mut().map(|n| &mut n.work) {
            Some(Work::Norm { dst, over, quantise, .. }) if *dst == src && over.is_multiple_of(STEP) => {
                *quantise = true
            }
            Some(Work::Map { dst: Some(dst), quantise, .. }) if *dst == src && width.is_multiple_of(STEP) => {
                *quantise = true;
            }
            Some(Work::Attend { op: Op::Attend { dst, heads, .. }, quantise, .. })
                if dst.0 as usize == src && (width / *heads).is_multiple_of(STEP) =>
            {
                *quantise = true;
            }
            _ => return false,
        }
        true
    }
}
