//! Texts of statements: whatever the bytes, there is an answer, and it is the same each time.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pgsluice::sql::{AnalysisCache, Catalog, Lexer, RelationKind, Volatility, analyse_bytes, judge};

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let mut catalog = Catalog::builder();
    catalog
        .function("public", "f", Volatility::Volatile)
        .function("public", "g", Volatility::Stable)
        .function("pg_catalog", "now", Volatility::Stable)
        .relation("public", "t", RelationKind::Table)
        .view("public", "v", "SELECT f() FROM t");
    catalog.build()
});

fuzz_target!(|text: &[u8]| {
    let mut end = 0;
    for token in Lexer::new(text) {
        let bytes = token.bytes(text);
        let start = bytes.as_ptr() as usize - text.as_ptr() as usize;
        assert!(start >= end && !bytes.is_empty(), "tokens go on");
        end = start + bytes.len();
    }
    let analysis = analyse_bytes(text);
    for statement in &analysis.statements {
        let _ = judge(statement, None);
        let _ = judge(statement, Some(&CATALOG));
    }
    // A cache makes no difference: not the first time, and not the second.
    let cache = AnalysisCache::new(1 << 20);
    for _ in 0..2 {
        let cached = cache.analyse(text);
        let verdicts = |analysis: &pgsluice::sql::Analysis| -> Vec<_> {
            analysis
                .statements
                .iter()
                .map(|statement| (judge(statement, None), judge(statement, Some(&CATALOG))))
                .collect()
        };
        assert_eq!(verdicts(&cached), verdicts(&analysis));
    }
});
