//! Instances: observe, decide, say, act; step after step, as far as what a step changed is known at once.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use kube::api::PostParams;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};
use tracing::Instrument as _;

use super::backups::BackupIndex;
use super::controllers::Reconciler;
use super::decide::{self, BackupLookup, Opening, PlanLookup};
use super::departures::Departures;
use super::events;
use super::plans::Plans;
use super::retries::Retries;
use super::{Error, deadline, set_finalizer, status};
use crate::ambient;
use crate::api::conditions::{self, Progress, READY, Reason};
use crate::api::{CacheInstance, CacheInstanceStatus, annotations};
use crate::provider::{Again, Desired, Done, Fault, Next, Providers, Report};

/// How soon to look again after somebody else wrote the resource at the same time. The watch is usually sooner.
const AFTER_CONFLICT: Duration = Duration::from_millis(500);

/// How many steps are taken in a row before others have their turn.
const STEPS_AT_ONCE: usize = 8;

/// What reconciling an instance needs.
pub struct Instances {
    /// The API server.
    pub client: Client,
    /// Plans and their revisions.
    pub plans: Plans,
    /// Backups, to fill instances from.
    pub backups: BackupIndex,
    /// Of whom nobody needs any more what a change left behind.
    pub departures: Departures,
    /// The providers that are switched on.
    pub providers: Providers,
    /// Pace of failures.
    pub retries: Retries<CacheInstance>,
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
    backup: BackupLookup,
}

impl Reconciler for Instances {
    type Object = CacheInstance;

    async fn reconcile(&self, instance: Arc<CacheInstance>) -> Result<Action, Error> {
        let namespace = instance.namespace().unwrap_or_default();
        let reference = ObjectRef::from_obj(&*instance);
        let plan = self.plans.look_up(&instance);
        let backup = self.backups.look_up(&instance);
        let api = Api::namespaced(self.client.clone(), &namespace);
        let mut run = Run {
            context: self,
            api,
            reference,
            instance,
            plan,
            backup,
        };
        let span = tracing::info_span!(
            "reconcile",
            instance = %run.reference,
            request = run.instance.annotations().get(annotations::REQUEST_IDENTITY),
            osb_instance = run.instance.annotations().get(annotations::INSTANCE_ID),
            operation = run.instance.annotations().get(annotations::OPERATION_ID),
        );
        match run.reconcile().instrument(span).await {
            Err(Error::Kube(kube::Error::Api(status))) if status.is_conflict() => Ok(Action::requeue(AFTER_CONFLICT)),
            outcome => outcome,
        }
    }

    fn after_error(&self, instance: &CacheInstance, error: &Error) -> Action {
        let reference = ObjectRef::from_obj(instance);
        tracing::warn!(instance = %reference, %error, "reconciling");
        Action::requeue(self.retries.failed(&reference, None))
    }
}

impl Run<'_> {
    async fn reconcile(&mut self) -> Result<Action, Error> {
        for _ in 0..STEPS_AT_ONCE {
            if let ControlFlow::Break(action) = self.step().await? {
                return Ok(action);
            }
            self.plan = self.context.plans.look_up(&self.instance);
            self.backup = self.context.backups.look_up(&self.instance);
        }
        Ok(Action::requeue(Duration::ZERO))
    }

    /// Takes one step. Another one can be taken at once, unless there is something to wait for.
    async fn step(&mut self) -> Result<ControlFlow<Action>, Error> {
        match decide::open(&self.instance, &self.plan, &self.backup) {
            Opening::Nothing => Ok(ControlFlow::Break(Action::await_change())),
            Opening::AddFinalizer => {
                self.set_finalizer(true).await?;
                Ok(ControlFlow::Continue(()))
            }
            Opening::LetGo => {
                self.set_finalizer(false).await?;
                self.context.retries.rested(&self.reference);
                Ok(ControlFlow::Break(Action::await_change()))
            }
            Opening::Say(report) => {
                self.say(&report).await?;
                self.context.retries.rested(&self.reference);
                Ok(ControlFlow::Break(Action::requeue(self.context.resync)))
            }
            Opening::Proceed(mut desired) => self.proceed(&mut desired).await,
        }
    }

    async fn proceed(&mut self, desired: &mut Desired) -> Result<ControlFlow<Action>, Error> {
        let providers = &self.context.providers;
        let observed = match providers.observe(desired).await {
            Ok(observed) => observed,
            Err(fault) => return self.faulted(desired, None, fault).await.map(ControlFlow::Break),
        };
        // Asked after the Secret was looked at: it speaks of that one, or of a later.
        desired.release_superseded |= self.context.departures.are_over(&self.instance, &providers.stores);
        let desired = &*desired;
        let decision = providers.decide(desired, &observed, ambient::now());
        providers.settle(desired, &observed, &decision);
        match &decision.step {
            Next::Rest | Next::Replace => {
                self.say(&decision.report).await?;
                self.context.retries.rested(&self.reference);
                Ok(ControlFlow::Break(match decision.again {
                    Again::OnChange => Action::requeue(self.context.resync),
                    Again::After(wait) => Action::requeue(wait.min(self.context.resync)),
                }))
            }
            Next::Release => {
                self.set_finalizer(false).await?;
                self.context.retries.rested(&self.reference);
                Ok(ControlFlow::Break(Action::await_change()))
            }
            Next::Act(step) => {
                // The status is written before the step: what is about to be made is on record first. Other words alone
                // are not worth a write, since the step may be done sooner. While the last try's fault stands, the
                // condition goes on showing it.
                let report = match self.context.retries.fault(&self.reference) {
                    Some(fault) => decision.report.clone().with_fault(&fault),
                    None => decision.report.clone(),
                };
                let status = self.status(&report);
                let said = self.instance.status.as_ref();
                let is_reworded = said.is_some_and(|said| status::is_reworded(said, &status));
                // What nobody would take away again is not made of a resource that may be gone: the write is refused then.
                if !is_reworded || step.makes_what_outlives() {
                    self.write(status, &report).await?;
                }
                tracing::info!(reason = report.reason.as_str(), step = %step.name(), "step");
                match providers.act(desired, step).await {
                    Ok(done) => Ok(match (done, self.context.retries.stepped(&self.reference)) {
                        (Done::Observed, Duration::ZERO) => ControlFlow::Continue(()),
                        (Done::Observed, pace) => ControlFlow::Break(Action::requeue(pace)),
                        (Done::Later(wait), pace) => ControlFlow::Break(Action::requeue(wait.max(pace))),
                    }),
                    Err(fault) => {
                        let report = Some(decision.report);
                        self.faulted(desired, report, fault).await.map(ControlFlow::Break)
                    }
                }
            }
        }
    }

    async fn faulted(&mut self, desired: &Desired, report: Option<Report>, fault: Fault) -> Result<Action, Error> {
        let report = report.unwrap_or_else(|| {
            let record = desired.record.clone();
            let unknown = Report::new(Progress::Reconciling, Reason::ProviderUnavailable, "", record);
            status::carried(&self.instance, unknown)
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
        let status = self.status(report);
        if self.instance.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.write(status, report).await
    }

    /// The status that says this.
    fn status(&self, report: &Report) -> CacheInstanceStatus {
        status::status(
            &self.instance,
            &self.plan,
            report,
            self.context.plans.later(&self.plan).as_ref(),
            self.context.backups.latest(&self.instance),
            ambient::now(),
        )
    }

    async fn write(&mut self, status: CacheInstanceStatus, report: &Report) -> Result<(), Error> {
        let before = self.instance.clone();
        let mut changed = (*before).clone();
        changed.status = Some(status);
        let name = self.instance.name_any();
        let written = deadline(self.api.replace_status(&name, &PostParams::default(), &changed)).await?;
        self.instance = Arc::new(written);
        let said = events::Said::of(report.progress, report.reason, &report.message);
        let before = before.status.as_ref().map(|status| &status.conditions[..]);
        if said.is_news(before.and_then(|before| conditions::find(before, READY))) {
            events::publish(&self.context.client, &self.instance.object_ref(&()), said).await;
        }
        Ok(())
    }

    async fn set_finalizer(&mut self, held: bool) -> Result<(), Error> {
        if let Some(metadata) = set_finalizer(&self.api, &*self.instance, held).await? {
            Arc::make_mut(&mut self.instance).metadata = metadata;
        }
        Ok(())
    }
}
