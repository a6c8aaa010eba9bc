//! One query or data-modifying statement through `sqlparser` → its summary.
//!
//! With `relate`, `ctes` and `merge` the only file that knows the parser's tree. The tree is dropped here: it is hundreds of
//! times the size of the summary. What the caller passes is bounded in length, depth and operators, because
//! dropping a deep tree recurses without a limit.

use super::{
    ctes::Ctes,
    facts::Facts,
    functions,
    lexer::Token,
    literals::literals_before,
    relate::relate,
    settings::tells_of_one_server,
    statement::{Kind, Name, Pin, PrimaryCause, Statement},
    tokens::is_keyword,
};
use sqlparser::{
    ast::{
        Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query,
        Select, SetExpr, Statement as Tree, TableFactor, Value, Visit, Visitor,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
};
use std::{
    borrow::Cow,
    ops::{ControlFlow, Range},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// How deep the parser may recurse, in its own steps; a parenthesis takes several.
pub(super) const RECURSION_LIMIT: usize = 200;

/// The summary of the statement at `span`, whose tokens are `tokens`; `None` if it cannot be parsed.
pub(super) fn summarise(text: &[u8], span: Range<usize>, tokens: &[Token]) -> Option<Statement> {
    let respelt = respell(text, span.clone(), tokens);
    let sql = String::from_utf8_lossy(&respelt);
    let literals = literals_before(text, span.start);
    // A parser of somebody else's, over bytes that a client chose: its panic is a text not parsed.
    catch_unwind(AssertUnwindSafe(|| parse(&sql, literals))).ok().flatten()
}

/// The same statement in the parser's dialect: `FROM ONLY t` without ONLY, which it would take for a
/// table of that name, `ONLY (t)` as `t`, `TABLE t` as `SELECT * FROM t`, and `FOR NO KEY UPDATE` as `FOR UPDATE`: any lock
/// is one here. The words in front are reserved in PostgreSQL. And without `OVERRIDING SYSTEM VALUE`, which changes no value that is given
/// (`OVERRIDING USER VALUE` does).
fn respell<'a>(text: &'a [u8], span: Range<usize>, tokens: &[Token]) -> Cow<'a, [u8]> {
    let mut sql = Vec::new();
    let mut copied = span.start;
    let mut before = None::<&Token>;
    // Of `ONLY (t)`: which parenthesis is to go next.
    let mut dropping = None::<&[u8]>;
    let overrides = |at: usize| {
        let mut words = ["overriding", "system", "value"].iter().zip(tokens.get(at..).unwrap_or_default());
        words.len() == 3 && words.all(|(keyword, token)| is_keyword(text, token, keyword))
    };
    for (index, token) in tokens.iter().enumerate() {
        let precedes = |keyword: &str| tokens.get(index + 1).is_some_and(|next| is_keyword(text, next, keyword));
        let follows =
            |keywords: &[&str]| before.is_some_and(|b| keywords.iter().any(|keyword| is_keyword(text, b, keyword)));
        let byte_before = before.map_or(b"".as_slice(), |b| b.bytes(text));
        let other: Option<&[u8]> = if is_keyword(text, token, "only") {
            let is_only = !follows(&["row", "rows", "as"]) && byte_before != b".";
            dropping = is_only.then_some(b"(");
            is_only.then_some(b" ")
        } else if dropping == Some(token.bytes(text)) {
            dropping = (dropping == Some(b"(")).then_some(b")");
            Some(b" ")
        } else if dropping == Some(b"(") {
            dropping = None;
            None
        } else if is_keyword(text, token, "no") && follows(&["for"]) && precedes("key")
            || is_keyword(text, token, "key") && follows(&["for"]) && precedes("share")
            || is_keyword(text, token, "key") && follows(&["no"]) && precedes("update")
            || (0..3).any(|back| index.checked_sub(back).is_some_and(overrides))
        {
            Some(b" ")
        } else if is_keyword(text, token, "table") {
            let starts = matches!(byte_before, b"" | b"(" | b")");
            (starts || follows(&["union", "except", "intersect", "all", "distinct"])).then_some(b"SELECT * FROM")
        } else {
            None
        };
        if let Some(other) = other {
            sql.extend_from_slice(&text[copied..token.start]);
            sql.extend_from_slice(other);
            copied = token.end;
        }
        before = Some(token);
    }
    if sql.is_empty() && copied == span.start {
        return Cow::Borrowed(&text[span]);
    }
    sql.extend_from_slice(&text[copied..span.end]);
    Cow::Owned(sql)
}

fn parse(sql: &str, literals_before: usize) -> Option<Statement> {
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(RECURSION_LIMIT);
    let trees = parser.try_with_sql(sql).ok()?.parse_statements().ok()?;
    let [tree] = trees.as_slice() else { return None };
    let writes = match tree {
        Tree::Query(query) => is_write(&query.body),
        Tree::Insert(_) | Tree::Update(_) | Tree::Delete(_) | Tree::Merge(_) => true,
        _ => return None,
    };
    let mut walker = Walker::default();
    let _ = tree.visit(&mut walker);
    if walker.is_malformed {
        let kind = if writes { Kind::Write } else { Kind::Query };
        return Some(Statement::new(kind, Some(PrimaryCause::Unparsed)).without_tables());
    }
    let mut statement = walker.finish(writes);
    statement.uses = Some(Box::new(relate(tree, sql, literals_before)));
    Some(statement)
}

/// Whether a `WITH …` goes on with INSERT, UPDATE, DELETE or MERGE.
fn is_write(mut body: &SetExpr) -> bool {
    while let SetExpr::Query(query) = body {
        body = &query.body;
    }
    matches!(body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_))
}

#[derive(Default)]
struct Walker {
    facts: Facts,
    ctes: Ctes,
    /// The name of a function in FROM, which the visitor is about to report as a relation.
    called: Option<*const ObjectName>,
    into: bool,
    locks: bool,
    modifies: bool,
    /// It names a table by a word that PostgreSQL takes for none there.
    is_malformed: bool,
}

impl Walker {
    fn finish(self, writes: bool) -> Statement {
        let (kind, cause) = if writes || self.into {
            (Kind::Write, Some(PrimaryCause::Write))
        } else if self.modifies {
            (Kind::Query, Some(PrimaryCause::DataModifyingCte))
        } else if self.locks {
            (Kind::Query, Some(PrimaryCause::LockingClause))
        } else {
            (Kind::Query, None)
        };
        self.facts.into_statement(kind, cause)
    }

    fn call(&mut self, function: &Function) {
        let Some(name) = name_of(&function.name) else { return };
        if functions::may_be_builtin(&name) {
            match &*name.name {
                "set_config" if !is_literally_local(&function.args) => self.facts.set_config(),
                "current_setting" if asks_one_server(&function.args) => {
                    self.facts.cause(PrimaryCause::ServerFunction);
                }
                _ => {}
            }
        }
        self.facts.function(name);
    }
}

impl Visitor for Walker {
    type Break = ();

    fn pre_visit_statement(&mut self, tree: &Tree) -> ControlFlow<()> {
        self.modifies |= !matches!(tree, Tree::Query(_));
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.locks |= !query.locks.is_empty();
        self.ctes.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.ctes.leave(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if let Some(into) = &select.into {
            self.into = true;
            if into.temporary {
                self.facts.pin = Some(Pin::Temporary);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } => {
                self.called = Some(&raw const *name);
                self.facts.functions(name);
            }
            TableFactor::Function { name, .. } => self.facts.functions(name),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        if self.called.take().is_some_and(|called| std::ptr::eq(called, relation)) {
            return ControlFlow::Continue(());
        }
        self.is_malformed |= begins_clause(relation);
        if let Some(name) = name_of(relation)
            && !self.ctes.has(&name)
        {
            self.facts.relation(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            self.call(function);
        }
        ControlFlow::Continue(())
    }
}

impl Facts {
    /// A function called in FROM. A `set_config` there counts as not local.
    fn functions(&mut self, name: &ObjectName) {
        let Some(name) = name_of(name) else { return };
        if functions::may_be_builtin(&name) && &*name.name == "set_config" {
            self.set_config();
        }
        self.function(name);
    }
}

/// Whether that is a reserved word, unquoted, that the parser has taken for a table's name where the name is missing: the
/// server says so, and runs nothing.
/// <https://www.postgresql.org/docs/current/sql-keywords-appendix.html>
fn begins_clause(relation: &ObjectName) -> bool {
    const WORDS: [&str; 15] = [
        "where",
        "group",
        "having",
        "order",
        "limit",
        "offset",
        "fetch",
        "for",
        "window",
        "union",
        "except",
        "intersect",
        "on",
        "using",
        "returning",
    ];
    match &*relation.0 {
        [ObjectNamePart::Identifier(Ident { value, quote_style: None, .. })] => {
            WORDS.iter().any(|word| value.eq_ignore_ascii_case(word))
        }
        _ => false,
    }
}

pub(super) fn name_of(object: &ObjectName) -> Option<Name> {
    let mut parts = object.0.iter().rev().map(|part| match part {
        ObjectNamePart::Identifier(ident) => folded(ident),
        ObjectNamePart::Function(function) => folded(&function.name),
    });
    let name = parts.next()?;
    Some(Name { schema: parts.next(), name })
}

pub(super) fn folded(ident: &Ident) -> Box<str> {
    match ident.quote_style {
        None => ident.value.to_ascii_lowercase().into(),
        Some(_) => ident.value.as_str().into(),
    }
}

fn argument(arguments: &FunctionArguments, index: usize) -> Option<&Value> {
    let FunctionArguments::List(list) = arguments else { return None };
    match list.args.get(index)? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) => Some(&value.value),
        _ => None,
    }
}

fn is_literally_local(arguments: &FunctionArguments) -> bool {
    matches!(argument(arguments, 2), Some(Value::Boolean(true)))
}

fn asks_one_server(arguments: &FunctionArguments) -> bool {
    match argument(arguments, 0) {
        Some(Value::SingleQuotedString(name)) => tells_of_one_server(&name.to_ascii_lowercase()),
        _ => false,
    }
}
