//! Text → analysis: known by its text, known by its shape, and new.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use criterion::{Criterion, criterion_group, criterion_main};
use pgsluice::sql::{AnalysisCache, Catalog, Volatility, analyse, judge};
use std::hint::black_box;

const SMALL: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 4711";
const MEDIUM: &str =
    "SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = 1234567";

fn large() -> String {
    let columns: Vec<_> = (0..40).map(|n| format!("coalesce(t.column_{n}, lower(u.column_{n}))")).collect();
    format!("SELECT {} FROM t JOIN u ON t.id = u.id WHERE t.id IN (1, 2, 3) ORDER BY 1", columns.join(", "))
}

fn classify(c: &mut Criterion) {
    let cache = AnalysisCache::new(64 << 20);
    c.bench_function("classify/known text", |b| b.iter(|| cache.analyse(black_box(MEDIUM.as_bytes()))));
    let mut n = 0u64;
    c.bench_function("classify/known shape", |b| {
        b.iter(|| {
            n += 1;
            let mut text = *b"SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = 0000000000";
            let (mut digits, mut at) = (n, text.len());
            while digits > 0 {
                at -= 1;
                text[at] = b'0' + (digits % 10) as u8;
                digits /= 10;
            }
            cache.analyse(black_box(&text))
        });
    });
    c.bench_function("classify/new, 56 bytes", |b| b.iter(|| analyse(black_box(SMALL))));
    let large = large();
    c.bench_function("classify/new, 2 KiB", |b| b.iter(|| analyse(black_box(&large))));
    let list = format!("SELECT * FROM t WHERE id IN ({})", vec!["123456"; 100_000].join(", "));
    c.bench_function("classify/new, 800 KB by tokens", |b| b.iter(|| analyse(black_box(&list))));
}

fn judgement(c: &mut Criterion) {
    let mut builder = Catalog::builder();
    for n in 0..3000 {
        builder.function("pg_catalog", &format!("function_{n}"), Volatility::Stable);
    }
    builder.function("pg_catalog", "lower", Volatility::Immutable);
    let catalog = builder.build();
    let analysis = analyse("SELECT lower(a) FROM t JOIN u USING (id)");
    c.bench_function("judge", |b| b.iter(|| judge(black_box(&analysis.statements[0]), Some(&catalog))));
}

criterion_group!(benches, classify, judgement);
criterion_main!(benches);
