//! A query understood by its tokens alone: for texts that are too long or too deep for a parser's
//! tree, and for what else can be known of a text that the parser refuses.
//!
//! It names too much rather than too little: every identifier may be a relation, every one before a
//! parenthesis a function. Where that does not settle the matter the answer is `Unparsed`.

use super::{
    facts::Facts,
    functions,
    lexer::{Token, TokenKind},
    statement::{Kind, Name, Pin, PrimaryCause, Statement},
    tokens::{fold, is_keyword},
};
use std::collections::HashSet;

/// Distinct names remembered of one statement.
const MAX_NAMES: usize = 1024;

/// What a query's tokens say.
#[derive(Default)]
struct Scan {
    /// The name that the last tokens spell, and whether a dot asks for more of it.
    name: Option<Name>,
    dotted: bool,
    quoted: bool,
    previous: Previous,
    names: HashSet<Name>,
    calls: HashSet<Name>,
    writes: bool,
    locks: bool,
    into_temporary: bool,
    cut: bool,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Previous {
    #[default]
    Else,
    For,
    /// FOR NO, FOR KEY, FOR NO KEY.
    ForKey,
    Into,
}

/// A query (SELECT, WITH, VALUES, TABLE, or one in parentheses) by its tokens.
pub(super) fn query(text: &[u8], tokens: impl Iterator<Item = Token>) -> Statement {
    let scan = scan(text, tokens);
    if scan.writes || scan.cut {
        return scan.finish(Kind::Utility, Some(PrimaryCause::Unparsed));
    }
    let locks = scan.locks.then_some(PrimaryCause::LockingClause);
    scan.finish(Kind::Query, locks)
}

/// A query that the parser refuses. FOR NO KEY UPDATE and FOR KEY SHARE it does not know: those are
/// understood all the same, for FOR is a reserved word.
pub(super) fn refused_query(text: &[u8], tokens: &[Token]) -> Statement {
    let scan = scan(text, tokens.iter().copied());
    match scan.locks && !scan.writes && !scan.cut {
        true => scan.finish(Kind::Query, Some(PrimaryCause::LockingClause)),
        false => scan.finish(Kind::Utility, Some(PrimaryCause::Unparsed)),
    }
}

/// A statement of known kind that goes to the primary for `cause`: what it calls and leaves behind.
pub(super) fn primary(text: &[u8], tokens: &[Token], kind: Kind, cause: PrimaryCause) -> Statement {
    write(text, tokens.iter().copied(), kind, cause)
}

/// The same over tokens that are not kept.
pub(super) fn write(text: &[u8], tokens: impl Iterator<Item = Token>, kind: Kind, cause: PrimaryCause) -> Statement {
    scan(text, tokens).finish(kind, Some(cause))
}

fn scan(text: &[u8], tokens: impl Iterator<Item = Token>) -> Scan {
    let mut scan = Scan::default();
    for token in tokens {
        scan.token(text, &token);
    }
    scan.end_name(false);
    scan
}

impl Scan {
    fn token(&mut self, text: &[u8], token: &Token) {
        match (token.kind, token.bytes(text)) {
            (TokenKind::Punct, b".") if self.name.is_some() => self.dotted = true,
            (TokenKind::Punct, b"(") => self.end_name(true),
            (TokenKind::Word | TokenKind::QuotedIdent, _) => {
                if let Some(word) = fold(text, token) {
                    self.identifier(word, token.kind == TokenKind::QuotedIdent);
                }
                self.keyword(text, token);
                return;
            }
            (TokenKind::Unterminated, _) => self.cut = true,
            _ => self.end_name(false),
        }
        self.previous = Previous::Else;
    }

    fn identifier(&mut self, word: Box<str>, quoted: bool) {
        if self.dotted {
            let schema = self.name.take().map(|n| n.name);
            self.name = Some(Name { schema, name: word });
        } else {
            self.end_name(false);
            self.name = Some(Name { schema: None, name: word });
        }
        self.quoted = quoted;
        self.dotted = false;
    }

    fn keyword(&mut self, text: &[u8], token: &Token) {
        let is = |keyword: &str| is_keyword(text, token, keyword);
        let any = |keywords: &[&str]| keywords.iter().any(|k| is(k));
        match self.previous {
            Previous::For if any(&["update", "share", "no", "key"]) => self.locks = true,
            Previous::Into if any(&["temp", "temporary", "local", "global"]) => self.into_temporary = true,
            Previous::ForKey if any(&["key", "update", "share"]) => {}
            _ if any(&["insert", "update", "delete", "merge", "into"]) => self.writes = true,
            _ => {}
        }
        self.previous = match () {
            () if self.previous == Previous::For && any(&["no", "key"]) => Previous::ForKey,
            () if self.previous == Previous::ForKey && is("key") => Previous::ForKey,
            () if is("for") => Previous::For,
            () if is("into") => Previous::Into,
            () => Previous::Else,
        };
    }

    fn end_name(&mut self, called: bool) {
        self.dotted = false;
        let Some(name) = self.name.take() else { return };
        let bare_word = name.schema.is_none() && !self.quoted;
        if bare_word && is_reserved(&name.name) {
            return;
        }
        let names = if called { &mut self.calls } else { &mut self.names };
        let leaves_state = called && (functions::pin(&name.name).is_some() || &*name.name == "set_config");
        if names.len() < MAX_NAMES || leaves_state {
            names.insert(name);
        } else if !names.contains(&name) {
            self.cut = true;
        }
    }

    fn finish(self, kind: Kind, stronger: Option<PrimaryCause>) -> Statement {
        let mut facts = Facts::default();
        for name in self.calls {
            if &*name.name == "set_config" {
                facts.set_config();
            }
            facts.function(name);
        }
        for name in self.names {
            facts.relation(name);
        }
        if self.into_temporary {
            facts.pin = Some(Pin::Temporary);
        }
        facts.into_statement(kind, stronger)
    }
}

/// Keywords that are never a function's or relation's name unless quoted, among those that a query holds.
fn is_reserved(word: &str) -> bool {
    matches!(
        word,
        "all"
            | "and"
            | "any"
            | "array"
            | "as"
            | "asc"
            | "between"
            | "bit"
            | "both"
            | "by"
            | "case"
            | "cast"
            | "char"
            | "character"
            | "check"
            | "collate"
            | "cross"
            | "dec"
            | "decimal"
            | "desc"
            | "distinct"
            | "else"
            | "end"
            | "except"
            | "exists"
            | "false"
            | "fetch"
            | "filter"
            | "float"
            | "for"
            | "from"
            | "full"
            | "group"
            | "having"
            | "ilike"
            | "in"
            | "inner"
            | "intersect"
            | "interval"
            | "into"
            | "is"
            | "join"
            | "lateral"
            | "leading"
            | "left"
            | "like"
            | "limit"
            | "materialized"
            | "national"
            | "natural"
            | "nchar"
            | "not"
            | "null"
            | "numeric"
            | "offset"
            | "on"
            | "only"
            | "or"
            | "order"
            | "over"
            | "right"
            | "row"
            | "select"
            | "sets"
            | "similar"
            | "some"
            | "symmetric"
            | "table"
            | "then"
            | "time"
            | "timestamp"
            | "to"
            | "trailing"
            | "true"
            | "union"
            | "using"
            | "values"
            | "varchar"
            | "varying"
            | "when"
            | "where"
            | "window"
            | "with"
            | "within"
    )
}

/// A statement that names one relation and nothing else.
pub(super) fn relation(name: Name, kind: Kind, cause: Option<PrimaryCause>) -> Statement {
    let mut facts = Facts::default();
    facts.relation(name);
    facts.into_statement(kind, cause)
}
