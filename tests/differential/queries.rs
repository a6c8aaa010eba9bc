//! SELECTs made of parts at random: what is selected, conditions, groups, HAVING, orders, DISTINCT, LIMIT and UNION, in
//! company with each other.
//!
//! Each has one right answer: rows are ordered by all that is selected, or not at all (and then by nobody cut off); no sum
//! depends on the order of its floating-point numbers.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// A table and its columns, by what can be done with them.
struct Table {
    name: &'static str,
    numbers: &'static [&'static str],
    texts: &'static [&'static str],
    /// Can be ordered and grouped, and no more.
    others: &'static [&'static str],
    conditions: &'static [&'static str],
}

const TABLES: &[Table] = &[
    Table {
        name: "ints",
        numbers: &["id", "v", "w", "v % 3", "id * 2"],
        texts: &["t", "upper(t)"],
        others: &["at", "a", "j", "v IS NULL"],
        conditions: &[
            "v > 3",
            "t IS NOT NULL",
            "id < 20",
            "w < 2",
            "t = 'a' OR v = 5",
            "id = 7",
            "id IN (1, 2, 30)",
            "false",
        ],
    },
    Table {
        name: "bigs",
        numbers: &["id", "v", "v + 1"],
        texts: &["id::text"],
        others: &["f", "NOT f"],
        conditions: &["f", "v IN (1, 2)", "id > 4", "id = 9000000000", "NOT f OR v IS NULL"],
    },
    Table {
        name: "words",
        numbers: &["small", "id % 4", "d"],
        texts: &["en", "de", "c", "lower(en)", "k"],
        others: &["i", "b", "ts", "ts::date"],
        conditions: &["en > 'coop'", "small IS NOT NULL", "id <> 3", "ts < '2024-01-01'", "id = 5"],
    },
    Table {
        name: "notes",
        numbers: &["int_id", "n"],
        texts: &["body", "body || '!'"],
        others: &["(int_id, n)"],
        conditions: &["n > 0", "body <> 'a'", "int_id = 3", "int_id > 10"],
    },
    Table {
        name: "dates",
        numbers: &["v", "v - 10"],
        texts: &["t"],
        others: &["day", "day + 1"],
        conditions: &["day > '2024-02-05'", "day = '2024-02-04'", "v % 2 = 0"],
    },
    Table {
        name: "uuids",
        numbers: &["v"],
        texts: &["left(id::text, 3)"],
        others: &["id", "at"],
        conditions: &["v = 1", "at IS NULL"],
    },
];

/// A SELECT.
pub fn select(random: &mut StdRng) -> String {
    let table = TABLES.choose(random).expect("there are some");
    match random.random_range(0..10) {
        0..4 => rows_of(table, random),
        4..9 => groups_of(table, random),
        _ => {
            let word = ["UNION", "UNION ALL", "INTERSECT", "EXCEPT"].choose(random).expect("some");
            let other = TABLES.choose(random).expect("some");
            let (one, two) = (pick(table.numbers, random), pick(other.numbers, random));
            let (here, there) = (condition(table, random), condition(other, random));
            // Of equal numbers that are written differently, such as 1 and 1.000, either could be shown.
            let (one, two) = (format!("({one})::numeric(30,3)"), format!("({two})::numeric(30,3)"));
            format!("SELECT {one} FROM {}{here} {word} SELECT {two} FROM {}{there} ORDER BY 1", table.name, other.name)
        }
    }
}

fn pick<'a>(from: &[&'a str], random: &mut StdRng) -> &'a str {
    from.choose(random).expect("there are some")
}

/// Any column, or what is made of one.
fn column(table: &Table, random: &mut StdRng) -> &'static str {
    let kinds = [table.numbers, table.texts, table.others];
    pick(kinds.choose(random).expect("some"), random)
}

fn condition(table: &Table, random: &mut StdRng) -> String {
    match random.random_range(0..6) {
        0..3 => format!(" WHERE {}", pick(table.conditions, random)),
        3 => format!(" WHERE ({}) AND ({})", pick(table.conditions, random), pick(table.conditions, random)),
        _ => String::new(),
    }
}

/// Rows as they are.
fn rows_of(table: &Table, random: &mut StdRng) -> String {
    let selected: Vec<&str> = (0..random.random_range(1..4)).map(|_| column(table, random)).collect();
    let is_distinct = random.random_bool(0.3);
    let mut sql = format!(
        "SELECT {}{} FROM {}{}",
        if is_distinct { "DISTINCT " } else { "" },
        selected.join(", "),
        table.name,
        condition(table, random)
    );
    // DISTINCT can only be ordered by what is selected.
    let before = (!is_distinct && random.random_bool(0.4)).then(|| column(table, random));
    sql += &order(before, selected.len(), random);
    sql
}

/// Aggregates, with groups or over all rows.
fn groups_of(table: &Table, random: &mut StdRng) -> String {
    let keys: Vec<&str> = (0..random.random_range(0..3)).map(|_| column(table, random)).collect();
    let mut selected: Vec<String> =
        keys.iter().filter(|_| random.random_bool(0.8)).map(|key| (*key).to_owned()).collect();
    for _ in 0..random.random_range(1..4) {
        selected.push(aggregate(table, random));
    }
    let mut sql = format!("SELECT {} FROM {}{}", selected.join(", "), table.name, condition(table, random));
    if !keys.is_empty() {
        sql += &format!(" GROUP BY {}", keys.join(", "));
    }
    if random.random_bool(0.3) {
        let (number, text) = (pick(table.numbers, random), pick(table.texts, random));
        let over = ["count(*) > 1", &format!("max({number}) > 2"), &format!("count(DISTINCT {text}) < 3")];
        sql += &format!(" HAVING {}", pick(&over, random));
    }
    let before = random.random_bool(0.3).then(|| aggregate(table, random));
    sql += &order(before.as_deref(), selected.len(), random);
    sql
}

fn aggregate(table: &Table, random: &mut StdRng) -> String {
    let (number, text, any) = (pick(table.numbers, random), pick(table.texts, random), column(table, random));
    let made = match random.random_range(0..16) {
        0 | 1 => "count(*)".to_owned(),
        2 => format!("count({any})"),
        3 => format!("count(DISTINCT {any})"),
        4 | 5 => format!("sum({number})"),
        6 | 7 => format!("avg({number})"),
        8 => format!("min({number})"),
        9 => format!("max({text})"),
        10 => format!("bool_and({number} > 1)"),
        11 => format!("array_agg({any} ORDER BY {any})"),
        12 => format!("string_agg({text}, ',' ORDER BY {text} DESC)"),
        13 if number != "d" => format!("stddev({number})"),
        14 if number != "d" => format!("var_pop({number})"),
        _ => format!("sum(DISTINCT {number})"),
    };
    match random.random_range(0..8) {
        0 => format!("{made} FILTER (WHERE {})", pick(table.conditions, random)),
        1 if made.starts_with("sum") || made.starts_with("count") => format!("{made} + 1"),
        _ => made,
    }
}

/// By something else first, if so, and then by all that is selected; and how many rows.
fn order(before: Option<&str>, columns: usize, random: &mut StdRng) -> String {
    if random.random_bool(0.3) {
        return String::new();
    }
    let places = (1..=columns).map(|place| place.to_string());
    let keys: Vec<String> = before.map(str::to_owned).into_iter().chain(places).collect();
    let ways = ["", " ASC", " DESC", " NULLS FIRST", " DESC NULLS LAST"];
    let keys: Vec<String> = keys.iter().map(|key| format!("{key}{}", pick(&ways, random))).collect();
    let limit = match random.random_range(0..5) {
        0 => " LIMIT 3".to_owned(),
        1 => format!(" OFFSET {} LIMIT {}", random.random_range(0..6), random.random_range(0..9)),
        _ => String::new(),
    };
    format!(" ORDER BY {}{limit}", keys.join(", "))
}
