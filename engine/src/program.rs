//! Writes a model down as a program. This is the only place where the shape of a transformer is written.

//= F-INT-282
use compute::program::{BufferId, KvSpec, Op, Program, Tag, WeightId};

use crate::model::{Linear, Model};

/// What an operation is for. With the layer it makes the [`Tag`] that taps see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Stage {
    /// Token embeddings.
    Embed,
    /// Norm before attention.
    AttentionNorm,
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Rotation of the queries.
    RopeQ,
    /// Rotation of the keys.
    RopeK,
    /// Attention itself.
    Attention,
    /// Output projection.
    AttentionOutput,
    /// Residual after attention.
    AttentionAdd,
    /// Norm before the feed-forward layer.
    FfnNorm,
    /// Gate projection.
    FfnGate,
    /// Up projection.
    FfnUp,
    /// Activation times up.
    FfnAct,
    /// Down projection.
    FfnDown,
    /// Residual after the feed-forward layer.
    FfnAdd,
    /// The last norm.
    OutputNorm,
    /// The LM head.
    Logits,
}

const STAGES: &[Stage] = &[
    Stage::Embed,
    Stage::AttentionNorm,
    Stage::Q,
    Stage::K,
    Stage::V,
    Stage::RopeQ,
    Stage::RopeK,
    Stage::Attention,
    Stage::AttentionOutput,
    Stage::AttentionAdd,
    Stage::FfnNorm,
    Stage::FfnGate,
    Stage::FfnUp,
    Stage::FfnAct,
    Stage::FfnDown,
    Stage::FfnAdd,
    Stage::OutputNorm,
    Stage::Logits,
];

const STAGE_BITS: u16 = 5;

/// The tag of a stage of a layer (layer 0 for what comes before and after the layers).
pub fn tag(layer: usize, stage: Stage) -> Tag {
    Tag((layer as u16) << STAGE_BITS | stage as u16)
}

/// Layer and stage of a tag that [`tag`] made.
pub fn untag(tag: Tag) -> Option<(usize, Stage)> {
    let stage = STAGES.get(usize::from(tag.0 & ((1 << STAGE_BITS) - 1)))?;
    Some((usize::from(tag.0 >> STAGE_BITS), *stage))
}

/// The whole model as a list of operations.
//= F-PIPE-178
pub fn build(model: &Model) -> Program {
    let (arch, h, w) = (model.arch, &model.hyper, &model.weights);
    let mut p = Program { vocab: h.vocab, ..Program::default() };
    let q_width = h.heads * h.head_dim;
    let kv_width = h.kv_heads * h.head_dim;

    let x = p.buffer(h.hidden); // the residual stream
    let normed = p.buffer(h.hidden);
    let q = p.buffer(q_width);
    let k = p.buffer(kv_width);
    let v = p.buffer(kv_width);
    let attended = p.buffer(q_width);
    let delta = p.buffer(h.hidden); // what a block adds to the stream
    let gate = p.buffer(h.ffn);
    let up = p.buffer(h.ffn);

    let table = p.weight(w.token_embedding.clone());
    //= F-MATH-159
    p.push(tag(0, Stage::Embed), Op::Embed { table, dst: x, scale: 1.0 });

    let norm = |p: &mut Program, t: Tag, src: BufferId, weight: &compute::WeightRef| {
        let weight = Some(p.weight(weight.clone()));
        //= F-MATH-164
        let op = Op::Norm {
            kind: arch.norm,
            src,
            dst: normed,
            weight,
            bias: None,
            offset: 0.0,
            eps: h.norm_eps,
            per_head: None,
        };
        p.push(t, op);
    };
    let matmul = |p: &mut Program, t: Tag, src: BufferId, linear: &Linear, dst: BufferId| {
        let weight = p.weight(linear.weight.clone());
        let bias: Option<WeightId> = linear.bias.as_ref().map(|b| p.weight(b.clone()));
        p.push(t, Op::MatMul { src, weight, bias, dst });
    };
    let rope = |p: &mut Program, t: Tag, buf: BufferId, heads: usize| {
        //= F-ST-089
        let (layout, table) = (model.layout.rope, h.rope.clone());
        p.push(t, Op::Rope { buf, heads, head_dim: h.head_dim, layout, table });
    };

    for (l, block) in w.blocks.iter().enumerate() {
        p.kv.push(KvSpec { heads: h.kv_heads, head_dim: h.head_dim });

        norm(&mut p, tag(l, Stage::AttentionNorm), x, &block.attention_norm);
        matmul(&mut p, tag(l, Stage::Q), normed, &block.q, q);
        matmul(&mut p, tag(l, Stage::K), normed, &block.k, k);
        matmul(&mut p, tag(l, Stage::V), normed, &block.v, v);
        rope(&mut p, tag(l, Stage::RopeQ), q, h.heads);
        rope(&mut p, tag(l, Stage::RopeK), k, h.kv_heads);
        p.push(
            tag(l, Stage::Attention),
            Op::Attend {
                q,
                k,
                v,
                dst: attended,
                layer: l,
                heads: h.heads,
                scale: 1.0 / (h.head_dim as f32).sqrt(),
                window: None,
                softcap: None,
                causal: true, //= F-PIPE-176
            },
        );
        matmul(&mut p, tag(l, Stage::AttentionOutput), attended, &block.attention_output, delta);
        p.push(tag(l, Stage::AttentionAdd), Op::Add { src: delta, dst: x });

        norm(&mut p, tag(l, Stage::FfnNorm), x, &block.ffn_norm);
        matmul(&mut p, tag(l, Stage::FfnGate), normed, &block.gate, gate);
        matmul(&mut p, tag(l, Stage::FfnUp), normed, &block.up, up);
        p.push(tag(l, Stage::FfnAct), Op::Gate { gate, up, dst: gate, act: arch.act });
        matmul(&mut p, tag(l, Stage::FfnDown), gate, &block.down, delta);
        p.push(tag(l, Stage::FfnAdd), Op::Add { src: delta, dst: x });
    }

    norm(&mut p, tag(0, Stage::OutputNorm), x, &w.output_norm);
    let head = if w.tied { table } else { p.weight(w.output.clone()) };
    //= F-PIPE-179
    p.push(tag(0, Stage::Logits), Op::Logits { src: normed, weight: head, scale: 1.0 });
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back() {
        for (i, &stage) in STAGES.iter().enumerate() {
            assert_eq!(stage as usize, i);
            assert_eq!(untag(tag(511, stage)), Some((511, stage)));
        }
    }
}
