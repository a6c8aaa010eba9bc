//! SET, RESET and SHOW by their tokens.
//!
//! Every spelling comes out under the setting's own name, so that a session can remember it and say
//! it again. A value that is not a plain constant becomes [`Setting::Opaque`]: no part of a
//! client's text is ever repeated to a server unless its meaning is known.

use super::{
    lexer::{Lexer, Token, TokenKind},
    statement::{Kind, PrimaryCause, Setting, Statement, TransactionModes},
    tokens::{Cursor, fold},
    transaction,
};

/// SET, with `cursor` behind that word.
pub(super) fn set(mut cursor: Cursor<'_>) -> Option<Statement> {
    if cursor.take("constraints") {
        // Ends with the transaction, and harmless anywhere.
        return Some(Statement::new(Kind::Utility, None));
    }
    let local = cursor.take("local");
    if !local && cursor.is("session") && !cursor.is_at(1, "authorization") {
        cursor.next();
        if cursor.take_all(&["characteristics", "as", "transaction"]) {
            transaction::modes(&mut cursor)?;
            return Some(Statement::new(Kind::Set(Setting::Opaque), None));
        }
    }
    if cursor.take("transaction") {
        return set_transaction(cursor);
    }
    let change = assignment(cursor)?;
    if let Change::To(name, Some(value)) = &change
        && let Some(modes) = modes_by_setting(name, value)
    {
        return Some(Statement::new(Kind::SetTransaction(modes), None));
    }
    let setting = match change {
        Change::Opaque => Setting::Opaque,
        Change::To(name, value) if local => Setting::Local { name, value },
        Change::To(name, value) => Setting::Session { name, value },
    };
    Some(Statement::new(Kind::Set(setting), None))
}

fn set_transaction(mut cursor: Cursor<'_>) -> Option<Statement> {
    if cursor.take("snapshot") {
        // A snapshot lives in the server that exported it.
        cursor.take_string()?;
        cursor.end()?;
        let kind = Kind::SetTransaction(TransactionModes::default());
        return Some(Statement::new(kind, Some(PrimaryCause::ServerFunction)));
    }
    if cursor.at_end() {
        return None;
    }
    Some(Statement::new(Kind::SetTransaction(transaction::modes(&mut cursor)?), None))
}

/// `SET transaction_read_only = on` is SET TRANSACTION READ ONLY by another name.
fn modes_by_setting(name: &str, value: &str) -> Option<TransactionModes> {
    let value = Setting::constant_value(value).map(|v| v.to_ascii_lowercase());
    let mut modes = TransactionModes::default();
    match name {
        "transaction_read_only" => modes.read_only = value.as_deref().and_then(boolean),
        "transaction_isolation" => modes.serializable = value.map(|v| v == "serializable"),
        "transaction_deferrable" => {}
        _ => return None,
    }
    Some(modes)
}

/// A boolean setting's value, in the spellings that PostgreSQL takes (unique prefixes left out).
pub(super) fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

enum Change {
    To(Box<str>, Option<Box<str>>),
    Opaque,
}

fn assignment(mut cursor: Cursor<'_>) -> Option<Change> {
    if cursor.is("time") && cursor.is_at(1, "zone") {
        cursor.take_all(&["time", "zone"]);
        return time_zone(cursor);
    }
    // The names of settings are keywords of these spellings only when no `=` or TO follows.
    let special = !cursor.rest().get(1).is_some_and(|t| is_assign(cursor.text, t)) && !cursor.is_punct(1, ".");
    if special && cursor.take_all(&["session", "authorization"]) {
        return value_of("session_authorization", cursor);
    }
    if special && cursor.take("role") {
        return value_of("role", cursor);
    }
    if special && cursor.take("schema") {
        cursor.peek().filter(|t| t.kind != TokenKind::Word)?;
        return value_of("search_path", cursor);
    }
    if special && cursor.take("names") {
        if cursor.at_end() {
            return Some(Change::To("client_encoding".into(), None));
        }
        return value_of("client_encoding", cursor);
    }
    if special && cursor.take_all(&["xml", "option"]) {
        return value_of("xmloption", cursor);
    }
    let name = setting_name(&mut cursor)?;
    if cursor.take_all(&["from", "current"]) {
        cursor.end()?;
        return Some(Change::Opaque);
    }
    if !cursor.take("to") && !cursor.take_operator("=") {
        return None;
    }
    value_of(&name, cursor)
}

fn is_assign(text: &[u8], token: &Token) -> bool {
    matches!(token.kind, TokenKind::Operator | TokenKind::Word)
        && matches!(token.bytes(text).to_ascii_lowercase().as_slice(), b"=" | b"to")
}

/// A setting's name, lower case: names of settings ignore case, even in quotes.
fn setting_name(cursor: &mut Cursor<'_>) -> Option<Box<str>> {
    let mut name = cursor.ident()?.0.to_ascii_lowercase();
    while cursor.take_punct(".") {
        name.push('.');
        name.push_str(&cursor.ident()?.0.to_ascii_lowercase());
    }
    Some(name.into())
}

fn time_zone(mut cursor: Cursor<'_>) -> Option<Change> {
    let name = Box::from("timezone");
    if (cursor.is("local") || cursor.is("default")) && cursor.rest().len() == 1 {
        return Some(Change::To(name, None));
    }
    if !cursor.take("interval") {
        return value_of(&name, cursor);
    }
    // `SET timezone TO` has no INTERVAL syntax, but takes a string that says the same
    // (check_timezone in variable.c). With a precision or a field it is left alone.
    let value = cursor.take_string()?;
    if !cursor.at_end() || value.kind != TokenKind::String || !value.bytes(cursor.text).starts_with(b"'") {
        return Some(Change::Opaque);
    }
    let Ok(value) = std::str::from_utf8(value.bytes(cursor.text)) else { return Some(Change::Opaque) };
    Some(Change::To(name, Some(format!("'INTERVAL {}'", value.replace('\'', "''")).into())))
}

/// What is left of `cursor` as a list of constants.
fn value_of(name: &str, cursor: Cursor<'_>) -> Option<Change> {
    let (first, last) = (cursor.rest().first()?, cursor.rest().last()?);
    if cursor.is("default") && cursor.rest().len() == 1 {
        return Some(Change::To(name.into(), None));
    }
    let plain = constants(cursor);
    let value = std::str::from_utf8(&cursor.text[first.start..last.end]);
    Some(match value {
        Ok(value) if plain => Change::To(name.into(), Some(value.into())),
        _ => Change::Opaque,
    })
}

fn constants(mut cursor: Cursor<'_>) -> bool {
    loop {
        let signed = cursor.take_operator("-") || cursor.take_operator("+");
        match cursor.next().map(|t| t.kind) {
            Some(TokenKind::Number) => {}
            Some(TokenKind::Word | TokenKind::QuotedIdent | TokenKind::String | TokenKind::EscapeString) if !signed => {
            }
            Some(TokenKind::DollarString) if !signed => {}
            _ => return false,
        }
        if cursor.at_end() {
            return true;
        }
        if !cursor.take_punct(",") {
            return false;
        }
    }
}

/// RESET, with `cursor` behind that word.
pub(super) fn reset(mut cursor: Cursor<'_>) -> Option<Statement> {
    let setting = if cursor.is("all") && cursor.rest().len() == 1 {
        cursor.next();
        Setting::ResetAll
    } else {
        Setting::Reset { name: special_name(&mut cursor).or_else(|| setting_name(&mut cursor))? }
    };
    cursor.end()?;
    Some(Statement::new(Kind::Set(setting), None))
}

/// The names of settings that RESET and SHOW spell in several words.
fn special_name(cursor: &mut Cursor<'_>) -> Option<Box<str>> {
    let spellings: [(&[&str], &str); 3] = [
        (&["time", "zone"], "timezone"),
        (&["session", "authorization"], "session_authorization"),
        (&["transaction", "isolation", "level"], "transaction_isolation"),
    ];
    spellings.iter().find(|(words, _)| cursor.take_all(words)).map(|(_, name)| (*name).into())
}

/// SHOW, with `cursor` behind that word.
pub(super) fn show(mut cursor: Cursor<'_>) -> Option<Statement> {
    let name = special_name(&mut cursor).or_else(|| setting_name(&mut cursor))?;
    cursor.end()?;
    if let Some(name) = name.strip_prefix("pgsluice.") {
        // What the session has seen is all known on the primary.
        let primary = (name == "session_token").then_some(PrimaryCause::SessionState);
        return Some(Statement::new(Kind::ShowOwn { name: name.into() }, primary));
    }
    let primary = tells_of_one_server(&name).then_some(PrimaryCause::ServerFunction);
    Some(Statement::new(Kind::Query, primary).without_tables())
}

/// Settings whose value differs from server to server: clients ask for them to learn where they are.
pub(super) fn tells_of_one_server(name: &str) -> bool {
    matches!(
        name,
        "transaction_read_only"
            | "in_hot_standby"
            | "data_directory"
            | "config_file"
            | "hba_file"
            | "ident_file"
            | "external_pid_file"
            | "port"
            | "listen_addresses"
            | "unix_socket_directories"
            | "cluster_name"
            | "hot_standby"
            | "primary_conninfo"
            | "primary_slot_name"
            | "synchronous_standby_names"
    ) || name.starts_with("recovery_")
}

impl Setting {
    /// The value of one simple SQL constant: a string, number or word; `None` for a list, or for a
    /// string whose escapes would have to be interpreted.
    pub fn constant_value(value: &str) -> Option<String> {
        let text = value.as_bytes();
        let mut tokens = Lexer::new(text);
        let first = tokens.next()?;
        let spelt = |token: &Token| value.get(token.start..token.end);
        if first.kind == TokenKind::Operator {
            let number = tokens.next().filter(|t| t.kind == TokenKind::Number)?;
            let sign = spelt(&first).filter(|s| matches!(*s, "-" | "+"))?;
            return tokens.next().is_none().then(|| Some(format!("{sign}{}", spelt(&number)?)))?;
        }
        if tokens.next().is_some() {
            return None;
        }
        match first.kind {
            TokenKind::Number => spelt(&first).map(str::to_owned),
            TokenKind::Word | TokenKind::QuotedIdent => fold(text, &first).map(String::from),
            TokenKind::DollarString => {
                let spelt = spelt(&first)?;
                let tag = spelt[1..].find('$')? + 2;
                spelt.get(tag..spelt.len() - tag).map(str::to_owned)
            }
            TokenKind::String | TokenKind::EscapeString => unquote(spelt(&first)?),
            _ => None,
        }
    }
}

/// The inside of `'…'`, `N'…'` or `E'…'` (without a backslash), in one piece.
fn unquote(spelt: &str) -> Option<String> {
    let (prefix, quoted) = spelt.split_at(spelt.find('\'')?);
    let plain = match prefix {
        "" | "n" | "N" => true,
        "e" | "E" => !quoted.contains('\\'),
        _ => false,
    };
    let inner = quoted.strip_prefix('\'')?.strip_suffix('\'')?;
    let whole = !inner.replace("''", "").contains('\'');
    (plain && whole).then(|| inner.replace("''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_lose_their_quotes() {
        let cases = [
            ("'x'", Some("x")),
            ("'it''s'", Some("it's")),
            ("Strong", Some("strong")),
            ("\"Strong\"", Some("Strong")),
            ("100", Some("100")),
            ("-1.5", Some("-1.5")),
            ("E'a''b'", Some("a'b")),
            ("E'a\\n'", None),
            ("$$a'b$$", Some("a'b")),
            ("$q$a$q$", Some("a")),
            ("'a'\n'b'", None),
            ("a, b", None),
            ("", None),
            ("- -1", None),
            ("'open", None),
        ];
        for (value, expected) in cases {
            assert_eq!(Setting::constant_value(value).as_deref(), expected, "{value}");
        }
    }
}
