//! Which names are those of a statement's own WITH queries, at the place that a walk over the tree has reached.

use sqlparser::ast::Query;

use super::statement::Name;
use super::tree::folded;

/// The WITH lists around a place.
#[derive(Default)]
pub(super) struct Ctes {
    scopes: Vec<Scope>,
}

/// The WITH list of one query.
#[derive(Default)]
struct Scope {
    ctes: Vec<(*const Query, Box<str>)>,
    /// So many of them, from the first on, are visible to what is being walked.
    visible: usize,
}

impl Ctes {
    /// The walk begins with this query.
    pub(super) fn enter(&mut self, query: &Query) {
        let mut scope = Scope::default();
        if let Some(with) = &query.with {
            scope.ctes = with.cte_tables.iter().map(|c| (&raw const *c.query, folded(&c.alias.name))).collect();
            // Without RECURSIVE a WITH query sees only those before it.
            scope.visible = if with.recursive { scope.ctes.len() } else { 0 };
        }
        self.scopes.push(scope);
    }

    /// The walk is done with it.
    pub(super) fn leave(&mut self, query: &Query) {
        self.scopes.pop();
        if let Some(parent) = self.scopes.last_mut()
            && let Some(i) = parent.ctes.iter().position(|(cte, _)| std::ptr::eq(*cte, query))
        {
            parent.visible = parent.visible.max(i + 1);
        }
    }

    /// Whether the name is one of theirs here.
    pub(super) fn has(&self, name: &Name) -> bool {
        name.schema.is_none()
            && self.scopes.iter().any(|s| s.ctes.iter().take(s.visible).any(|(_, cte)| *cte == name.name))
    }
}
