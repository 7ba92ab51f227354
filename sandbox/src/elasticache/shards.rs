//! Sharded groups: joins running nodes, gives every shard its slots, and moves slots with their keys.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::nodes::ShardSpec;
use super::processes::Fleet;
use super::replication_groups::SLOTS;
use super::resp::Client;

/// How long the nodes may take to agree.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a replica may wait for the votes of the other primaries.
const VOTE: Duration = Duration::from_millis(1500);

/// One node as it is being joined.
struct Member {
    id: String,
    client: Client,
    host: String,
    port: u16,
}

/// Brings the nodes to the given shards.
pub(crate) async fn form(fleet: &Fleet, shards: &[ShardSpec], leaving: &[u64]) -> io::Result<()> {
    let mut members = BTreeMap::new();
    let staying = shards
        .iter()
        .flat_map(|shard| [shard.primary].into_iter().chain(shard.replicas.clone()));
    for key in staying.chain(leaving.iter().copied()) {
        let mut client = fleet.client(key).await?;
        let (host, port, ..) = fleet.peer(key).await?;
        let id = client.call(&["CLUSTER", "MYID"]).await?.text().to_owned();
        members.insert(key, Member { id, client, host, port });
    }
    meet(&mut members).await?;
    for shard in shards {
        take_over(&mut members, shard.primary).await?;
    }
    let owners = owners(&mut members).await?;
    for shard in shards {
        give_slots(fleet, &mut members, shard, &owners).await?;
    }
    for shard in shards {
        let primary = member(&mut members, shard.primary)?.id.clone();
        for replica in &shard.replicas {
            follow(member(&mut members, *replica)?, &primary).await?;
        }
    }
    let gone: Vec<String> = leaving
        .iter()
        .filter_map(|key| members.remove(key))
        .map(|member| member.id)
        .collect();
    agree(&mut members, shards).await?;
    // All must forget within a minute, or gossip brings what left back.
    for member in members.values_mut() {
        for id in &gone {
            member.client.call(&["CLUSTER", "FORGET", id]).await?;
        }
    }
    Ok(())
}

fn member(members: &mut BTreeMap<u64, Member>, key: u64) -> io::Result<&mut Member> {
    members
        .get_mut(&key)
        .ok_or_else(|| io::Error::other(format!("node {key} is not running")))
}

/// A node's line of `CLUSTER NODES`: id, flags, primary, slots.
struct Line {
    id: String,
    flags: String,
    primary: String,
    slots: Vec<(u16, u16)>,
}

async fn nodes(client: &mut Client) -> io::Result<Vec<Line>> {
    let answer = client.call(&["CLUSTER", "NODES"]).await?;
    let parse = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let (id, _, flags, primary) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let range = |word: String| {
            let (from, to) = word.split_once('-').unwrap_or((&word, &word));
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        Some(Line {
            id,
            flags,
            primary,
            slots: words.skip(4).filter_map(range).collect(),
        })
    };
    Ok(answer.text().lines().filter_map(parse).collect())
}

/// Asks again and again, but not for ever.
struct Patience(Instant);

impl Patience {
    fn new() -> Self {
        Self(Instant::now() + PATIENCE)
    }

    async fn pause(&self, what: &str) -> io::Result<()> {
        if Instant::now() > self.0 {
            return Err(io::Error::other(format!("waited too long for {what}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    }
}

/// Introduces the nodes to each other; fresh ones get different configuration epochs first.
async fn meet(members: &mut BTreeMap<u64, Member>) -> io::Result<()> {
    let all: BTreeSet<String> = members.values().map(|member| member.id.clone()).collect();
    let peers: Vec<(String, String, u16)> = (members.values())
        .map(|member| (member.id.clone(), member.host.clone(), member.port))
        .collect();
    for (epoch, member) in members.values_mut().enumerate() {
        if nodes(&mut member.client).await?.len() == 1 {
            // Refused by a node that restored data and took their slots: it has an epoch then.
            let _ = member
                .client
                .call(&["CLUSTER", "SET-CONFIG-EPOCH", &(epoch + 1).to_string()])
                .await;
        }
    }
    for member in members.values_mut() {
        let known: Vec<String> = nodes(&mut member.client)
            .await?
            .into_iter()
            .map(|line| line.id)
            .collect();
        for (_, host, port) in peers.iter().filter(|(id, ..)| !known.contains(id)) {
            let bus = (if *port > 20_000 { port - 20_000 } else { *port }) + 10_000;
            member
                .client
                .call(&["CLUSTER", "MEET", host, &port.to_string(), &bus.to_string()])
                .await?;
        }
    }
    for member in members.values_mut() {
        let patience = Patience::new();
        loop {
            let lines = nodes(&mut member.client).await?;
            let known = lines
                .iter()
                .filter(|line| !line.flags.contains("handshake"))
                .map(|line| line.id.clone());
            if all.is_subset(&known.collect()) {
                break;
            }
            patience.pause("the nodes of a group to know each other").await?;
        }
    }
    Ok(())
}

/// Makes a replica that shall be a primary one.
async fn take_over(members: &mut BTreeMap<u64, Member>, key: u64) -> io::Result<()> {
    let member = member(members, key)?;
    let role = member.client.call(&["ROLE"]).await?.texts();
    if role.first().map(String::as_str) != Some("slave") {
        return Ok(());
    }
    member.client.call(&["CLUSTER", "FAILOVER"]).await?;
    let (patience, asked) = (Patience::new(), Instant::now());
    while member.client.call(&["ROLE"]).await?.texts().first().map(String::as_str) != Some("master") {
        // A vote is lost when a link between two nodes is not up yet; it is not asked for again.
        if asked.elapsed() > VOTE {
            member.client.call(&["CLUSTER", "FAILOVER", "TAKEOVER"]).await?;
        }
        patience.pause("a replica to take over").await?;
    }
    Ok(())
}

/// Which node serves each slot, by the word of the node itself.
async fn owners(members: &mut BTreeMap<u64, Member>) -> io::Result<BTreeMap<u16, String>> {
    let mut owners = BTreeMap::new();
    for member in members.values_mut() {
        for line in nodes(&mut member.client).await? {
            if line.flags.contains("slave") {
                continue;
            }
            for (from, to) in line.slots {
                owners.extend((from..=to).map(|slot| (slot, line.id.clone())));
            }
        }
    }
    Ok(owners)
}

async fn give_slots(
    fleet: &Fleet,
    members: &mut BTreeMap<u64, Member>,
    shard: &ShardSpec,
    owners: &BTreeMap<u16, String>,
) -> io::Result<()> {
    let to = member(members, shard.primary)?.id.clone();
    let mut free = Vec::new();
    let mut moves: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
    for slot in shard.slots.iter().flat_map(|(from, to)| *from..=*to) {
        match owners.get(&slot) {
            None => free.push(slot),
            Some(owner) if *owner == to => {}
            Some(owner) => {
                let from = members
                    .iter()
                    .find(|(_, member)| member.id == *owner)
                    .map(|(key, _)| *key);
                let from = from.ok_or_else(|| io::Error::other(format!("slot {slot} is with a stranger")))?;
                moves.entry(from).or_default().push(slot);
            }
        }
    }
    for (from, slots) in moves {
        move_slots(fleet, members, &slots, from, shard.primary).await?;
    }
    for slots in free.chunk_by(|a, b| a + 1 == *b) {
        if let (Some(first), Some(last)) = (slots.first(), slots.last()) {
            let words = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()];
            member(members, shard.primary)?.client.call(&words).await?;
        }
    }
    Ok(())
}

/// Moves slots and their keys from one primary to another (CLUSTER SETSLOT, "Redis Cluster live resharding").
async fn move_slots(
    fleet: &Fleet,
    members: &mut BTreeMap<u64, Member>,
    slots: &[u16],
    from: u64,
    to: u64,
) -> io::Result<()> {
    let (source, target) = (member(members, from)?.id.clone(), member(members, to)?.id.clone());
    let (host, port, user, password) = fleet.peer(to).await?;
    let port = port.to_string();
    let each = |words: &[&str]| -> Vec<Vec<String>> {
        let words = |slot: &u16| words.iter().map(|word| word.replace('#', &slot.to_string())).collect();
        slots.iter().map(words).collect()
    };
    let arriving = &mut member(members, to)?.client;
    // A node that has just joined refuses keys until it sees the others serve.
    let patience = Patience::new();
    while !arriving
        .call(&["CLUSTER", "INFO"])
        .await?
        .text()
        .contains("cluster_state:ok")
    {
        patience.pause("a new node to accept keys").await?;
    }
    arriving
        .calls(&each(&["CLUSTER", "SETSLOT", "#", "IMPORTING", &source]))
        .await?;
    let leaving = &mut member(members, from)?.client;
    leaving
        .calls(&each(&["CLUSTER", "SETSLOT", "#", "MIGRATING", &target]))
        .await?;
    let counts = leaving.calls(&each(&["CLUSTER", "COUNTKEYSINSLOT", "#"])).await?;
    for (slot, _) in slots.iter().zip(counts).filter(|(_, count)| count.text() != "0") {
        loop {
            let keys = leaving
                .call(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"])
                .await?
                .texts();
            if keys.is_empty() {
                break;
            }
            let head = [
                "MIGRATE", &host, &port, "", "0", "5000", "AUTH2", user, password, "KEYS",
            ];
            let words: Vec<&str> = head.into_iter().chain(keys.iter().map(String::as_str)).collect();
            leaving.call(&words).await?;
        }
    }
    let settled = each(&["CLUSTER", "SETSLOT", "#", "NODE", &target]);
    member(members, to)?.client.calls(&settled).await?;
    member(members, from)?.client.calls(&settled).await?;
    Ok(())
}

async fn follow(member: &mut Member, primary: &str) -> io::Result<()> {
    let lines = nodes(&mut member.client).await?;
    let current = lines
        .iter()
        .find(|line| line.flags.contains("myself"))
        .map(|line| line.primary.as_str());
    if current != Some(primary) {
        member.client.call(&["CLUSTER", "REPLICATE", primary]).await?;
    }
    Ok(())
}

/// Waits until every node sees every slot where it shall be, and replicas have caught up.
async fn agree(members: &mut BTreeMap<u64, Member>, shards: &[ShardSpec]) -> io::Result<()> {
    let mut wanted: BTreeMap<u16, String> = BTreeMap::new();
    for shard in shards {
        let id = member(members, shard.primary)?.id.clone();
        wanted.extend(
            shard
                .slots
                .iter()
                .flat_map(|(from, to)| *from..=*to)
                .map(|slot| (slot, id.clone())),
        );
    }
    if wanted.len() != usize::from(SLOTS) {
        return Err(io::Error::other("the shards do not cover all slots"));
    }
    let replicas: BTreeSet<u64> = shards.iter().flat_map(|shard| shard.replicas.clone()).collect();
    for (key, member) in members {
        let patience = Patience::new();
        while !agrees(&mut member.client, &wanted, replicas.contains(key)).await? {
            patience.pause("the nodes of a group to agree").await?;
        }
    }
    Ok(())
}

async fn agrees(client: &mut Client, wanted: &BTreeMap<u16, String>, replica: bool) -> io::Result<bool> {
    if !client
        .call(&["CLUSTER", "INFO"])
        .await?
        .text()
        .contains("cluster_state:ok")
    {
        return Ok(false);
    }
    let mut seen = BTreeMap::new();
    for line in nodes(client)
        .await?
        .into_iter()
        .filter(|line| !line.flags.contains("slave"))
    {
        for (from, to) in line.slots {
            seen.extend((from..=to).map(|slot| (slot, line.id.clone())));
        }
    }
    let info = client.call(&["INFO", "replication"]).await?;
    Ok(seen == *wanted && (!replica || info.text().contains("master_link_status:up")))
}
