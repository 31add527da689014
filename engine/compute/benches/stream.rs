//! One column over a matrix far larger than the caches: bytes of weights per second and thread, as decoding reads them,
//! beside a plain read of as many bytes. What is lost between the two is the kernel's, not the memory's.
//!
//! `cargo bench -p compute --bench stream`

use compute::cpu::isa::Isa;
use compute::cpu::product::Product;
use compute::{Format, WeightRef, quant};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Input features of Qwen2.5 1.5B, and rows enough for 200 MB at four bits.
const COLS: usize = 1536;
const ROWS: usize = 262_144;

fn stream(c: &mut Criterion) {
    let words: Vec<u64> = (0..ROWS * COLS / 16).map(|i| i as u64).collect();
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes(8 * words.len() as u64));
    group.bench_function("plain", |b| b.iter(|| words.iter().fold(0u64, |a, &w| a ^ w)));
    group.finish();
    for name in ["Q4_K", "Q6_K", "Q5_0", "Q8_0", "Q4_0"] {
        let format = Format(quant::ALL.iter().find(|s| s.name == name).expect("a format"));
        let rows = if name == "Q8_0" { ROWS / 2 } else { ROWS };
        let mut row = vec![0u8; format.row_bytes(COLS).expect("whole blocks")];
        let values: Vec<f32> = (0..COLS).map(|k| (k * 17 % 101) as f32 / 50.0 - 1.0).collect();
        format.encode_row(&values, &mut row);
        let w = WeightRef { name: name.into(), bytes: row.repeat(rows).into(), format, rows, cols: COLS };
        let x = vec![(0..COLS).map(|k| (k * 7 % 13) as f32 - 6.0).collect()];
        for isa in Isa::available().into_iter().filter(|i| i.name() != "scalar") {
            let mut product = Product::new(&w, isa).expect("memory");
            product.run(&x, None);
            let mut group = c.benchmark_group(format!("{format}/{}", isa.name()));
            group.throughput(Throughput::Bytes(product.weight_bytes() as u64));
            group.bench_function("1 column", |b| b.iter(|| product.multiply(None)));
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(100))
        .measurement_time(std::time::Duration::from_millis(300));
    targets = stream
}
criterion_main!(benches);
