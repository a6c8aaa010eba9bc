//! Transaction control by its tokens.
//!
//! Taken whole or not at all: `None` for what PostgreSQL's grammar would not take.

use super::{
    statement::{Kind, PrimaryCause, Statement, TransactionModes},
    tokens::Cursor,
};

/// A transaction command whose first keyword is `leading` (lower case, already read).
pub(super) fn parse(leading: &str, mut cursor: Cursor<'_>) -> Option<Statement> {
    let kind = match leading {
        "begin" => begin(&mut cursor)?,
        "start" if cursor.take("transaction") => Kind::Begin(modes(&mut cursor)?),
        "commit" if cursor.take("prepared") => two_phase(&mut cursor)?,
        "rollback" if cursor.take("prepared") => two_phase(&mut cursor)?,
        "commit" | "end" => Kind::Commit { chain: chain(&mut cursor)? },
        "rollback" | "abort" => rollback(leading, &mut cursor)?,
        "savepoint" => savepoint(&mut cursor, false)?,
        "release" => {
            // `savepoint` may itself be the name.
            let _ = cursor.rest().len() > 1 && cursor.take("savepoint");
            savepoint(&mut cursor, false)?
        }
        "prepare" if cursor.take("transaction") => two_phase(&mut cursor)?,
        _ => return None,
    };
    cursor.end()?;
    let primary = (kind == Kind::TwoPhase).then_some(PrimaryCause::Utility);
    Some(Statement::new(kind, primary))
}

fn noise(cursor: &mut Cursor<'_>) {
    let _ = cursor.take("work") || cursor.take("transaction");
}

fn begin(cursor: &mut Cursor<'_>) -> Option<Kind> {
    noise(cursor);
    Some(Kind::Begin(modes(cursor)?))
}

fn two_phase(cursor: &mut Cursor<'_>) -> Option<Kind> {
    cursor.take_string().map(|_| Kind::TwoPhase)
}

fn chain(cursor: &mut Cursor<'_>) -> Option<bool> {
    noise(cursor);
    if !cursor.take("and") {
        return Some(false);
    }
    let no = cursor.take("no");
    cursor.take("chain").then_some(!no)
}

fn rollback(leading: &str, cursor: &mut Cursor<'_>) -> Option<Kind> {
    noise(cursor);
    if leading == "rollback" && cursor.take("to") {
        let _ = cursor.rest().len() > 1 && cursor.take("savepoint");
        return savepoint(cursor, true);
    }
    Some(Kind::Rollback { chain: chain(cursor)? })
}

fn savepoint(cursor: &mut Cursor<'_>, rollback: bool) -> Option<Kind> {
    cursor.ident().map(|_| Kind::Savepoint { rollback })
}

/// Transaction modes, possibly none, with or without commas, up to the end.
pub(super) fn modes(cursor: &mut Cursor<'_>) -> Option<TransactionModes> {
    let mut modes = TransactionModes::default();
    let mut first = true;
    while !cursor.at_end() {
        let _ = !first && cursor.take_punct(",");
        first = false;
        if cursor.take_all(&["isolation", "level"]) {
            modes.serializable = Some(isolation_level(cursor)?);
        } else if cursor.take_all(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if cursor.take_all(&["read", "write"]) {
            modes.read_only = Some(false);
        } else if !cursor.take("deferrable") && !cursor.take_all(&["not", "deferrable"]) {
            return None;
        }
    }
    Some(modes)
}

fn isolation_level(cursor: &mut Cursor<'_>) -> Option<bool> {
    if cursor.take("serializable") {
        return Some(true);
    }
    let other = [["repeatable", "read"], ["read", "committed"], ["read", "uncommitted"]];
    other.iter().any(|level| cursor.take_all(level)).then_some(false)
}
