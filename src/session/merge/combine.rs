//! An answer that PostgreSQL makes of what the shards say.
//!
//! The first server is asked what the client's statement takes and gives (so that an error in it is told as always), then
//! what the shards' part of it gives. All are asked for their parts at once; what they say is kept, up to [`MAX_KEPT`] bytes,
//! and goes to the first server as arrays, with the statement over them. Nothing has been told to the client before that.

use bytes::BytesMut;

use super::super::Fault;
use super::super::everywhere::Why;
use super::part::Part;
use super::parts::{Ending, Parts};
use super::question::Question;
use super::request::Request;
use super::stream::{Given, Stream};
use crate::gather::merge::{Array, RowShape, Unmergeable};
use crate::sql::{Combine, Shown, Steps};
use crate::wire::ErrorReply;
use crate::wire::frontend::Bind;

/// How much of what the shards say is kept, in bytes.
const MAX_KEPT: usize = 16 * 1024 * 1024;

/// The types of texts, which have a collation: `name`, `text`, `bpchar`, `varchar`.
const TEXTS: [u32; 4] = [19, 25, 1042, 1043];

const BINARY: [u8; 2] = [0, 1];

/// What the client's statement is.
struct Own {
    /// Parameter types, as in `Parse`.
    types: Box<[u8]>,
    shape: RowShape,
}

/// A way that the columns' types allow.
struct Chosen<'c> {
    steps: &'c Steps,
    /// The statement over what the shards say.
    last: String,
}

/// Has the client get the rows.
pub(super) async fn combine(
    parts: &mut Parts<'_>,
    request: &Request,
    plan: &Combine,
) -> Result<Result<Given, Ending>, Fault> {
    parts.sorting = 0;
    let question = Question { text: &request.text, types: &request.types, parameters: &request.parameters };
    let own = match describe(parts, question).await? {
        Ok(own) => own,
        Err(ending) => return Ok(Err(ending)),
    };
    let chosen = match choose(parts, request, plan, &own).await? {
        Ok(chosen) => chosen,
        Err(ending) => return Ok(Err(ending)),
    };
    let partial = Question { text: chosen.steps.partial.as_bytes(), types: &own.types, ..question };
    parts.shown = Some(own.shape);
    let arrays = match collect(parts, partial).await? {
        Ok(arrays) => arrays,
        Err(ending) => return Ok(Err(without_place(ending))),
    };
    let Some(parameters) = with_arrays(&request.parameters, &arrays) else {
        return Ok(Err(Ending::Unmergeable(Unmergeable::Malformed)));
    };
    parts.keep_first();
    let types = with_types(&own.types, &arrays);
    let last = Question { text: chosen.last.as_bytes(), types: &types, parameters: &parameters };
    let ended = Stream::of(parts, request, last).give().await?;
    let is_in_block = parts.is_in_block;
    let is_parsed = parts.list.iter().all(|part| part.is_parsed);
    Ok(ended.map_err(|ending| match ending {
        // Its own errors were told before.
        Ending::Failed { .. } if !is_parsed => not_understood(is_in_block),
        ending => without_place(ending),
    }))
}

/// Asks the first server.
async fn describe(parts: &mut Parts<'_>, question: Question<'_>) -> Result<Result<Own, Ending>, Fault> {
    let Some(first) = parts.list.first_mut() else { return Ok(Err(Ending::Unmergeable(Unmergeable::Malformed))) };
    first.forget();
    first.ask(&question.describe());
    if let Some(ending) = parts.finish(|_| Ok(())).await? {
        return Ok(Err(ending));
    }
    let first = parts.list.first_mut().and_then(|first| first.parameters.take().zip(first.shape.take()));
    Ok(first.map(|(types, shape)| Own { types, shape }).ok_or(Ending::Unmergeable(Unmergeable::Malformed)))
}

/// The first way that the types of the columns allow.
async fn choose<'c>(
    parts: &mut Parts<'_>,
    request: &Request,
    plan: &'c Combine,
    own: &Own,
) -> Result<Result<Chosen<'c>, Ending>, Fault> {
    if let Err(unmergeable) = own.shape.goes_with(&own.shape) {
        return Ok(Err(Ending::Unmergeable(unmergeable)));
    }
    let names: Option<Vec<&str>> = own.shape.names().map(|name| std::str::from_utf8(name).ok()).collect();
    let Some(names) = names else { return Ok(Err(Ending::Unmergeable(Unmergeable::NotUnderstood))) };
    for steps in &plan.ways {
        let question = Question { text: steps.partial.as_bytes(), types: &own.types, parameters: &request.parameters };
        let part = match describe(parts, question).await? {
            Ok(part) => part,
            Err(Ending::Failed { why: Why::Refused(_), is_worth_another: None }) if !parts.is_in_block => continue,
            Err(Ending::Failed { why: Why::Refused(_), .. }) if parts.is_in_block => {
                return Ok(Err(not_understood(true)));
            }
            Err(ending) => return Ok(Err(ending)),
        };
        let types: Vec<u32> = (0..part.shape.len()).filter_map(|at| part.shape.type_of(at)).collect();
        let collations = match collations(parts, question, steps, &types).await? {
            Ok(collations) => collations,
            Err(ending) => return Ok(Err(ending)),
        };
        let parameters = own.types.len().saturating_sub(2) / 4;
        let shown = Shown { types: &types, collations: &collations, names: &names, parameters };
        if let Some(last) = steps.last(shown) {
            return Ok(Ok(Chosen { steps, last }));
        }
    }
    Ok(Err(Ending::Unmergeable(Unmergeable::NotUnderstood)))
}

/// Of the columns with such types.
async fn collations(
    parts: &mut Parts<'_>,
    question: Question<'_>,
    steps: &Steps,
    types: &[u32],
) -> Result<Result<Vec<Option<Box<str>>>, Ending>, Fault> {
    let mut collations = vec![None; types.len()];
    let texts: Vec<usize> = (0..types.len()).filter(|at| TEXTS.contains(&types[*at])).collect();
    let Some(first) = parts.list.first_mut().filter(|_| !texts.is_empty()) else { return Ok(Ok(collations)) };
    let text = steps.collations(&texts, types.len());
    let question = Question { text: text.as_bytes(), ..question };
    first.forget();
    first.ask(&[question.parse(), question.execute(&[], false)].concat());
    let mut said = Vec::new();
    let ended = parts
        .finish(|part| part.take_values(|values| said = values.iter().map(|value| value.map(Into::into)).collect()))
        .await?;
    if let Some(ending) = ended {
        return Ok(Err(without_place(ending)));
    }
    for (at, name) in texts.into_iter().zip(said as Vec<Option<Vec<u8>>>) {
        collations[at] = name.and_then(|name| String::from_utf8(name).ok()).map(Into::into);
    }
    Ok(Ok(collations))
}

/// What all servers say.
async fn collect(parts: &mut Parts<'_>, question: Question<'_>) -> Result<Result<Vec<Array>, Ending>, Fault> {
    parts.list.iter_mut().for_each(Part::forget);
    parts.ask(&[question.parse(), question.execute(&[BINARY], true)].concat());
    let (mut columns, mut kept): (Vec<Array>, usize) = (Vec::new(), 0);
    let ended = parts
        .finish(|part| {
            let Some(shape) = &part.shape else { return Ok(()) };
            if columns.is_empty() {
                columns = (0..shape.len()).filter_map(|at| shape.type_of(at)).map(Array::of).collect();
            }
            let mut is_too_much = false;
            part.take_values(|values| {
                for (column, value) in columns.iter_mut().zip(values) {
                    kept += column.push(*value);
                }
                is_too_much = kept > MAX_KEPT;
            })?;
            if is_too_much { Err(Unmergeable::TooMuch) } else { Ok(()) }
        })
        .await?;
    if let Some(ending) = ended {
        return Ok(Err(ending));
    }
    if let Err(unmergeable) = parts.shape() {
        return Ok(Err(Ending::Unmergeable(unmergeable)));
    }
    Ok(Ok(columns))
}

/// It would take more memory than one statement may have.
pub(super) fn too_much() -> ErrorReply {
    ErrorReply::error("54000", "the rows that this statement's answer is made of are too large to be kept")
        .detail(format!("Of what the shards say at most {MAX_KEPT} bytes are kept."))
        .hint("Give the shard key's value, let a WHERE clause leave fewer rows, or name a [coordinator] in pgsluice's config.")
}

/// A server has not accepted what was made of the client's statement.
fn not_understood(is_in_block: bool) -> Ending {
    if !is_in_block {
        return Ending::Unmergeable(Unmergeable::NotUnderstood);
    }
    // The transaction is over by that.
    let reply = ErrorReply::error("0A000", "the answers of the shards cannot be put together")
        .detail("What this statement makes of rows of several shards was not understood.")
        .hint("Run it outside of a transaction block: there a coordinator, if there is one, is asked for it.");
    Ending::Failed { why: Why::Told(reply), is_worth_another: None }
}

/// The client's parameters with the arrays behind them.
fn with_arrays(parameters: &[u8], arrays: &[Array]) -> Option<Vec<u8>> {
    let rest = [parameters, &[0, 0]].concat();
    let own = Bind { portal: b"", statement: b"", rest: &rest }.parameters().ok()?;
    let count = u16::try_from(own.len() + arrays.len()).ok()?.to_be_bytes();
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&count);
    for (is_binary, _) in &own {
        bytes.extend_from_slice(&u16::from(*is_binary).to_be_bytes());
    }
    arrays.iter().for_each(|_| bytes.extend_from_slice(&BINARY));
    bytes.extend_from_slice(&count);
    for (_, value) in own {
        match value {
            None => bytes.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(value) => {
                bytes.extend_from_slice(&i32::try_from(value.len()).ok()?.to_be_bytes());
                bytes.extend_from_slice(value);
            }
        }
    }
    for array in arrays {
        let value = array.value();
        bytes.extend_from_slice(&i32::try_from(value.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(&value);
    }
    Some(bytes.to_vec())
}

/// The types of the arrays are said in the text.
fn with_types(own: &[u8], arrays: &[Array]) -> Vec<u8> {
    let count = own.len().saturating_sub(2) / 4 + arrays.len();
    let mut types = u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    types.extend_from_slice(own.get(2..).unwrap_or_default());
    types.resize(2 + 4 * count, 0);
    types
}

/// The place of an error is one in a text that the client does not know.
fn without_place(ending: Ending) -> Ending {
    match ending {
        Ending::Failed { why: Why::Refused(body), is_worth_another } => {
            let fields =
                body.split(|byte| *byte == 0).filter(|field| !field.is_empty() && field.first() != Some(&b'P'));
            let mut kept: Vec<u8> = fields.flat_map(|field| field.iter().copied().chain([0])).collect();
            kept.push(0);
            Ending::Failed { why: Why::Refused(kept.into()), is_worth_another }
        }
        ending => ending,
    }
}
