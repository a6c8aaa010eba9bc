//! One statement by its leading keyword.
//!
//! Commands are read by their tokens, exactly; only queries and data-modifying statements go to
//! the parser. What is malformed comes out as `Unparsed`, so that a server says what is wrong with it.

use super::{
    lexer::{Lexer, Token, TokenKind},
    scan, settings,
    split::Part,
    statement::{Discard, Kind, Pin, PrimaryCause, Statement},
    tokens::Cursor,
    transaction, tree,
    upkeep::upkeep,
    wrapped,
};
use std::ops::Range;

/// How deep parentheses, brackets and CASE may nest in what the parser gets.
pub(super) const MAX_DEPTH: usize = 64;

/// How many operators (and the keywords that act like them) the parser gets in one statement: each
/// may be one more level of its tree.
pub(super) const MAX_OPERATORS: usize = 2000;

/// What CREATE DATABASE copies when it is not told.
const DEFAULT_TEMPLATE: &str = "template1";

/// Names that are looked at in a statement about a database.
const MAX_DATABASES: usize = 8;

/// A text under analysis: what is left of the bytes that the parser may see.
pub(super) struct Commands<'a> {
    pub(super) text: &'a [u8],
    pub(super) budget: usize,
}

impl Commands<'_> {
    /// The summary of one statement.
    pub(super) fn understand(&mut self, part: &Part) -> Statement {
        let mut cursor = Cursor::new(self.text, &part.tokens);
        let leading = leading(&cursor);
        if leading != "(" {
            cursor.next();
        }
        let statement = match &*leading {
            // A row without columns, which the parser does not know.
            "select" if cursor.at_end() => Some(Statement::new(Kind::Query, None).without_tables()),
            "select" | "values" | "table" | "with" | "(" | "insert" | "update" | "delete" | "merge" => {
                Some(self.body(part.span.clone(), &part.tokens, part.complete))
            }
            "explain" => wrapped::explain(self, cursor, part),
            "copy" => wrapped::copy(self, cursor, part),
            "declare" => wrapped::declare(self, cursor, part),
            "prepare" if !cursor.is("transaction") || cursor.is_at(1, "as") || cursor.is_punct(1, "(") => {
                wrapped::prepare(self, cursor, part)
            }
            "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" | "prepare" => {
                transaction::parse(&leading, cursor)
            }
            "set" => settings::set(cursor),
            "reset" => settings::reset(cursor),
            "show" => settings::show(cursor),
            "execute" => execute(cursor),
            "deallocate" => deallocate(cursor),
            "discard" => discard(cursor),
            "listen" | "unlisten" => listen(&leading, cursor),
            "fetch" | "move" | "close" => {
                (!cursor.at_end()).then(|| Statement::new(Kind::Query, None).without_tables())
            }
            _ => self.utility(&leading, cursor),
        };
        let mut statement = match statement {
            Some(statement) if part.complete || !matches!(statement.kind, Kind::Set(_)) => statement,
            _ => self.unparsed(&part.tokens, Kind::Utility),
        };
        statement.may_unpin = matches!(&*leading, "close" | "drop" | "unlisten")
            || statement.functions.iter().any(|function| function.name.starts_with("pg_advisory_unlock"));
        statement
    }

    /// A query or data-modifying statement, by the parser if it is short and flat enough.
    pub(super) fn body(&mut self, span: Range<usize>, tokens: &[Token], complete: bool) -> Statement {
        let cursor = Cursor::new(self.text, tokens);
        let writes = ["insert", "update", "delete", "merge"].iter().any(|k| cursor.is(k));
        let small = complete && span.len() <= self.budget;
        if small && is_shallow(self.text, tokens) {
            self.budget -= span.len();
            return tree::summarise(self.text, span, tokens).unwrap_or_else(|| match writes {
                true => self.unparsed(tokens, Kind::Write),
                false => scan::refused_query(self.text, tokens),
            });
        }
        match (writes, complete) {
            (true, true) => scan::primary(self.text, tokens, Kind::Write, PrimaryCause::Write),
            (false, true) => scan::query(self.text, tokens.iter().copied()),
            (true, false) => scan::write(self.text, self.relex(span), Kind::Write, PrimaryCause::Write),
            (false, false) => scan::query(self.text, self.relex(span)),
        }
    }

    /// The tokens of a statement that has too many to be kept.
    fn relex(&self, span: Range<usize>) -> Lexer<'_> {
        Lexer::new_at(&self.text[..span.end], span.start)
    }

    /// What nobody here can parse.
    pub(super) fn unparsed(&self, tokens: &[Token], kind: Kind) -> Statement {
        scan::primary(self.text, tokens, kind, PrimaryCause::Unparsed)
    }

    fn utility(&self, leading: &str, cursor: Cursor<'_>) -> Option<Statement> {
        let mut statement = match leading {
            "truncate" => wrapped::truncate(cursor)?,
            "create" | "alter" | "drop" if cursor.is("database") => database(leading, cursor),
            "create" => wrapped::create(cursor),
            "alter" if cursor.is("system") => Statement::new(Kind::Utility, Some(PrimaryCause::Utility)),
            "alter" | "drop" | "grant" | "revoke" | "comment" | "security" | "import" | "reassign" => {
                Statement::new(Kind::Ddl, Some(PrimaryCause::Ddl)).without_tables()
            }
            "do" | "call" => {
                let mut opaque = scan::primary(self.text, cursor.rest(), Kind::Utility, PrimaryCause::Utility);
                opaque.relations = [].into();
                opaque.changes_settings = true;
                opaque
            }
            "load" => Statement::new(Kind::Utility, Some(PrimaryCause::SessionState)).with_pin(Some(Pin::Library)),
            "notify" => Statement::new(Kind::Utility, Some(PrimaryCause::Utility)).without_tables(),
            "lock" | "vacuum" | "analyze" | "analyse" | "cluster" | "checkpoint" | "reindex" | "refresh" | "wait"
            | "repack" => Statement::new(Kind::Utility, Some(PrimaryCause::Utility)),
            _ => return None,
        };
        statement.upkeep = upkeep(leading, cursor).map(Box::new);
        Some(statement)
    }
}

/// CREATE, ALTER or DROP DATABASE, with `cursor` behind the first word. Every name in it may be a database's: it does
/// no harm to take an option's for one.
fn database(leading: &str, mut cursor: Cursor<'_>) -> Statement {
    let mut names: Vec<Box<str>> = Vec::new();
    if leading == "create" {
        names.push(DEFAULT_TEMPLATE.into());
    }
    // Others may be connected while its owner or its settings change.
    let concerns_others = leading != "alter" || cursor.contains("rename") || cursor.contains("tablespace");
    // Behind the word DATABASE.
    cursor.next();
    while concerns_others && !cursor.at_end() && names.len() < MAX_DATABASES {
        match cursor.ident() {
            Some((name, _)) => names.push(name),
            None => drop(cursor.next()),
        }
    }
    Statement { databases: names.into(), ..Statement::new(Kind::Ddl, Some(PrimaryCause::Ddl)).without_tables() }
}

/// The first keyword in lower case; `(` for a parenthesis, empty for anything else.
fn leading(cursor: &Cursor<'_>) -> String {
    match cursor.peek() {
        Some(token) if token.kind == TokenKind::Word => {
            String::from_utf8_lossy(token.bytes(cursor.text)).to_ascii_lowercase()
        }
        _ if cursor.is_punct(0, "(") => "(".to_owned(),
        _ => String::new(),
    }
}

/// Whether the parser's tree of these tokens stays shallow enough to be dropped on a small stack.
pub(super) fn is_shallow(text: &[u8], tokens: &[Token]) -> bool {
    let mut depth = 0usize;
    let mut operators = 0usize;
    for token in tokens {
        match (token.kind, token.bytes(text)) {
            (TokenKind::Punct, b"(" | b"[") => depth += 1,
            (TokenKind::Punct, b")" | b"]") => depth = depth.saturating_sub(1),
            (TokenKind::Punct, b"::") | (TokenKind::Operator, _) => operators += 1,
            (TokenKind::Word, word) if word.eq_ignore_ascii_case(b"case") => depth += 1,
            (TokenKind::Word, word) if word.eq_ignore_ascii_case(b"end") => depth = depth.saturating_sub(1),
            (TokenKind::Word, word) => operators += usize::from(acts_like_operator(word)),
            _ => {}
        }
        if depth > MAX_DEPTH || operators > MAX_OPERATORS {
            return false;
        }
    }
    true
}

fn acts_like_operator(word: &[u8]) -> bool {
    let words: [&[u8]; 14] = [
        b"and",
        b"or",
        b"not",
        b"union",
        b"except",
        b"intersect",
        b"is",
        b"isnull",
        b"notnull",
        b"collate",
        b"at",
        b"like",
        b"between",
        b"join",
    ];
    (2..=9).contains(&word.len()) && words.iter().any(|w| word.eq_ignore_ascii_case(w))
}

fn execute(mut cursor: Cursor<'_>) -> Option<Statement> {
    let (name, name_span) = cursor.ident()?;
    if !cursor.at_end() {
        cursor.parenthesised()?;
        cursor.end()?;
    }
    let kind = Kind::Execute { name, name_span };
    let mut statement = Statement::new(kind, Some(PrimaryCause::SessionState));
    statement.changes_settings = true;
    Some(statement)
}

fn deallocate(mut cursor: Cursor<'_>) -> Option<Statement> {
    let _ = cursor.rest().len() > 1 && cursor.take("prepare");
    let all = cursor.is("all");
    let (name, name_span) = cursor.ident()?;
    cursor.end()?;
    Some(Statement::new(Kind::Deallocate { name: (!all).then_some(name), name_span }, None))
}

fn discard(mut cursor: Cursor<'_>) -> Option<Statement> {
    let what = match () {
        () if cursor.take("all") => Discard::All,
        () if cursor.take("plans") => Discard::Plans,
        () if cursor.take_any(&["sequences", "sequence"]) => Discard::Sequences,
        () if cursor.take_any(&["temp", "temporary"]) => Discard::Temp,
        () => return None,
    };
    cursor.end()?;
    Some(Statement::new(Kind::Discard(what), None))
}

fn listen(leading: &str, mut cursor: Cursor<'_>) -> Option<Statement> {
    let everything = leading == "unlisten" && cursor.take_operator("*");
    if !everything {
        cursor.ident()?;
    }
    cursor.end()?;
    let pin = (leading == "listen").then_some(Pin::Listen);
    Some(Statement::new(Kind::Listen, Some(PrimaryCause::SessionState)).with_pin(pin))
}
