//! What a newcomer can try with several shards. Each line is a command that can be copied into another terminal.

use std::fmt::Write as _;

use super::psql;
use super::shards::{Addresses, accounts, url};
use crate::demo::Cluster;
use crate::shard::{BucketMap, KeyDigest, KeyValue};

/// The servers; with pgsluice in front of them, what to try.
pub(super) fn text(shards: &[(&str, &Cluster)], proxy: Option<&Addresses>) -> anyhow::Result<String> {
    let mut text = String::new();
    for (name, cluster) in shards {
        for server in cluster.servers() {
            let log = server.log_file().display();
            let _ = writeln!(text, "shard {name}  {}  {}  log {log}", server.name(), server.address());
        }
    }
    match (proxy, shards.first()) {
        (Some(at), Some((_, first))) => tour(&mut text, shards, at, first)?,
        _ => direct(&mut text, shards),
    }
    text.push_str("\nCtrl-C stops and removes all of it.\n");
    Ok(text)
}

fn direct(text: &mut String, shards: &[(&str, &Cluster)]) {
    text.push('\n');
    for (_, cluster) in shards {
        let superuser = &cluster.options().superuser;
        let url = url(&superuser.user, &superuser.password, &cluster.primary().address(), "postgres");
        let _ = writeln!(text, "  {} '{url}'", psql());
    }
}

fn tour(text: &mut String, shards: &[(&str, &Cluster)], at: &Addresses, first: &Cluster) -> anyhow::Result<()> {
    let (app, database, psql) = (&first.options().app, &first.options().database, psql());
    let app_url = |address: &str| url(&app.user, &app.password, address, database);
    let program = std::env::current_exe().map_or_else(|_| "pgsluice".to_owned(), |path| path.display().to_string());
    let _ = write!(
        text,
        "
pgsluice is ready: {count} shards, one database. Connect through it as to any PostgreSQL:

  {psql} '{app}'

Metrics: http://{http}/metrics
Config:  {config} (edit it: changes are taken over at once)

Some things to try, in another terminal. First give it these names; SHARD_A and so on go past pgsluice:

   export APP='{app}'
   export CONFIG='{config}'
",
        count = shards.len(),
        app = app_url(&at.address),
        http = at.http,
        config = at.config.display(),
    );
    for (name, cluster) in shards {
        let _ = writeln!(text, "   export SHARD_{}='{}'", name.to_uppercase(), app_url(&cluster.primary().address()));
    }
    let [(here, one), (there, other)] = two_accounts(shards)?;
    let there_name = there.to_uppercase();
    let _ = write!(
        text,
        "
1. A row lies on the shard that its key says: account {one} on shard {here}, account {other} on shard {there}.
   {program} shards where -c \"$CONFIG\" --table accounts {one}
   {psql} \"$APP\" -c 'SELECT id, owner, pgsluice.shard_of_key(pgsluice.shard_key(id)) FROM accounts WHERE id = {other}'
   {psql} \"$SHARD_{there_name}\" -c 'SELECT * FROM accounts ORDER BY id'

2. A statement with a key goes to one shard, and costs what it costs without shards. Entries lie with their account.
   {psql} \"$APP\" -c 'EXPLAIN ROUTE SELECT * FROM accounts WHERE id = {other}'
   {psql} \"$APP\" -c 'SELECT owner, name, number, amount FROM accounts JOIN entries ON account = id JOIN currencies ON code = currency WHERE id = {other}'

3. A transaction over two shards is committed on both or on none (two-phase commit).
   {psql} \"$APP\" -c BEGIN -c 'UPDATE accounts SET balance = balance - 10 WHERE id = {one}' \\
      -c 'UPDATE accounts SET balance = balance + 10 WHERE id = {other}' -c COMMIT
   {psql} \"$APP\" -c 'SELECT balance FROM accounts WHERE id = {one}' -c 'SELECT balance FROM accounts WHERE id = {other}'

4. Reference tables and DDL are the same on every shard, or are refused on all.
   {psql} \"$APP\" -c \"INSERT INTO currencies VALUES ('CHF', 'Swiss franc')\" -c 'ALTER TABLE currencies ADD COLUMN digits int'
   {psql} \"$SHARD_{there_name}\" -c 'SELECT * FROM currencies'

5. A read of all shards' rows: each shard answers for its own, and pgsluice puts the answers together. What that does not
   do for, such as this join, runs on the coordinator, the primary of shard {coordinator}.
   {psql} \"$APP\" -c 'SELECT currency, count(*), sum(balance) FROM accounts GROUP BY currency ORDER BY currency'
   {psql} \"$APP\" -c 'SELECT a.owner, b.owner FROM accounts a JOIN accounts b ON b.id = a.id + 1 ORDER BY a.id LIMIT 5'
   {psql} \"$APP\" -c 'EXPLAIN ROUTE SELECT currency, count(*) FROM accounts GROUP BY currency'

6. What a DBA asks: who has what, is every row in its place, what would another shard take?
   {program} shards show -c \"$CONFIG\"
   {program} shards verify -c \"$CONFIG\"
   {program} shards plan -c \"$CONFIG\" --add new
",
        coordinator = shards.first().map_or("", |(name, _)| name),
    );
    Ok(())
}

/// Two of the sample's accounts, one on the first shard and one on another, each with its shard.
fn two_accounts<'a>(shards: &[(&'a str, &Cluster)]) -> anyhow::Result<[(&'a str, i64); 2]> {
    let map = BucketMap::new(shards.iter().map(|(name, _)| (*name, 1)))?;
    let shard = |id: &i64| map.shard_of(&KeyDigest::of(&[KeyValue::Integer(*id)]));
    let one = accounts().find(|id| shard(id) == 0).unwrap_or(1);
    let other = accounts().find(|id| shard(id) != 0).unwrap_or(1);
    let name = |id: i64| shards.get(shard(&id)).map_or("", |(name, _)| *name);
    Ok([(name(one), one), (name(other), other)])
}
