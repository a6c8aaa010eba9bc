//! Commands that hold a query or another command: EXPLAIN, COPY, DECLARE, PREPARE; and those that name
//! or make a relation: CREATE, TRUNCATE.

use super::{
    commands::Commands,
    lexer::{Lexer, Token, TokenKind},
    scan,
    settings::boolean,
    split::Part,
    statement::{Kind, Pin, PrimaryCause, Setting, Statement},
    tokens::Cursor,
    uses::{Access, Uses},
};

const QUERY: &[&str] = &["select", "values", "table", "with"];
const DML: &[&str] = &["insert", "update", "delete", "merge"];

fn starts_query(cursor: &Cursor<'_>) -> bool {
    cursor.is_punct(0, "(") || QUERY.iter().any(|k| cursor.is(k))
}

fn starts_body(cursor: &Cursor<'_>) -> bool {
    starts_query(cursor) || DML.iter().any(|k| cursor.is(k))
}

impl Commands<'_> {
    /// The query or data-modifying statement that the rest of the cursor is.
    fn inner(&mut self, cursor: Cursor<'_>, complete: bool) -> Option<Statement> {
        let (first, last) = (cursor.rest().first()?, cursor.rest().last()?);
        if !complete {
            return Some(self.unparsed(cursor.rest(), Kind::Utility));
        }
        Some(self.body(first.start..last.end, cursor.rest(), true))
    }
}

/// EXPLAIN, with `cursor` behind that word. Without ANALYZE nothing is run, whatever it explains.
pub(super) fn explain(commands: &mut Commands<'_>, mut cursor: Cursor<'_>, part: &Part) -> Option<Statement> {
    if cursor.take("route") {
        return (!cursor.at_end()).then(|| Statement::new(Kind::ExplainRoute, None));
    }
    let analyze = explain_options(&mut cursor)?;
    if starts_body(&cursor) {
        let inner = commands.inner(cursor, part.complete)?;
        return Some(if analyze { inner } else { planned(inner) });
    }
    let statement = match () {
        () if cursor.is("execute") => {
            let mut statement = Statement::new(Kind::Query, Some(PrimaryCause::SessionState));
            statement.changes_settings = analyze;
            statement
        }
        () if cursor.take("create") && analyze => create(cursor),
        () if cursor.take_any(&["declare", "refresh"]) && analyze => {
            Statement::new(Kind::Utility, Some(PrimaryCause::Utility))
        }
        // What was taken above and is only planned, or CREATE TABLE AS behind its first word.
        () if is_explainable(&cursor, part) => Statement::new(Kind::Query, None),
        () => return None,
    };
    Some(statement)
}

/// The statement that an EXPLAIN ROUTE is about.
pub fn explained_by_route(text: &[u8]) -> Option<&[u8]> {
    let mut tokens = Lexer::new(text);
    let mut word = |word: &str| tokens.next().filter(|token| token.bytes(text).eq_ignore_ascii_case(word.as_bytes()));
    word("explain")?;
    // With the hint that may stand in front of it.
    let route = word("route")?;
    text.get(route.end..)
}

fn is_explainable(cursor: &Cursor<'_>, part: &Part) -> bool {
    let before = part.tokens.len() - cursor.rest().len();
    let whole = Cursor::new(cursor.text, &part.tokens[before.saturating_sub(1)..]);
    ["create", "declare", "refresh"].iter().any(|k| whole.is(k))
}

/// The statement when it is planned and not run: the planner opens relations, but calls nothing VOLATILE.
/// That is so even for what cannot be parsed here.
fn planned(inner: Statement) -> Statement {
    Statement { relations: inner.relations, uses: inner.uses, ..Statement::new(Kind::Query, None) }
}

/// EXPLAIN's options; whether ANALYZE is among them and on.
fn explain_options(cursor: &mut Cursor<'_>) -> Option<bool> {
    let mut analyze = false;
    // A parenthesis may also begin the query itself.
    let query = QUERY.iter().any(|k| cursor.is_at(1, k)) || cursor.is_punct(1, "(");
    if cursor.is_punct(0, "(") && !query {
        let mut options = cursor.parenthesised()?;
        while !options.at_end() {
            let (name, _) = options.ident()?;
            let value = (!options.at_end() && !options.is_punct(0, ",")).then(|| options.next()).flatten();
            if matches!(&*name, "analyze" | "analyse") {
                analyze = value.is_none_or(|t| option_is_on(options.text, &t));
            }
            if !options.at_end() && !options.take_punct(",") {
                return None;
            }
        }
        return Some(analyze);
    }
    if cursor.take_any(&["analyze", "analyse"]) {
        analyze = true;
    }
    cursor.take("verbose");
    Some(analyze)
}

/// What cannot be read counts as on.
fn option_is_on(text: &[u8], token: &Token) -> bool {
    let spelt = String::from_utf8_lossy(token.bytes(text));
    Setting::constant_value(&spelt).and_then(|v| boolean(&v)).unwrap_or(true)
}

/// COPY, with `cursor` behind that word.
pub(super) fn copy(commands: &mut Commands<'_>, mut cursor: Cursor<'_>, part: &Part) -> Option<Statement> {
    if cursor.is_punct(0, "(") {
        let inner = cursor.parenthesised()?;
        if !cursor.take("to") || !starts_body(&inner) {
            return None;
        }
        let mut statement = commands.inner(inner, true)?;
        if !copies_to_client(&cursor)? {
            statement.primary.get_or_insert(PrimaryCause::ServerFunction);
        }
        return Some(statement);
    }
    if cursor.is("binary") && !cursor.is_at(1, "to") && !cursor.is_at(1, "from") && !cursor.is_punct(1, ".") {
        cursor.next();
    }
    let name = cursor.name()?;
    if cursor.is_punct(0, "(") {
        cursor.parenthesised()?;
    }
    if cursor.take("from") {
        // A WHERE clause may call functions that leave state behind; what stands before it calls none.
        while !cursor.at_end() && !cursor.is("where") {
            if cursor.parenthesised().is_none() {
                cursor.next();
            }
        }
        let mut statement = scan::primary(commands.text, cursor.rest(), Kind::Write, PrimaryCause::Write);
        statement.uses = Some(Box::new(Uses::of_whole([&name], Access::Insert)));
        statement.relations = [name].into();
        return Some(statement);
    }
    if !cursor.take("to") {
        return None;
    }
    let cause = (!copies_to_client(&cursor)?).then_some(PrimaryCause::ServerFunction);
    let uses = Some(Box::new(Uses::of_whole([&name], Access::Read)));
    let table = Statement { uses, ..scan::relation(name, Kind::Query, cause) };
    Some(if part.complete { table } else { commands.unparsed(&part.tokens, Kind::Utility) })
}

/// Whether the target is the client: not a file or program of the server.
fn copies_to_client(cursor: &Cursor<'_>) -> Option<bool> {
    match cursor.peek()?.kind {
        TokenKind::Word => Some(cursor.is("stdout") || cursor.is("stdin")),
        _ => Some(false),
    }
}

/// DECLARE, with `cursor` behind that word.
pub(super) fn declare(commands: &mut Commands<'_>, mut cursor: Cursor<'_>, part: &Part) -> Option<Statement> {
    cursor.ident()?;
    while cursor.take_any(&["binary", "asensitive", "insensitive", "scroll", "no"]) {}
    if !cursor.take("cursor") {
        return None;
    }
    let hold = cursor.take_all(&["with", "hold"]);
    let _ = cursor.take_all(&["without", "hold"]);
    if !cursor.take("for") || !starts_query(&cursor) {
        return None;
    }
    let mut statement = commands.inner(cursor, part.complete)?;
    if hold {
        statement.primary = Some(PrimaryCause::SessionState);
        statement.pin = Some(Pin::HoldCursor);
    }
    Some(statement)
}

/// PREPARE, with `cursor` behind that word.
pub(super) fn prepare(commands: &mut Commands<'_>, mut cursor: Cursor<'_>, part: &Part) -> Option<Statement> {
    let (name, _) = cursor.ident()?;
    if cursor.is_punct(0, "(") {
        cursor.parenthesised()?;
    }
    if !cursor.take("as") || !starts_body(&cursor) {
        return None;
    }
    let mut statement = commands.inner(cursor, part.complete)?;
    statement.kind = Kind::Prepare { name };
    statement.primary = Some(PrimaryCause::SessionState);
    statement.pin = Some(Pin::Prepare);
    Some(statement)
}

/// CREATE, with `cursor` behind that word. What is temporary stays in the session, unless it is
/// dropped when the transaction ends.
pub(super) fn create(mut cursor: Cursor<'_>) -> Statement {
    let head = cursor;
    cursor.take_all(&["or", "replace"]);
    cursor.take_any(&["local", "global"]);
    let temporary = cursor.take_any(&["temp", "temporary"]) || is_in_temporary_schema(cursor);
    let dropped = cursor.contains_all(&["on", "commit", "drop"]);
    let is_filled = is_table_with_query(cursor);
    let mut statement = if cursor.contains("as") && head.contains("table") {
        // CREATE TABLE AS runs its query: it may take locks or change settings.
        let ran = scan::primary(head.text, head.rest(), Kind::Ddl, PrimaryCause::Ddl);
        Statement { relations: [].into(), pin: ran.pin.filter(|p| *p != Pin::Temporary), ..ran }
    } else {
        Statement::new(Kind::Ddl, Some(PrimaryCause::Ddl))
    };
    if !is_filled {
        statement = statement.without_tables();
    }
    if temporary && !dropped {
        statement.pin = Some(Pin::Temporary);
    }
    statement
}

/// Whether it is `[UNLOGGED] TABLE … AS`, with `cursor` behind what else may stand in front: outside of parentheses AS
/// stands for nothing else there.
fn is_table_with_query(mut cursor: Cursor<'_>) -> bool {
    cursor.take("unlogged");
    if !cursor.take("table") {
        return false;
    }
    while !cursor.at_end() {
        if cursor.is("as") {
            return true;
        }
        if !cursor.is_punct(0, "(") || cursor.parenthesised().is_none() {
            cursor.next();
        }
    }
    false
}

/// Whether the thing to be made is named `pg_temp.…`: among the first words, before any parenthesis.
fn is_in_temporary_schema(mut cursor: Cursor<'_>) -> bool {
    for _ in 0..8 {
        if cursor.is_punct(0, "(") {
            return false;
        }
        if cursor.is("pg_temp") && cursor.is_punct(1, ".") {
            return true;
        }
        cursor.next();
    }
    false
}

/// TRUNCATE, with `cursor` behind that word.
pub(super) fn truncate(mut cursor: Cursor<'_>) -> Option<Statement> {
    let _ = cursor.rest().len() > 1 && cursor.take("table");
    let mut relations = Vec::new();
    loop {
        let _ = cursor.take("only");
        relations.push(cursor.name()?);
        let _ = cursor.take_operator("*");
        if !cursor.take_punct(",") {
            break;
        }
    }
    let uses = Some(Box::new(Uses::of_whole(&relations, Access::Change)));
    Some(Statement { relations: relations.into(), uses, ..Statement::new(Kind::Write, Some(PrimaryCause::Write)) })
}
