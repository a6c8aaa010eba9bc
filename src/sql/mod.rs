//! Text → [`Analysis`]: what a statement reads, writes, locks, calls and sets; and with a database's
//! [`Catalog`], whether it may run on a standby.
//!
//! The way of a text: `cache` (known already?) → `split` over `lexer` (statements) → `commands` (by the
//! leading keyword) → `transaction`, `settings`, `wrapped` by tokens, or `tree` by the parser, or `scan`
//! where a text is too large for it → `facts` → [`Statement`]. Then `judge` with `catalog`. And apart from that `merge`: how the
//! answers of several shards to one SELECT are put together.
//!
//! Pure: no I/O, no clock, nothing of servers. Never panics, whatever the bytes, and stays
//! within a small stack.

mod cache;
mod catalog;
mod commands;
mod copy;
mod ctes;
mod facts;
mod functions;
mod hint;
mod judge;
mod lexer;
mod literals;
mod merge;
mod normal;
mod relate;
mod rows;
mod scan;
mod settings;
mod shape;
mod split;
mod statement;
mod text;
mod tokens;
mod transaction;
mod tree;
mod upkeep;
mod uses;
mod wrapped;

pub use cache::AnalysisCache;
pub use catalog::{Catalog, CatalogBuilder, RelationKind, Volatility};
pub use copy::{Columns, CopyFormat, CopyFrom, CopyUnread, CsvForm, TextForm, copy_from};
pub use hint::Hint;
pub use judge::{judge, judge_with_name};
pub use lexer::{Lexer, Token, TokenKind};
pub use literals::{Literal, literal, names_parameter_twice};
pub use merge::{Combine, Count, Gathering, Merge, Rows, Shown, SortKey, Steps, Tables, gathering};
pub use normal::{MAX_NORMAL_BYTES, Normal, normal, spans};
pub use rows::with_rows;
pub use statement::*;
pub use text::{MAX_PARSED_BYTES, analyse, analyse_bytes, unread};
pub use upkeep::Upkeep;
pub use uses::{Access, Assignment, CastType, Fact, Insert, Operand, TableUse, Uses};
pub use wrapped::explained_by_route;
