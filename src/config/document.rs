//! The TOML document with positions: sections are opened against their list of keys, and every value
//! is read under its key's path, so that a mistake knows where it stands.
//!
//! Reading never stops at a mistake. A value that is wrong is recorded and read as [`Setting::wrong`],
//! so that rules over several keys do not complain a second time.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Complaint, Mistake, Place};
use super::keys::SectionKeys;

/// Collects mistakes, and knows lines and columns.
#[derive(Debug)]
pub(super) struct Mistakes<'t> {
    text: &'t str,
    found: Vec<(usize, Mistake)>,
}

impl<'t> Mistakes<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    /// Records what is wrong at a byte offset.
    pub(super) fn add(&mut self, offset: usize, key: impl Into<String>, complaint: Complaint) {
        let Complaint { problem, expected, suggestion } = complaint;
        let place = Some(place(self.text, offset));
        self.found.push((offset, Mistake { place, key: key.into(), problem, expected, suggestion }));
    }

    /// All of them in the document's order.
    pub(super) fn into_vec(mut self) -> Vec<Mistake> {
        self.found.sort_by_key(|(offset, _)| *offset);
        self.found.into_iter().map(|(_, mistake)| mistake).collect()
    }
}

/// Line and column of a byte offset; an offset inside a character is the character's own.
pub(super) fn place(text: &str, offset: usize) -> Place {
    let before = text.get(..text.floor_char_boundary(offset)).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or("").trim_start_matches('\u{feff}').chars().count() + 1;
    Place { line: before.bytes().filter(|byte| *byte == b'\n').count() + 1, column }
}

/// A value read from the file, or its default.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<T> {
    value: Option<T>,
    offset: Option<usize>,
}

impl<T> Default for Setting<T> {
    /// Neither a value nor a place: for what is missing.
    fn default() -> Self {
        Self { value: None, offset: None }
    }
}

impl<T> Setting<T> {
    fn absent(default: Option<T>) -> Self {
        Self { value: default, offset: None }
    }

    fn wrong(offset: usize) -> Self {
        Self { value: None, offset: Some(offset) }
    }

    /// The value, for rules over several keys; `None` if it is wrong or missing, which has been said already.
    pub(super) fn sound(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Where it stands, if it stands in the file.
    pub(super) fn offset(&self) -> Option<usize> {
        self.offset
    }

    /// The value, for the result.
    pub(super) fn take(self) -> Option<T> {
        self.value
    }
}

/// One value under its key's path.
#[derive(Debug, Clone)]
pub(super) struct Item<'d> {
    pub(super) path: String,
    pub(super) offset: usize,
    pub(super) value: &'d DeValue<'d>,
}

impl<'d> Item<'d> {
    fn new(path: String, value: &'d Spanned<DeValue<'d>>) -> Self {
        Self { path, offset: value.span().start, value: value.get_ref() }
    }

    /// The elements of an array, each under its index; anything else is a mistake.
    pub(super) fn elements(&self, mistakes: &mut Mistakes<'_>, wanted: &str) -> Option<Vec<Item<'d>>> {
        let DeValue::Array(array) = self.value else {
            let complaint = Complaint::new(format!("is {}", kind(self.value))).expected(wanted);
            mistakes.add(self.offset, &*self.path, complaint);
            return None;
        };
        let items = array.iter().enumerate();
        Some(items.map(|(index, value)| Item::new(format!("{}[{index}]", self.path), value)).collect())
    }

    /// Opens this value as a table with these keys, and records the keys that it should not have.
    pub(super) fn section(&self, mistakes: &mut Mistakes<'_>, keys: &'static SectionKeys) -> Option<Section<'d>> {
        let DeValue::Table(table) = self.value else {
            let written = format!("a table, written {}", keys.header());
            mistakes.add(
                self.offset,
                &*self.path,
                Complaint::new(format!("is {}", kind(self.value))).expected(written),
            );
            return None;
        };
        Some(Section::open(mistakes, self.path.clone(), self.offset, table, keys))
    }
}

/// A table of the file whose keys are known.
#[derive(Debug)]
pub(super) struct Section<'d> {
    /// `pool`, `shards[0]`; empty for the file itself.
    path: String,
    /// Of its header.
    offset: usize,
    table: Option<&'d DeTable<'d>>,
    keys: &'static SectionKeys,
}

impl<'d> Section<'d> {
    /// The file itself.
    pub(super) fn file(mistakes: &mut Mistakes<'_>, table: &'d DeTable<'d>, keys: &'static SectionKeys) -> Self {
        Self::open(mistakes, String::new(), 0, table, keys)
    }

    fn open(
        mistakes: &mut Mistakes<'_>,
        path: String,
        offset: usize,
        table: &'d DeTable<'d>,
        keys: &'static SectionKeys,
    ) -> Self {
        let section = Self { path, offset, table: Some(table), keys };
        for key in table.keys().filter(|key| !keys.keys.contains(&&**key.get_ref())) {
            mistakes.add(key.span().start, section.path_of(key.get_ref()), keys.unknown(key.get_ref()));
        }
        section
    }

    fn absent(path: String, keys: &'static SectionKeys) -> Self {
        Self { path, offset: 0, table: None, keys }
    }

    /// Its key path: `pool`, `shards[0]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn path_of(&self, key: &str) -> String {
        let key: String = key.chars().flat_map(char::escape_debug).collect();
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, if the file has one.
    pub(super) fn item(&self, key: &'static str) -> Option<Item<'d>> {
        debug_assert!(self.keys.keys.contains(&key), "{key} is not listed for [{}]", self.keys.name);
        let value = self.table?.get(key)?;
        Some(Item::new(self.path_of(key), value))
    }

    /// A table inside this one; one that the file leaves out, or gets wrong, has only defaults.
    pub(super) fn table(
        &self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        keys: &'static SectionKeys,
    ) -> Section<'d> {
        let opened = self.item(key).and_then(|item| item.section(mistakes, keys));
        opened.unwrap_or_else(|| Section::absent(self.path_of(key), keys))
    }

    /// The tables of `[[key]]`, none if the file has none; `None` if it is something else.
    pub(super) fn tables(
        &self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        keys: &'static SectionKeys,
    ) -> Option<Vec<Section<'d>>> {
        let Some(item) = self.item(key) else { return Some(Vec::new()) };
        let elements = item.elements(mistakes, &format!("an array of tables, each written {}", keys.header()))?;
        let opened: Vec<_> = elements.iter().map(|element| element.section(mistakes, keys)).collect();
        opened.into_iter().collect()
    }

    /// Reads a key that has a default.
    pub(super) fn read<T>(
        &self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Setting<T> {
        self.read_item(mistakes, key, parse).unwrap_or_else(|| Setting::absent(Some(default)))
    }

    /// Reads a key that may be left out.
    pub(super) fn optional<T>(
        &self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Setting<Option<T>> {
        self.read(mistakes, key, None, |value| parse(value).map(Some))
    }

    /// Reads a key that must be there.
    pub(super) fn required<T>(
        &self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Setting<T> {
        self.read_item(mistakes, key, parse).unwrap_or_else(|| {
            mistakes.add(self.offset, self.path_of(key), Complaint::new("is missing").expected(expected));
            Setting::absent(None)
        })
    }

    fn read_item<T>(
        &self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<Setting<T>> {
        let item = self.item(key)?;
        Some(match parse(item.value) {
            Ok(value) => Setting { value: Some(value), offset: Some(item.offset) },
            Err(complaint) => {
                mistakes.add(item.offset, item.path, complaint);
                Setting::wrong(item.offset)
            }
        })
    }

    /// Says what is wrong with a key's value in the light of other keys.
    pub(super) fn complain<T>(
        &self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        setting: &Setting<T>,
        complaint: Complaint,
    ) {
        mistakes.add(setting.offset().unwrap_or(self.offset), self.path_of(key), complaint);
    }

    /// Where a key's value stands, for complaints about it once it has been read.
    pub(super) fn place(&self, key: &'static str) -> Setting<()> {
        self.item(key).map_or_else(|| Setting::absent(None), |item| Setting::wrong(item.offset))
    }

    /// Says what is wrong with this section as a whole.
    pub(super) fn complain_whole(&self, mistakes: &mut Mistakes<'_>, complaint: Complaint) {
        mistakes.add(self.offset, &*self.path, complaint);
    }
}

/// What a value is, for a message that must not show it.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(array) if array.iter().any(|element| element.get_ref().is_table()) => "an array of tables",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters() {
        let text = "\u{feff}ä = 1\r\n\tx = \"é\" # z\n";
        let cases = [(3, (1, 1)), (6, (1, 3)), (11, (2, 1)), (12, (2, 2)), (usize::MAX, (3, 1))];
        for (offset, (line, column)) in cases {
            assert_eq!(place(text, offset), Place { line, column }, "{offset}");
        }
        let inside = text.find('é').expect("é") + 1;
        assert_eq!(place(text, inside), Place { line: 2, column: 7 });
    }
}
