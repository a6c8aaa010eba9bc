//! What a statement says of the rows that it wants: each place where it names a table, and which values
//! the columns can have there. Whoever knows which column places a row finds in it where the rows are.
//!
//! A fact about a use means: rows of the table, at this place, in which the column has none of these
//! values have no influence on the statement's result. What the text does not say in so simple a way is
//! left out, so that fewer facts are the safe mistake.

use super::statement::Name;

/// Of one statement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uses {
    /// Each place where a table is named, but for the statement's own CTEs.
    pub tables: Box<[TableUse]>,
    /// What is known of them.
    pub facts: Box<[Fact]>,
    /// Rows that are put into tables.
    pub inserts: Box<[Insert]>,
    /// Columns that are set to something else.
    pub assignments: Box<[Assignment]>,
}

impl Uses {
    /// Of the whole of these tables.
    pub(super) fn of_whole<'n>(relations: impl IntoIterator<Item = &'n Name>, access: Access) -> Self {
        let tables = relations.into_iter().map(|relation| TableUse { relation: relation.clone(), access });
        Self { tables: tables.collect(), ..Self::default() }
    }

    /// Bytes that it keeps alive, about.
    pub(super) fn weight(&self) -> usize {
        let name = |name: &Name| name.name.len() + name.schema.as_deref().map_or(0, str::len);
        let tables: usize = self.tables.iter().map(|table| name(&table.relation)).sum();
        let facts: usize = self.facts.iter().map(|fact| fact.column.len() + size_of_val(&*fact.values)).sum();
        let rows = |insert: &Insert| insert.rows.iter().map(|row| size_of_val(&**row)).sum::<usize>();
        let inserts: usize = self.inserts.iter().map(|insert| size_of_val(&*insert.rows) + rows(insert)).sum();
        let lists = size_of_val(&*self.tables)
            + size_of_val(&*self.facts)
            + size_of_val(&*self.inserts)
            + size_of_val(&*self.assignments);
        size_of::<Self>() + lists + tables + facts + inserts
    }
}

/// One place where a table is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableUse {
    /// The table, or a view.
    pub relation: Name,
    /// What is done to it there.
    pub access: Access,
}

/// What is done to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its rows are read, or locked.
    Read,
    /// Its rows are changed or removed.
    Change,
    /// Rows are put into it.
    Insert,
}

/// At this place a column has one of these values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Index in [`Uses::tables`].
    pub table: usize,
    /// As PostgreSQL keeps the name.
    pub column: Box<str>,
    /// One of them; not empty.
    pub values: Box<[Operand]>,
}

/// Rows for a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    /// Index in [`Uses::tables`].
    pub table: usize,
    /// Which columns the values are for; `None`: the table's, from the first one on.
    pub columns: Option<Box<[Box<str>]>>,
    /// Of a query it is one row, which stands for all of them.
    pub rows: Box<[Box<[Operand]>]>,
    /// Whether a row has all the values that it gives: `VALUES`.
    pub are_rows_whole: bool,
}

/// A column is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Index in [`Uses::tables`].
    pub table: usize,
    /// As PostgreSQL keeps the name.
    pub column: Box<str>,
    /// To what.
    pub value: Operand,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A literal of the text.
    Literal {
        /// Its place among all literals of the text, from 0.
        ordinal: usize,
        /// With a minus in front.
        is_negative: bool,
        /// It is cast to this type.
        cast: Option<CastType>,
    },
    /// A parameter of the extended protocol.
    Parameter {
        /// From 0: `$1` is 0.
        index: usize,
        /// It is cast to this type.
        cast: Option<CastType>,
    },
    /// Any element of an array that is a parameter: `= ANY($1)`.
    Elements {
        /// From 0: `$1` is 0.
        index: usize,
    },
    /// Whatever a column has at another place.
    Column {
        /// Index in [`Uses::tables`].
        table: usize,
        /// As PostgreSQL keeps the name.
        column: Box<str>,
    },
    /// NULL.
    Null,
    /// `DEFAULT`.
    Default,
    /// Anything.
    Unknown,
}

/// Types that rows can be placed by, as far as a cast to them says which value it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CastType {
    /// `int2`, `int4`, `int8`, and `numeric` without a scale.
    Number,
    /// `text`, and `varchar` without a length.
    Text,
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `timestamptz`
    Timestamptz,
    /// `bytea`
    Bytea,
}
