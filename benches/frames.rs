//! Splitting what a server sends into messages: the work that is done for every row.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgsluice::wire::{Frames, header};

/// 64 KiB of `DataRow`s with one column of `size` bytes each, the last of them whole.
fn rows(size: usize) -> Vec<u8> {
    let column = i32::try_from(size).expect("a small column");
    let mut buffer = Vec::new();
    while buffer.len() + size + 11 <= 64 * 1024 {
        buffer.push(b'D');
        buffer.extend((column + 10).to_be_bytes());
        buffer.extend(1i16.to_be_bytes());
        buffer.extend(column.to_be_bytes());
        buffer.resize(buffer.len() + size, b'x');
    }
    buffer
}

fn frames(c: &mut Criterion) {
    for size in [20, 200, 4096] {
        let buffer = rows(size);
        let mut group = c.benchmark_group(format!("frames/64 KiB of rows of {size} bytes"));
        let count = Frames::new(&buffer).count();
        group.throughput(Throughput::Elements(u64::try_from(count).expect("a small count")));
        group.bench_function("Frames", |b| {
            b.iter(|| {
                let frames = Frames::new(black_box(&buffer)).map_while(Result::ok);
                frames.map(|frame| frame.bytes.len() + usize::from(frame.tag)).sum::<usize>()
            });
        });
        // As the relay does it: a header is looked at, and the message is passed on by its length.
        group.bench_function("header", |b| {
            b.iter(|| {
                let buffer = black_box(&buffer[..]);
                let mut at = 0;
                while let Ok(Some(header)) = header(&buffer[at..]) {
                    at += header.size;
                }
                at
            });
        });
        group.finish();
    }
}

criterion_group!(benches, frames);
criterion_main!(benches);
