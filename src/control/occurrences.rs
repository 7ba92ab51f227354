//! What happened to caches in their provider, as Kubernetes Events of their instances.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;

use super::{deadline, events};
use crate::api::CacheInstance;
use crate::provider::elasticache::{Occurrence, is_trouble};

/// Who tells.
const REPORTER: &str = "cache-broker";

/// Writes down what happened, for ever. An Event is named by what it says, so one that is told twice, also by two leaders
/// in a row, is one. What cannot be written is not tried again: the provider keeps it.
pub async fn tell(client: Client, instances: Vec<Store<CacheInstance>>, mut occurred: mpsc::Receiver<Occurrence>) {
    while let Some(occurrence) = occurred.recv().await {
        let found = instances.iter().find_map(|store| store.get(&occurrence.instance));
        let Some(instance) = found else { continue };
        let event = event(&instance.object_ref(&()), &occurrence);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        match deadline(api.create(&PostParams::default(), &event)).await {
            Err(super::Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => {}
            Err(error) => {
                tracing::warn!(instance = %occurrence.instance, %error, "writing down what happened in ElastiCache");
            }
            Ok(_) => {}
        }
    }
    // The poller, which holds the other end, runs as long as this.
    std::future::pending::<()>().await;
}

fn event(instance: &ObjectReference, occurrence: &Occurrence) -> Event {
    let Occurrence {
        source, message, at, ..
    } = occurrence;
    let text = format!(
        "{}\n{source}\n{at}\n{message}",
        instance.uid.as_deref().unwrap_or_default()
    );
    let digest = digest(&SHA256, text.as_bytes());
    let hash = digest.as_ref().iter().take(8);
    let hash = hash.fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let kind = if is_trouble(message) { "Warning" } else { "Normal" };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{hash}", instance.name.as_deref().unwrap_or_default())),
            namespace: instance.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some("Observe".to_owned()),
        event_time: Some(MicroTime(to_microseconds(*at))),
        note: Some(events::note(&format!("{source}: {message}"))),
        reason: Some("ProviderEvent".to_owned()),
        regarding: Some(instance.clone()),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(REPORTER.to_owned()),
        type_: Some(kind.to_owned()),
        ..Event::default()
    }
}

/// A time as the API server keeps it.
fn to_microseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
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
