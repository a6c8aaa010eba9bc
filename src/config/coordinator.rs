//! `[coordinator]`: where statements run that need several shards at once.

use super::document::{Mistakes, Section};
use super::error::{Complaint, nearest, quoted};
use super::keys::COORDINATOR;
use super::schema::{Coordinator, Shard};
use super::values::label;

/// `Some(None)` where the file has no such section. `shards`: `None` where they are wrong, which has been said already.
pub(super) fn coordinator(
    mistakes: &mut Mistakes<'_>,
    file: &Section<'_>,
    shards: Option<&[Shard]>,
) -> Option<Option<Coordinator>> {
    let Some(item) = file.item("coordinator") else { return Some(None) };
    let section = item.section(mistakes, &COORDINATOR)?;
    let shard = section.required(mistakes, "shard", "shard = \"…\", the name of one of [[shards]]", label);
    let name = shard.sound()?.clone();
    let shards = shards?;
    if shards.iter().all(|shard| shard.name != name) {
        let complaint = Complaint::new(format!("there is no shard {}", quoted(&name)))
            .expected("the name of one of [[shards]]")
            .suggest(nearest(&name, shards.iter().map(|shard| &*shard.name)).map(str::to_owned));
        section.complain(mistakes, "shard", &shard, complaint);
        return None;
    }
    if let [_] = shards {
        let complaint = Complaint::new("there is one shard, which needs no coordinator")
            .expected("several [[shards]], or no such section");
        section.complain_whole(mistakes, complaint);
        return None;
    }
    Some(Some(Coordinator { shard: name }))
}
