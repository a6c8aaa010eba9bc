//! The values that a statement gives for a key: literals of its text, and parameters.

use std::sync::Arc;

use super::array::{self, Element};
use super::{KeyPart, Lot, Search, Unplaced};
use crate::shard::{Charset, KeyColumn, KeyValue, Undecided};
use crate::sql::{CastType, Literal, Name, Operand, literal, names_parameter_twice};

/// Types of text, which a cast reads as whatever it is to be: text, varchar, bpchar, unknown, and none said.
const TEXTS: [u32; 5] = [25, 1043, 1042, 705, 0];

/// Values of one execution: the text that its literals are in, and its parameters.
#[derive(Debug, Clone, Copy)]
pub struct Values<'v> {
    /// The statement's text.
    pub text: &'v [u8],
    /// What stands for `$1` and so on.
    pub parameters: &'v [Parameter<'v>],
    /// How texts are encoded.
    pub charset: Charset,
    /// Where tables are that are not declared, in a session that has temporary ones: its own server's shard.
    pub temporary: Option<&'v Arc<str>>,
    /// Where rows go that could go to any shard.
    pub lot: Lot<'v>,
}

/// One parameter of the extended protocol.
#[derive(Debug, Clone, Copy)]
pub struct Parameter<'v> {
    /// As `Parse` has declared it; 0: left to the server.
    pub oid: u32,
    /// In binary format.
    pub is_binary: bool,
    /// `None` is NULL.
    pub value: Option<&'v [u8]>,
}

impl<'s> Search<'s> {
    /// `None` is NULL.
    pub(super) fn value(
        &self,
        operand: &'s Operand,
        part: &KeyPart,
        name: &Name,
    ) -> Result<Option<KeyValue<'s>>, Unplaced> {
        let column = fit(part, name)?;
        let unread = |why: String| Unplaced::Value { table: name.clone(), column: part.name.clone(), why };
        let undecided = |undecided: Undecided| unread(undecided.to_string());
        match operand {
            Operand::Literal { ordinal, is_negative, cast } => {
                let oid = type_of(*cast);
                match literal(self.values.text, *ordinal) {
                    Some(Literal::Number(token)) => {
                        if cast.is_some_and(|cast| cast != CastType::Number) {
                            return Err(unread(format!("{token} is cast to a type that is no number's")));
                        }
                        let token = if *is_negative { format!("-{token}") } else { token.to_owned() };
                        column.from_number(&token).map(Some).map_err(undecided)
                    }
                    Some(Literal::String(string)) if !is_negative => {
                        let value = column.from_text(oid, string.as_bytes(), self.values.charset);
                        value.map(|value| Some(value.into_owned())).map_err(undecided)
                    }
                    _ => Err(unread("the literal is written in a form that is not read here".to_owned())),
                }
            }
            Operand::Parameter { index, cast } => {
                let parameter = self.parameter(*index, part, name)?;
                let Some(value) = parameter.value else { return Ok(None) };
                self.parameter_value(column, parameter, value, *cast, *index).map(Some).map_err(unread)
            }
            _ => Ok(None),
        }
    }

    fn parameter_value(
        &self,
        column: KeyColumn,
        parameter: Parameter<'s>,
        value: &'s [u8],
        cast: Option<CastType>,
        index: usize,
    ) -> Result<KeyValue<'s>, String> {
        let Parameter { oid, is_binary, .. } = parameter;
        let charset = self.values.charset;
        let read = |result: Result<KeyValue<'s>, Undecided>| result.map_err(|undecided| undecided.to_string());
        match cast {
            Some(cast) if is_binary && oid == 0 && cast == CastType::Number => {
                Err(format!("${} is cast and in binary format, and its type is not declared", index + 1))
            }
            // In binary format a text is its bytes, too; what it is cast from decides how they are read.
            Some(cast) if TEXTS.contains(&oid) && (!is_binary || oid != 0) => {
                read(column.from_text(type_of(Some(cast)), value, charset))
            }
            Some(cast) if is_binary => {
                read(column.from_binary(if oid == 0 { type_of(Some(cast)) } else { oid }, value, charset))
            }
            Some(_) => read(column.from_text(oid, value, charset)),
            // The server takes the type from where the parameter stands first.
            None if is_binary && oid == 0 && names_parameter_twice(self.values.text, index) => {
                Err(format!("${} stands in several places, in binary format, and its type is not declared", index + 1))
            }
            None if is_binary => read(column.from_binary(oid, value, charset)),
            None => read(column.from_text(oid, value, charset)),
        }
    }

    fn parameter(&self, index: usize, part: &KeyPart, name: &Name) -> Result<Parameter<'s>, Unplaced> {
        self.values.parameters.get(index).copied().ok_or_else(|| Unplaced::Value {
            table: name.clone(),
            column: part.name.clone(),
            why: format!("there is no value for ${}", index + 1),
        })
    }

    /// Those of an array; NULLs, which equal nothing, are left out.
    pub(super) fn elements(&self, index: usize, part: &KeyPart, name: &Name) -> Result<Vec<KeyValue<'s>>, Unplaced> {
        let column = fit(part, name)?;
        let unread = |why: String| Unplaced::Value { table: name.clone(), column: part.name.clone(), why };
        let parameter = self.parameter(index, part, name)?;
        let Some(value) = parameter.value else { return Ok(Vec::new()) };
        let charset = self.values.charset;
        let undecided = |undecided: Undecided| unread(undecided.to_string());
        let elements = if parameter.is_binary { array::binary(value) } else { array::text(value) };
        let elements = elements.ok_or_else(|| unread(format!("${} is not an array of one dimension", index + 1)))?;
        elements
            .into_iter()
            .filter_map(|element| match element {
                Element::Null => None,
                Element::Binary { oid, bytes } => Some(column.from_binary(oid, bytes, charset).map_err(undecided)),
                Element::Text(text) => {
                    let oid = array::element_type(parameter.oid);
                    let value = column.from_text(oid, text.as_bytes(), charset);
                    Some(value.map(KeyValue::into_owned).map_err(undecided))
                }
            })
            .collect()
    }
}

fn fit(part: &KeyPart, name: &Name) -> Result<KeyColumn, Unplaced> {
    part.column.clone().map_err(|why| Unplaced::Unfit { table: name.clone(), why: why.into() })
}

/// The OID of what a cast makes; 0 without one.
fn type_of(cast: Option<CastType>) -> u32 {
    match cast {
        None => 0,
        Some(CastType::Number) => 1700,
        Some(CastType::Text) => 25,
        Some(CastType::Uuid) => 2950,
        Some(CastType::Date) => 1082,
        Some(CastType::Timestamptz) => 1184,
        Some(CastType::Bytea) => 17,
    }
}
