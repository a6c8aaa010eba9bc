//! Names and texts as SQL.

pub(super) use crate::pool::{quote_identifier as identifier, quote_literal as literal};

/// `"schema"."name"`
pub(super) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// Options of a server, a foreign table or a mapping: `"host" 'a', "port" '1'`.
pub(super) fn options<'a>(options: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let options: Vec<_> =
        options.into_iter().map(|(name, value)| format!("{} {}", identifier(name), literal(value))).collect();
    options.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_holds_it_is_one_name() {
        assert_eq!(qualified("Odd \"s\"", "t;--"), "\"Odd \"\"s\"\"\".\"t;--\"");
        assert_eq!(options([("a", "it's"), ("b", "x\\y")]), "\"a\" 'it''s', \"b\" E'x\\\\y'");
    }
}
