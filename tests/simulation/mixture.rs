//! What several platforms order and a pipeline applies at one time, by chance.

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::pipeline::Applied;
use crate::platform::{End, Platform};
use crate::scenarios::{AWS_POOLED, Doing, POOLED, pool};

/// Plans that one may move between, and one of each is ordered.
const FAMILIES: &[&[&str]] = &[
    &["memcached-small", "memcached-large", "memcached-two"],
    &["redis-small", "redis-large"],
    &["redis-kept", "redis-kept-large"],
    &["valkey-small"],
    &["aws-redis-small", "aws-redis-large", "aws-redis-replicas"],
    &["aws-redis-small", "aws-redis-encrypted"],
    &["redis-users"],
    &["aws-redis-users"],
    &["aws-memcached-small", "aws-memcached-two"],
    &["memcached-small", "aws-memcached-small"],
];

/// Something that is asked of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Update(&'static str),
    Parameters(u32),
    Restart,
    Backup,
    Restore,
    Flush,
    Bind(u32),
    /// A binding that succeeds another one.
    Rotate(u32),
    Unbind(u32),
    Deprovision,
}

/// What one platform asks for, one after the other.
#[derive(Clone, Debug)]
struct Order {
    id: String,
    plan: &'static str,
    wishes: Vec<Wish>,
}

/// A pool of one, and those who order from it: who comes first gets its member, the next one another or one of their own.
#[derive(Clone, Debug)]
struct Pool {
    plan: &'static str,
    orders: Vec<Order>,
}

impl Pool {
    fn of(chance: &mut Chance) -> Self {
        let plan = if chance.permille(500) { POOLED } else { AWS_POOLED };
        let orders = (0..1 + chance.below(2)).map(|nth| {
            let mut wishes = match chance.below(3) {
                0 => vec![Wish::Restart],
                1 => vec![Wish::Bind(0)],
                _ => Vec::new(),
            };
            if chance.permille(500) {
                wishes.push(Wish::Deprovision);
            }
            Order {
                id: format!("pooled-{nth}"),
                plan,
                wishes,
            }
        });
        Self {
            plan,
            orders: orders.collect(),
        }
    }

    async fn operate(self, p: Platform) -> Vec<End> {
        pool(&p, self.plan, "64Mi").await;
        let orders = self.orders.into_iter().map(|order| one(p.clone(), order));
        futures::future::join_all(orders).await.concat()
    }
}

/// What all ask for.
#[derive(Clone, Debug)]
pub struct Mixture {
    orders: Vec<Order>,
    applied: Vec<Applied>,
    pool: Option<Pool>,
}

impl Mixture {
    /// What is ordered follows from one chance, what is applied from another.
    pub fn of(chance: &mut Chance, other: &mut Chance) -> Self {
        let orders = (0..2 + chance.below(3)).map(|nth| {
            let family = FAMILIES[chance.below(FAMILIES.len())];
            let plan = family[chance.below(family.len())];
            let mut wishes = Vec::new();
            for _ in 0..chance.below(3) {
                let aws = plan.starts_with("aws-");
                wishes.push(match chance.below(7) {
                    0 | 1 if family.len() > 1 => Wish::Update(family[chance.below(family.len())]),
                    2 => Wish::Restart,
                    3 if plan.starts_with("aws-redis") => Wish::Backup,
                    3 if !aws => Wish::Flush,
                    4 if !aws => Wish::Parameters(u32::try_from(50 + chance.below(3)).unwrap()),
                    _ => Wish::Bind(u32::try_from(wishes.len()).unwrap()),
                });
            }
            match wishes.last().copied() {
                Some(Wish::Bind(binding)) if chance.permille(500) => {
                    if plan.ends_with("users") && chance.permille(500) {
                        wishes.push(Wish::Rotate(binding));
                    }
                    wishes.push(Wish::Unbind(binding));
                }
                Some(Wish::Backup) if chance.permille(500) => wishes.push(Wish::Restore),
                _ => {}
            }
            if chance.permille(500) {
                wishes.push(Wish::Deprovision);
            }
            Order {
                id: format!("order-{nth}"),
                plan,
                wishes,
            }
        });
        Self {
            orders: orders.collect(),
            applied: (0..other.below(3)).map(|nth| Applied::of(nth, other)).collect(),
            pool: other.permille(400).then(|| Pool::of(other)),
        }
    }

    /// The plans it needs.
    pub fn plans(&self) -> Vec<&'static str> {
        let named = |order: &Order| {
            let moves = order.wishes.iter().filter_map(|wish| match wish {
                Wish::Update(plan) => Some(*plan),
                _ => None,
            });
            moves.chain([order.plan]).collect::<Vec<_>>()
        };
        let applied = self.applied.iter().flat_map(Applied::plans);
        self.orders.iter().flat_map(named).chain(applied).collect()
    }

    /// Does it. How each ended is told with what it was.
    pub fn operate(self, platform: Platform) -> Doing {
        Box::pin(async move {
            let applied = self.applied.into_iter();
            let applied: Vec<_> = applied
                .map(|applied| tokio::spawn(applied.operate(platform.clone())))
                .collect();
            let pooled = self.pool.map(|pool| tokio::spawn(pool.operate(platform.clone())));
            let orders = self
                .orders
                .into_iter()
                .map(|order| tokio::spawn(one(platform.clone(), order)));
            let orders = orders.chain(pooled);
            let mut ends = Vec::new();
            for done in futures::future::join_all(orders).await {
                ends.extend(done.unwrap());
            }
            for done in applied {
                done.await.unwrap();
            }
            ends
        })
    }
}

async fn one(p: Platform, order: Order) -> Vec<End> {
    let Order { id, plan, wishes } = order;
    let mut plan = plan;
    let users = plan.ends_with("users");
    let mut ends = vec![p.provision(&id, plan, &json!({})).await];
    for wish in wishes {
        let end = match wish {
            Wish::Update(to) if to == plan => continue,
            Wish::Update(to) => {
                let end = p.update(&id, to, &replaceable(plan, to)).await;
                if end == End::Succeeded {
                    plan = to;
                }
                end
            }
            Wish::Parameters(limit) => p.update(&id, plan, &json!({ "connectionLimit": limit })).await,
            Wish::Restart => p.restart(&id).await,
            Wish::Backup => p.backup(&id).await,
            Wish::Restore => match p.backups(&id).await.first() {
                Some(backup) => p.restore(&id, backup).await,
                None => End::Gone,
            },
            Wish::Flush => status(p.flush(&id).await),
            Wish::Bind(nth) if users => p.bind_user(&id, &format!("b{nth}"), plan, None).await,
            Wish::Bind(nth) => status(p.bind(&id, &format!("b{nth}"), plan).await),
            Wish::Rotate(nth) => {
                p.bind_user(&id, &format!("b{nth}-next"), plan, Some(&format!("b{nth}")))
                    .await
            }
            Wish::Unbind(nth) if users => p.unbind_user(&id, &format!("b{nth}"), plan).await,
            Wish::Unbind(nth) => status(p.unbind(&id, &format!("b{nth}"), plan).await),
            Wish::Deprovision => p.deprovision(&id, plan).await,
        };
        // Whoever asks again after a lost answer hears that it is gone already.
        ends.push(if end == End::Gone { End::Succeeded } else { end });
    }
    ends
}

fn replaceable(from: &str, to: &str) -> Value {
    let across = from.starts_with("aws-") != to.starts_with("aws-");
    if across || from.contains("encrypted") || to.contains("encrypted") {
        json!({ "allow_replace": true })
    } else {
        json!({})
    }
}

fn status(status: http::StatusCode) -> End {
    match status.as_u16() {
        200 | 201 | 410 => End::Succeeded,
        other => End::Refused(other),
    }
}
