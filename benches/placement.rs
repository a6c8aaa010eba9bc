//! Key → bucket → shard: what a statement for one shard costs more than without sharding.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use criterion::{Criterion, criterion_group, criterion_main};
use pgsluice::shard::{BucketMap, Charset, KeyColumn, KeyDigest, SqlType};
use std::hint::black_box;

fn placement(c: &mut Criterion) {
    let names: Vec<_> = (0..16).map(|n| format!("shard-{n}")).collect();
    let map = BucketMap::new(names.iter().map(|name| (name.as_str(), 1))).unwrap_or_else(|error| panic!("{error}"));
    let place = |column: KeyColumn, text: &[u8]| {
        let value = column.from_text(0, text, Charset::Utf8).ok()?;
        Some(map.shard_of(&KeyDigest::of(&[value])))
    };
    for (name, sql_type, text) in [
        ("bigint", SqlType::Int8, "1234567"),
        ("text, 12 bytes", SqlType::Text, "customer-042"),
        ("uuid", SqlType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("timestamptz", SqlType::Timestamptz, "2024-01-31 10:00:00.25+01"),
    ] {
        let column = KeyColumn::of(sql_type);
        c.bench_function(&format!("placement/{name}"), |b| b.iter(|| place(column, black_box(text.as_bytes()))));
    }
    let (column, bytes) = (KeyColumn::of(SqlType::Int8), 1_234_567i64.to_be_bytes());
    c.bench_function("placement/bigint, binary", |b| {
        b.iter(|| {
            let value = column.from_binary(20, black_box(&bytes), Charset::Utf8).ok()?;
            Some(map.shard_of(&KeyDigest::of(&[value])))
        });
    });
    let long = "x".repeat(1 << 20);
    let text = KeyColumn::of(SqlType::Text);
    c.bench_function("placement/text, 1 MiB", |b| b.iter(|| place(text, black_box(long.as_bytes()))));
    c.bench_function("placement/plan for one more shard", |b| b.iter(|| black_box(&map).plan_add("new", 1)));
}

criterion_group!(benches, placement);
criterion_main!(benches);
