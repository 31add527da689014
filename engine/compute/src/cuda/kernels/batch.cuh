// What a step brings to the device. `runner.rs` has the same structs.
#pragma once
#include "contract.cuh"

// A row of the batch.
struct Row {
    u32 token;
    u32 position;
    u32 table;   // where its sequence's block table begins in `Inputs::tables`
    u32 unused;
};

// What changes from step to step; one upload.
struct Inputs {
    const Row* rows;
    const u64* tables; // addresses of blocks of the cache
    const u32* visible; // [set][rows][2]: first position and one past the last
    const u32* wanted;  // rows that want logits
};

// Rotates the heads of q and of k in place, and puts k and v into the cache; each part may be absent.
struct Rope {
    float* q;
    float* k;
    float* v;          // null: nothing is appended
    const float* turns_q; // [position][pairs][2], or null: q stays as it is
    const float* turns_k;
    u64 layer_at;      // of this layer in a block, in halves
    int heads, kv_heads, head_dim, pairs_q, pairs_k, interleaved_q, interleaved_k, unused;
};
