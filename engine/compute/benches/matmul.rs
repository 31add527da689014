//! Every block format, one and many columns, at every level: bytes of weights per second and multiply-adds per second.
//!
//! `cargo bench -p compute --bench matmul`

use compute::cpu::isa::Isa;
use compute::cpu::product::Product;
use compute::{Format, WeightRef, quant};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Output and input features: the down projection of Qwen2.5 1.5B, cut to fit the cache of one core for many columns.
const ROWS: usize = 512;
const COLS: usize = 1536;

fn matmul(c: &mut Criterion) {
    for spec in quant::ALL {
        let format = Format(spec);
        let mut bytes = vec![0u8; ROWS * format.row_bytes(COLS).expect("whole blocks")];
        for (i, row) in bytes.chunks_exact_mut(format.row_bytes(COLS).expect("whole blocks")).enumerate() {
            let values: Vec<f32> = (0..COLS).map(|k| ((i * 31 + k * 17) % 101) as f32 / 50.0 - 1.0).collect();
            format.encode_row(&values, row);
        }
        let w = WeightRef { name: "w".into(), bytes: bytes.into(), format, rows: ROWS, cols: COLS };
        for isa in Isa::available() {
            let mut product = Product::new(&w, isa).expect("memory");
            for columns in [1usize, 8, 64, 512] {
                let x: Vec<Vec<f32>> =
                    (0..columns).map(|c| (0..COLS).map(|k| ((k * 7 + c) % 13) as f32 - 6.0).collect()).collect();
                product.run(&x, None);
                let mut group = c.benchmark_group(format!("{format}/{}", isa.name()));
                group.throughput(match columns {
                    1 => Throughput::Bytes(product.weight_bytes() as u64),
                    n => Throughput::Elements((ROWS * COLS * n) as u64),
                });
                group.bench_function(format!("{columns} columns"), |b| b.iter(|| product.multiply(None)));
                group.finish();
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(500));
    targets = matmul
}
criterion_main!(benches);
