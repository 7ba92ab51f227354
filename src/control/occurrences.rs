//! What happened to caches in their provider, as Kubernetes Events of their instances.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use kube::runtime::reflector::Store;
use kube::{Client, Resource};
use tokio::sync::mpsc;

use super::events::{self, Told};
use crate::api::CacheInstance;
use crate::provider::elasticache::{Occurrence, is_trouble};

/// Writes down what happened, for ever. What is told twice, also by two leaders in a row, is one Event. What cannot be written is not tried again: the provider keeps it.
pub async fn tell(client: Client, instances: Vec<Store<CacheInstance>>, mut occurred: mpsc::Receiver<Occurrence>) {
    while let Some(occurrence) = occurred.recv().await {
        let found = instances.iter().find_map(|store| store.get(&occurrence.instance));
        let Some(instance) = found else { continue };
        let event = event(&instance.object_ref(&()), &occurrence);
        if let Err(error) = events::create(&client, &event).await {
            tracing::warn!(instance = %occurrence.instance, %error, "writing down what happened in ElastiCache");
        }
    }
    // The poller, which holds the other end, runs as long as this.
    std::future::pending::<()>().await;
}

fn event(instance: &ObjectReference, occurrence: &Occurrence) -> Event {
    let Occurrence {
        source, message, at, ..
    } = occurrence;
    events::event(
        instance,
        Told {
            warning: is_trouble(message),
            action: "Observe",
            reason: "ProviderEvent",
            message: &format!("{source}: {message}"),
            at: *at,
            cause: &at.to_string(),
        },
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use kube::runtime::reflector::ObjectRef;

    use super::*;

    #[test]
    fn what_is_told_twice_is_one_event_and_says_when_it_happened() {
        let instance = ObjectReference {
            name: Some("i".to_owned()),
            namespace: Some("n".to_owned()),
            uid: Some("u".to_owned()),
            ..ObjectReference::default()
        };
        let occurrence = |message: &str| Occurrence {
            instance: ObjectRef::new("i").within("n"),
            source: "c-001".to_owned(),
            message: message.to_owned(),
            at: Timestamp::from_second(5).unwrap(),
        };
        let first = event(&instance, &occurrence("Failover started"));
        assert_eq!(first, event(&instance, &occurrence("Failover started")));
        assert_eq!(first.note.as_deref(), Some("c-001: Failover started"));
        assert_eq!(first.type_.as_deref(), Some("Warning"));
        assert_eq!(first.event_time.as_ref().unwrap().0, Timestamp::from_second(5).unwrap());
        let other = event(&instance, &occurrence("Cache cluster created"));
        assert_ne!(first.metadata.name, other.metadata.name);
        assert_eq!(other.type_.as_deref(), Some("Normal"));
    }
}
