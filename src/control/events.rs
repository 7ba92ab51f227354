//! Kubernetes Events of what is said in conditions and of what the provider told.
//!
//! An Event is named by what it says. The recorder of kube-runtime joins whatever has one reason under the text that came
//! first, so that whoever mended one mistake of two read of the first again.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};

use super::{Error, deadline};
use crate::ambient;
use crate::api::conditions::{Progress, Reason};
use crate::digest::sha256_hex;

/// Who tells.
const REPORTER: &str = "cache-broker";

/// Where Events of cluster-scoped objects are.
const CLUSTER_SCOPED: &str = "default";

/// The longest note an Event may have, in bytes (Event v1).
const LONGEST_NOTE: usize = 1000;

/// How much of an object's name is in the name of its Events, in bytes: a name has 253 at most, and the rest is the hash.
const LONGEST_BASE: usize = 230;

/// What is said of an object.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Whether somebody should look.
    pub warning: bool,
    /// Whether it stays so until somebody does something.
    pub stalled: bool,
    /// Why, in one word.
    pub reason: &'a str,
    /// Why, in one sentence.
    pub message: &'a str,
}

impl<'a> Said<'a> {
    /// What a condition says.
    pub fn of(progress: Progress, reason: Reason, message: &'a str) -> Self {
        let warning = progress == Progress::Stalled
            || matches!(
                reason,
                Reason::ProviderUnavailable
                    | Reason::ProviderStateUnknown
                    | Reason::Unavailable
                    | Reason::WorkloadFailing
            );
        Self {
            warning,
            stalled: progress == Progress::Stalled,
            reason: reason.as_str(),
            message,
        }
    }

    /// Whether it is worth an Event after what was said before: it has another reason, or what somebody has to do is another
    /// thing.
    pub fn is_news(&self, before: Option<&Condition>) -> bool {
        before.is_none_or(|before| before.reason != self.reason || (self.stalled && before.message != self.message))
    }
}

/// Publishes what is said of an object: an Event of its own, or once more the one that says the same. What is refused is not
/// tried again: an object in a namespace that is going away cannot have Events any more.
pub async fn publish(client: &Client, object: &ObjectReference, said: Said<'_>) {
    let event = event(
        object,
        Told {
            warning: said.warning,
            action: "Reconcile",
            reason: said.reason,
            message: said.message,
            at: ambient::now(),
            cause: "",
        },
    );
    if let Err(error) = tell_once_more(client, &event).await {
        tracing::debug!(object = object.name.as_deref(), %error, "publishing an Event");
    }
}

async fn tell_once_more(client: &Client, event: &Event) -> Result<(), Error> {
    if create(client, event).await? {
        return Ok(());
    }
    let api = of(client, event);
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let told = deadline(api.get(name)).await?;
    let series = EventSeries {
        // The first is told without one.
        count: told.series.map_or(1, |series| series.count) + 1,
        last_observed_time: event.event_time.clone().unwrap_or_else(|| MicroTime(ambient::now())),
    };
    let patch = Patch::Merge(serde_json::json!({ "series": series }));
    deadline(api.patch(name, &PatchParams::default(), &patch)).await?;
    Ok(())
}

/// Creates an Event. False if there is one that says the same.
pub async fn create(client: &Client, event: &Event) -> Result<bool, Error> {
    match deadline(of(client, event).create(&PostParams::default(), event)).await {
        Err(Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => Ok(false),
        outcome => outcome.map(|_| true),
    }
}

fn of(client: &Client, event: &Event) -> Api<Event> {
    Api::namespaced(
        client.clone(),
        event.metadata.namespace.as_deref().unwrap_or(CLUSTER_SCOPED),
    )
}

/// What an Event tells.
pub struct Told<'a> {
    /// Whether somebody should look.
    pub warning: bool,
    /// What was being done.
    pub action: &'a str,
    /// Why, in one word.
    pub reason: &'a str,
    /// What is the matter, in one sentence.
    pub message: &'a str,
    /// When it was.
    pub at: Timestamp,
    /// What tells it from others that say the same of the object.
    pub cause: &'a str,
}

/// The Event of an object that tells this. Its name follows from all but the time.
pub fn event(object: &ObjectReference, told: Told<'_>) -> Event {
    let Told {
        warning,
        action,
        reason,
        message,
        at,
        cause,
    } = told;
    let uid = object.uid.as_deref().unwrap_or_default();
    let kind = if warning { "Warning" } else { "Normal" };
    let text = [uid, kind, action, reason, message, cause].join("\n");
    let hash = sha256_hex(text, 8);
    // Shortened, it may end in what no part of a name ends in.
    let base = shortened(object.name.as_deref().unwrap_or_default(), LONGEST_BASE).trim_end_matches(['.', '-']);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{hash}", base)),
            namespace: Some(object.namespace.clone().unwrap_or_else(|| CLUSTER_SCOPED.to_owned())),
            ..ObjectMeta::default()
        },
        action: Some(action.to_owned()),
        event_time: Some(MicroTime(to_microseconds(at))),
        note: Some(note(message)),
        reason: Some(reason.to_owned()),
        regarding: Some(object.clone()),
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

/// A message as the note of an Event.
fn note(message: &str) -> String {
    shortened(message, LONGEST_NOTE).to_owned()
}

/// The start of a text, as far as so many bytes go.
fn shortened(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(stalled: bool, reason: Reason, message: &str) -> Said<'_> {
        let progress = if stalled {
            Progress::Stalled
        } else {
            Progress::Reconciling
        };
        Said::of(progress, reason, message)
    }

    fn condition(reason: Reason, message: &str) -> Condition {
        Condition {
            type_: "Ready".to_owned(),
            status: "False".to_owned(),
            reason: reason.as_str().to_owned(),
            message: message.to_owned(),
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }
    }

    #[test]
    fn another_reason_is_news_and_another_text_only_where_somebody_has_to_do_something() {
        let before = condition(Reason::ProviderRefused, "a");
        for (said, is_news) in [
            (said(true, Reason::ProviderRefused, "a"), false),
            (said(true, Reason::ProviderRefused, "b"), true),
            (said(false, Reason::ProviderRefused, "b"), false),
            (said(false, Reason::ProviderUnavailable, "a"), true),
        ] {
            assert_eq!(said.is_news(Some(&before)), is_news, "{said:?}");
            assert!(said.is_news(None));
        }
    }

    #[test]
    fn an_event_is_named_by_what_it_says_of_which_object() {
        let object = |name: &str, uid: &str| ObjectReference {
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let told = |message: &'static str, second| Told {
            warning: true,
            action: "Reconcile",
            reason: "ProviderRefused",
            message,
            at: Timestamp::from_second(second).unwrap(),
            cause: "",
        };
        let name = |object: &ObjectReference, told: Told<'_>| event(object, told).metadata.name.unwrap();
        let first = name(&object("i", "u"), told("a", 1));
        assert_eq!(first, name(&object("i", "u"), told("a", 2)));
        assert_ne!(first, name(&object("i", "u"), told("b", 1)));
        assert_ne!(first, name(&object("i", "of another time"), told("a", 1)));
        let long = format!("{}-.{}", "a".repeat(228), "b".repeat(20));
        let long = name(&object(&long, "u"), told("a", 1));
        assert!(long.len() <= 253 && !long.contains("-."), "{long}");
        assert_eq!(
            event(&object("i", "u"), told("a", 1)).metadata.namespace.as_deref(),
            Some("default")
        );
    }

    proptest! {
        #[test]
        fn a_note_is_never_too_long(message in ".{0,600}") {
            let note = note(&message);
            prop_assert!(note.len() <= LONGEST_NOTE && message.starts_with(&note));
        }
    }
}
