//! The plan of a program on the GPU: which kernels run, in order. Fusion is a peephole over neighbours, as on the CPU:
//! any valid program runs, and what a tap wants to see is not fused over.

use crate::backend::Interest;
use crate::program::{BufferId, NormKind, Op, Program, RopeLayout, RopeTable, Tag, WeightId};

/// One or two kernels, and who looks at what they wrote.
pub(super) struct Node {
    pub work: Work,
    /// What a tap is shown afterwards.
    pub taps: Vec<Tapped>,
    /// The product beside it does this too where there is one row.
    pub joined: bool,
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
    /// The result is also added to this buffer.
    pub add: Option<usize>,
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
        /// Nobody looks at rotated queries and keys: for one row, one kernel does it all.
        whole: bool,
    },
    /// Up to four matrices that share their input, all packed or all float.
    Product {
        src: usize,
        packed: bool,
        parts: Vec<Part>,
        /// The node before, a norm, and the node after, the activation of a gate, that are done with it.
        norm: bool,
        gate: bool,
    },
    Logits {
        src: usize,
        weight: WeightId,
        scale: f32,
    },
}

impl Node {
    fn new(work: Work) -> Node {
        Node { work, taps: Vec::new(), joined: false }
    }
}

impl Work {
    /// Buffers that it reads.
    fn reads(&self) -> Vec<usize> {
        match self {
            Work::Embed { .. } => Vec::new(),
            Work::Norm { add, src, .. } => add.iter().copied().chain([*src]).collect(),
            Work::Map { src, other, dst, .. } => dst.iter().copied().chain([*src, *other]).collect(),
            Work::Rope(turn) => vec![turn.buf],
            Work::Attend { op: Op::Attend { q, k, v, .. }, .. } => [q, k, v].map(|b| b.0 as usize).to_vec(),
            Work::Attend { .. } => Vec::new(),
            Work::Product { src, parts, .. } => parts.iter().filter_map(|p| p.add).chain([*src]).collect(),
            Work::Logits { src, .. } => vec![*src],
        }
    }

    /// Buffers that it writes.
    fn writes(&self) -> Vec<usize> {
        match self {
            Work::Embed { dst, .. } => vec![*dst],
            Work::Norm { add, src, dst, .. } => add.map(|_| *src).into_iter().chain([*dst]).collect(),
            Work::Map { dst, .. } => dst.iter().copied().collect(),
            Work::Rope(turn) => vec![turn.buf],
            Work::Attend { op: Op::Attend { q, k, dst, .. }, .. } => [q, k, dst].map(|b| b.0 as usize).to_vec(),
            Work::Attend { .. } => Vec::new(),
            Work::Product { parts, .. } => parts.iter().flat_map(|p| [Some(p.dst), p.add]).flatten().collect(),
            Work::Logits { .. } => Vec::new(),
        }
    }
}

/// Elements that a product can norm itself, and of the input of a gate: what has room in shared memory.
const NORM_JOINED_MAX: usize = 4096;
const GATE_JOINED_MAX: usize = 16384;
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
        plan.join(program);
        plan
    }

    /// Finds norms and activations that a product of one row can do itself: those whose result nobody else reads.
    fn join(&mut self, program: &Program) {
        for i in 1..self.nodes.len() {
            let (before, after) = self.nodes.split_at_mut(i);
            let (a, b) = (&mut before[i - 1], &mut after[0]);
            if !a.taps.is_empty() {
                continue;
            }
            match (&mut a.work, &mut b.work) {
                (
                    Work::Norm { add: None, src, dst, bias: None, layer: false, over, quantise: true, .. },
                    Work::Product { src: read, packed: true, norm, .. },
                ) if dst == read && src != dst && *over == program.buffers[*src] && *over <= NORM_JOINED_MAX => {
                    *norm = true;
                }
                (
                    Work::Product { packed: true, parts, gate, .. },
                    Work::Map { op: Elementwise::Silu | Elementwise::Gelu, src, other, dst: Some(_), quantise: true },
                ) if parts.len() == 2 && parts[0].dst == *src && parts[1].dst == *other => {
                    let [g, u] = [0, 1].map(|i| program.w(parts[i].weight));
                    let alike = g.format == u.format
                        && g.rows == u.rows
                        && g.rows.is_multiple_of(STEP)
                        && g.cols <= GATE_JOINED_MAX;
                    *gate = alike && parts.iter().all(|p| p.add.is_none());
                }
                _ => {}
            }
        }
        for i in 1..self.nodes.len() {
            if let Work::Product { norm: true, src, .. } = self.nodes[i].work {
                let alone = self.is_dead_after(i, src);
                if let Work::Product { norm, .. } = &mut self.nodes[i].work {
                    *norm = alone;
                }
                self.nodes[i - 1].joined = alone;
            }
            if let Work::Product { gate: true, parts, .. } = &self.nodes[i - 1].work {
                let over = self.nodes[i].work.writes();
                let alone = parts.iter().all(|p| over.contains(&p.dst) || self.is_dead_after(i, p.dst));
                if let Work::Product { gate, .. } = &mut self.nodes[i - 1].work {
                    *gate = alone;
                }
                self.nodes[i].joined = alone;
            }
        }
        for i in 0..self.nodes.len() {
            if let Work::Attend { op: Op::Attend { q, k, causal: true, .. }, .. } = &self.nodes[i].work {
                let alone = [q, k].iter().all(|b| self.is_dead_after(i, b.0 as usize));
                let untapped = self.nodes[i].taps.is_empty();
                if let Work::Attend { whole, .. } = &mut self.nodes[i].work {
                    *whole = alone && untapped;
                }
            }
        }
    }

    /// Whether nobody reads this buffer after node `i` before it is written anew.
    fn is_dead_after(&self, i: usize, buffer: usize) -> bool {
        let later = self.nodes[i + 1..].iter().map(|n| &n.work);
        let mut uses = later.filter(|w| w.reads().contains(&buffer) || w.writes().contains(&buffer));
        uses.next().is_none_or(|w| !w.reads().contains(&buffer))
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
                let part = Part { weight: *weight, bias: *bias, dst: id(dst), add: None };
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
                Work::Attend { op: op.clone(), q: turns[0], k: turns[1], visible, quantise: false, whole: false }
            }
            Op::Gate { gate, up, dst, act } => {
                let op = match act {
                    crate::program::Act::Silu => Elementwise::Silu,
                    crate::program::Act::GeluTanh => Elementwise::Gelu,
                };
                Work::Map { op, src: id(gate), other: id(up), dst: Some(id(dst)), quantise: false }
            }
            Op::Add { src, dst } => {
                // The product that made it adds it on the way out.
                if let Some(Node { work: Work::Product { src: read, parts, .. }, taps, .. }) = self.nodes.last_mut()
                    && taps.is_empty()
                    && *read != id(dst)
                    && parts.iter().all(|p| p.dst != id(dst))
                    && let Some(part) = parts.iter_mut().find(|p| p.dst == id(src) && p.add.is_none())
                {
                    part.add = Some(id(dst));
                    return;
                }
                Work::Map { op: Elementwise::Add, src: id(src), other: id(src), dst: Some(id(dst)), quantise: false }
            }
            Op::Logits { src, weight, scale } => Work::Logits { src: id(src), weight: *weight, scale: *scale },
        };
        self.nodes.push(Node::new(work));
    }

    /// The last node, if nobody wants to look in between.
    fn untapped(&self) -> Option<&Work> {
        self.nodes.last().filter(|n| n.taps.is_empty()).map(|n| &n.work)
    }

    fn product(&mut self, program: &Program, src: usize, width: usize, part: Part) {
        let is_float = !is_packed(program, part.weight);
        if let Some(Node { work: Work::Product { src: s, packed, parts, .. }, taps, .. }) = self.nodes.last_mut()
            && *s == src
            && *packed != is_float
            && taps.is_empty()
            && parts.len() < PARTS_MAX
            // A part must not overwrite the input of its neighbours, nor their output.
            && parts.iter().all(|q| q.dst != src && q.dst != part.dst && q.add.is_none())
        {
            parts.push(part);
            return;
        }
        if !is_float && !self.quantise_on_the_way(src, width) {
            let work = Work::Map { op: Elementwise::Copy, src, other: src, dst: None, quantise: true };
            self.nodes.push(Node::new(work));
        }
        let work = Work::Product { src, packed: !is_float, parts: vec![part], norm: false, gate: false };
        self.nodes.push(Node::new(work));
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
