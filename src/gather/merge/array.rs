//! Values of one column, from several rows, as one array.

/// The binary format of `array_recv` in
/// <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/utils/adt/arrayfuncs.c>.
#[derive(Debug)]
pub struct Array {
    type_oid: u32,
    count: u32,
    has_nulls: bool,
    /// Each with its length in front.
    values: Vec<u8>,
}

impl Array {
    /// An empty one, of such values.
    pub fn of(type_oid: u32) -> Self {
        Self { type_oid, count: 0, has_nulls: false, values: Vec::new() }
    }

    /// Appends a value in binary format; how many bytes longer the array is.
    pub fn push(&mut self, value: Option<&[u8]>) -> usize {
        let before = self.values.len();
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.values.extend_from_slice(&length.to_be_bytes());
        self.values.extend_from_slice(value.unwrap_or_default());
        self.count += 1;
        self.has_nulls |= value.is_none();
        self.values.len() - before
    }

    /// All of it.
    pub fn value(&self) -> Vec<u8> {
        let dimensions = u32::from(self.count > 0);
        let head = [dimensions, u32::from(self.has_nulls), self.type_oid];
        let mut value: Vec<u8> = head.iter().flat_map(|word| word.to_be_bytes()).collect();
        if self.count > 0 {
            // Its subscripts count from 1.
            value.extend([self.count, 1].iter().flat_map(|word| word.to_be_bytes()));
            value.extend_from_slice(&self.values);
        }
        value
    }
}
