//! Webhooks: who holds them, whose turn it is, and what people see of them.

use std::time::Duration;

use cache_broker::ledger::webhooks::Attempted;
use cache_broker::ledger::{
    DueWebhook, InstanceId, Judgement, LetterState, Letters, Request, Room, Scope, Verdict, WebhookTarget,
};

use super::{HOUR, World, asked, observation, order};

const LEASE: Duration = Duration::from_secs(60);

fn room(free: usize, busy: &[&Option<Vec<u8>>]) -> Room {
    Room {
        free,
        busy: busy.iter().filter_map(|receiver| (*receiver).clone()).collect(),
    }
}

async fn settle(world: &World, due: &DueWebhook, attempted: Attempted) {
    let attempts = [(due.clone(), attempted)];
    world.ledger.settle_webhooks(&attempts).await.unwrap();
}

/// Instances whose provision has ended and is to be told to a host.
async fn told(world: &World, host: &str, ids: impl Iterator<Item = String>) {
    for id in ids {
        let id: InstanceId = id.parse().unwrap();
        let mut new = order(HOUR);
        new.webhook = Some(WebhookTarget {
            url: format!("https://{host}/hook?token=hunter2").into(),
            secret: None,
        });
        world
            .ledger
            .provision(&id, &asked(Request::Provision), &Scope::default(), |_, _| {
                Judgement::<(), _>::Accept(new.clone())
            })
            .await
            .unwrap();
        world.seen(&observation(&id, 1, Verdict::Ready)).await;
    }
}

fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{prefix}{number}"))
}

/// Receivers take turns, and one that takes its time gets no more than leaves room for others.
#[tokio::test]
async fn a_receiver_has_room_of_its_own() {
    let world = World::new().await;
    told(&world, "slow.example", names("s", 20)).await;
    told(&world, "quick.example", names("q", 3)).await;
    let first = world.ledger.claim_webhooks(&room(64, &[]), LEASE).await.unwrap();
    let of = |prefix: &'static str| {
        let due = first.iter();
        due.filter(move |due| due.instance_id.as_str().starts_with(prefix))
    };
    assert_eq!((of("s").count(), of("q").count()), (10, 3));
    // The quick one's have ended.
    let mut busy: Vec<_> = of("s").map(|due| &due.receiver).collect();
    let more = world.ledger.claim_webhooks(&room(54, &busy), LEASE).await.unwrap();
    assert_eq!(more.len(), 3);
    busy.extend(more.iter().map(|due| &due.receiver));
    assert!(
        world
            .ledger
            .claim_webhooks(&room(51, &busy), LEASE)
            .await
            .unwrap()
            .is_empty(),
        "a fifth of all places is enough for one"
    );
    // One more for each that ended, and always one for who has none.
    told(&world, "late.example", names("l", 1)).await;
    let more = world.ledger.claim_webhooks(&room(52, &busy[1..]), LEASE).await.unwrap();
    let ids: Vec<_> = more.iter().map(|due| due.instance_id.as_str().get(..1)).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert!(ids.contains(&Some("l")) && ids.contains(&Some("s")), "{ids:?}");
    told(&world, "last.example", names("z", 2)).await;
    let more = world.ledger.claim_webhooks(&room(1, &busy), LEASE).await.unwrap();
    assert_eq!(more.len(), 1, "the last place");
    // Nothing of the URL stands in clear.
    let digests: i64 = world
        .sql
        .query_one("select count(*) from webhooks where octet_length(receiver) = 16", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(digests, 26);
}

/// Whoever holds a claim renews it, and one that was lost meanwhile changes nothing any more.
#[tokio::test]
async fn a_claim_is_held_while_it_is_renewed_and_lost_after() {
    let world = World::new().await;
    told(&world, "a.example", names("i", 1)).await;
    let all = room(40, &[]);
    let short = Duration::from_millis(400);
    let claimed = world.ledger.claim_webhooks(&all, short).await.unwrap();
    let claims: Vec<_> = claimed.iter().map(|due| due.claim).collect();
    world.ledger.renew_webhooks(&claims, HOUR).await.unwrap();
    let held: i64 = world
        .sql
        .query_one(
            "select count(*) from webhooks where leased_until > now() + interval '50 minutes'",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(held, 1, "it is held");
    assert_eq!(
        world.ledger.next_webhook(LEASE).await.unwrap(),
        Some(LEASE),
        "its holder may die"
    );
    // The process dies: nobody renews.
    world.ledger.renew_webhooks(&claims, Duration::ZERO).await.unwrap();
    let again = world.ledger.claim_webhooks(&all, LEASE).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].id, claimed[0].id);
    let dead = Attempted::Dead {
        error: "late".to_owned(),
    };
    settle(&world, &claimed[0], dead).await;
    world.ledger.renew_webhooks(&claims, Duration::ZERO).await.unwrap();
    assert!(world.ledger.claim_webhooks(&all, LEASE).await.unwrap().is_empty());
    assert_eq!(world.ledger.letter_counts().await.unwrap().dead, 0);
    // That it was delivered counts whoever says so.
    settle(&world, &claimed[0], Attempted::Delivered).await;
    assert_eq!(world.ledger.letter_counts().await.unwrap().due, 0);
    assert_eq!(world.ledger.next_webhook(LEASE).await.unwrap(), None);
}

#[tokio::test]
async fn what_was_given_up_is_listed_and_gets_another_day() {
    let world = World::new().await;
    told(&world, "gone.example:8443", names("i", 3)).await;
    let claimed = world.ledger.claim_webhooks(&room(40, &[]), LEASE).await.unwrap();
    assert_eq!(claimed.len(), 3);
    for due in &claimed[..2] {
        let dead = Attempted::Dead {
            error: "gone.example answered 410 Gone".to_owned(),
        };
        settle(&world, due, dead).await;
    }
    let counts = world.ledger.letter_counts().await.unwrap();
    assert_eq!((counts.due, counts.dead), (1, 2));

    let listed = world.ledger.letters(&[LetterState::Dead], None).await.unwrap();
    assert_eq!(listed.len(), 2);
    let line = listed[0].to_string();
    for word in ["dead", "provision", "to gone.example:8443", "attempts=1", "410 Gone"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    assert!(!line.contains("hunter2") && !line.contains("hook"), "{line}");
    let one: InstanceId = listed[0].instance.parse().unwrap();
    assert_eq!(
        world.ledger.letters(&LetterState::ALL, Some(&one)).await.unwrap().len(),
        1
    );

    assert_eq!(world.ledger.retry_letters(&Letters::Of(one)).await.unwrap(), 1);
    assert_eq!(
        world.ledger.retry_letters(&Letters::One(listed[1].id)).await.unwrap(),
        1
    );
    assert_eq!(world.ledger.retry_letters(&Letters::All).await.unwrap(), 0);
    let again = world.ledger.claim_webhooks(&room(40, &[]), LEASE).await.unwrap();
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|due| due.attempts == 0), "a day of its own");
}
