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
