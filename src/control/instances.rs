//! Instances: observe, decide, say, act; one step a time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use super::decide::{self, Opening, PlanLookup};
use super::plans::Plans;
use super::retries::Retries;
use super::{Error, deadline};
use crate::api::conditions::{self, Progress, READY, Reason};
use crate::api::{CacheInstance, FINALIZER};
use crate::provider::{Again, Desired, Fault, Next, Providers, Report};

/// How soon to look again after somebody else wrote the resource at the same time. The watch is usually sooner.
const AFTER_CONFLICT: Duration = Duration::from_millis(500);

/// What reconciling an instance needs.
pub struct Instances {
    /// The API server.
    pub client: Client,
    /// Plans and their revisions.
    pub plans: Plans,
    /// The providers that are switched on.
    pub providers: Providers,
    /// Publishes Kubernetes Events.
    pub events: Recorder,
    /// Pace of failures.
    pub retries: Retries,
    /// How often an instance at rest is looked at although nothing happened.
    pub resync: Duration,
}

/// One reconcile of one instance.
struct Run<'a> {
    context: &'a Instances,
    api: Api<CacheInstance>,
    reference: ObjectRef<CacheInstance>,
    instance: Arc<CacheInstance>,
    plan: PlanLookup,
}

impl Instances {
    /// Brings an instance one step nearer to what it asks for.
    ///
    /// # Errors
    /// When the API server does not answer or refuses.
    pub async fn reconcile(&self, instance: Arc<CacheInstance>) -> Result<Action, Error> {
        let namespace = instance.namespace().unwrap_or_default();
        let reference = ObjectRef::from_obj(&*instance);
        let plan = self.plans.look_up(&instance);
        let api = Api::namespaced(self.client.clone(), &namespace);
        let mut run = Run {
            context: self,
            api,
            reference,
            instance,
            plan,
        };
        match run.reconcile().await {
            Err(Error::Kube(kube::Error::Api(status))) if status.is_conflict() => Ok(Action::requeue(AFTER_CONFLICT)),
            outcome => outcome,
        }
    }

    /// When to try again after an error.
    pub fn after_error(&self, instance: &CacheInstance, error: &Error) -> Action {
        let reference = ObjectRef::from_obj(instance);
        tracing::warn!(instance = %reference, %error, "reconciling");
        Action::requeue(self.retries.failed(&reference, None))
    }
}

impl Run<'_> {
    async fn reconcile(&mut self) -> Result<Action, Error> {
        match decide::open(&self.instance, &self.plan) {
            Opening::Nothing => Ok(Action::await_change()),
            Opening::AddFinalizer => {
                self.set_finalizer(true).await?;
                Ok(Action::await_change())
            }
            Opening::LetGo => {
                self.set_finalizer(false).await?;
                self.context.retries.rested(&self.reference);
                Ok(Action::await_change())
            }
            Opening::Say(report) => {
                self.say(&report).await?;
                self.context.retries.rested(&self.reference);
                Ok(Action::requeue(self.context.resync))
            }
            Opening::Proceed(desired) => self.proceed(&desired).await,
        }
    }

    async fn proceed(&mut self, desired: &Desired) -> Result<Action, Error> {
        let providers = &self.context.providers;
        let observed = match providers.observe(desired).await {
            Ok(observed) => observed,
            Err(fault) => return self.faulted(desired, None, fault).await,
        };
        let decision = providers.decide(desired, &observed, Timestamp::now());
        providers.settle(desired, &observed, &decision);
        match &decision.step {
            Next::Rest => {
                self.say(&decision.report).await?;
                self.context.retries.rested(&self.reference);
                Ok(match decision.again {
                    Again::OnChange => Action::requeue(self.context.resync),
                    Again::After(wait) => Action::requeue(wait),
                })
            }
            Next::Release => {
                self.set_finalizer(false).await?;
                self.context.retries.rested(&self.reference);
                Ok(Action::await_change())
            }
            Next::Act(step) => {
                // The status is written before the step: what is about to be made is on record first. While the last
                // try's fault stands, the condition goes on showing it.
                let report = match self.context.retries.fault(&self.reference) {
                    Some(fault) => decision.report.clone().with_fault(&fault),
                    None => decision.report.clone(),
                };
                self.say(&report).await?;
                match providers.act(desired, &observed, step).await {
                    Ok(again) => {
                        let pace = self.context.retries.stepped(&self.reference);
                        Ok(Action::requeue(again.max(pace)))
                    }
                    Err(fault) => self.faulted(desired, Some(decision.report), fault).await,
                }
            }
        }
    }

    async fn faulted(&mut self, desired: &Desired, report: Option<Report>, fault: Fault) -> Result<Action, Error> {
        let report = report.unwrap_or_else(|| {
            let record = desired.record.clone();
            let unknown = Report::new(Progress::Reconciling, Reason::ProviderUnavailable, "", record);
            decide::unobserved(&self.instance, unknown)
        });
        tracing::warn!(instance = %self.reference, %fault, "a step did not succeed");
        self.say(&report.with_fault(&fault)).await?;
        Ok(Action::requeue(
            self.context.retries.failed(&self.reference, Some(fault)),
        ))
    }

    /// Writes the status if it differs, on condition that nobody wrote the resource since it was read, and publishes an
    /// Event if its reason changed.
    async fn say(&mut self, report: &Report) -> Result<(), Error> {
        let status = decide::status(&self.instance, &self.plan, report, Timestamp::now());
        if self.instance.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let reason = |instance: &CacheInstance| {
            let status = instance.status.as_ref()?;
            conditions::find(&status.conditions, READY).map(|condition| condition.reason.clone())
        };
        let before = reason(&self.instance);
        let mut changed = (*self.instance).clone();
        changed.status = Some(status);
        let name = self.instance.name_any();
        let written = deadline(self.api.replace_status(&name, &PostParams::default(), &changed)).await?;
        self.instance = Arc::new(written);
        if before.as_deref() != Some(report.reason.as_str()) {
            self.publish(report).await;
        }
        Ok(())
    }

    async fn publish(&self, report: &Report) {
        let warning = report.progress == Progress::Stalled
            || matches!(
                report.reason,
                Reason::ProviderUnavailable
                    | Reason::ProviderStateUnknown
                    | Reason::Unavailable
                    | Reason::WorkloadFailing
            );
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: report.reason.as_str().to_owned(),
            note: Some(report.message.chars().take(1000).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let reference = self.instance.object_ref(&());
        match deadline(self.context.events.publish(&event, &reference)).await {
            // An instance in a namespace that is going away cannot have Events any more.
            Ok(()) => {}
            Err(error) => tracing::debug!(instance = %self.reference, %error, "publishing an Event"),
        }
    }

    async fn set_finalizer(&self, held: bool) -> Result<(), Error> {
        let mut finalizers: Vec<_> = self
            .instance
            .finalizers()
            .iter()
            .filter(|finalizer| *finalizer != FINALIZER)
            .cloned()
            .collect();
        if held {
            finalizers.push(FINALIZER.to_owned());
        }
        let patch = json!({ "metadata": {
            "resourceVersion": self.instance.resource_version(),
            "finalizers": finalizers,
        } });
        let call = async {
            self.api
                .patch_metadata(
                    &self.instance.name_any(),
                    &PatchParams::default(),
                    &Patch::Merge(&patch),
                )
                .await
        };
        match deadline(call).await {
            // Nobody is left to hold.
            Err(Error::Kube(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
            outcome => outcome.map(|_| ()),
        }
    }
}
