//! What each call does: read the request, have the ledger judge it by its pure function, carry the answer.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::actions::{self, Action};
use super::credentials::FreshUser;
use super::decide::{self, Answer, Reply};
use super::request::{BindRequest, DeprovisionRequest, Origin, ProvisionRequest, UnbindRequest, UpdateRequest};
use super::{Asking, Facade};
use crate::ambient;
use crate::api::CachePlanSpec;
use crate::ledger::{
    Answered, Asked, BindingId, Bound, Deed, Held, InstanceId, Provisioned, Request, Settled, Unbound,
};
use crate::telemetry::metrics::record;
use crate::wire::{self, Flush, Target};

/// How many names of parameters are recorded, and how long each at most.
const MAX_NAMES: usize = 32;
const MAX_NAME: usize = 64;

impl Asking<'_> {
    /// What is recorded of a request that names nothing more.
    fn asked(&self, request: Request) -> Asked {
        Asked {
            asker: self.asker.clone(),
            request,
            binding: None,
            plan: None,
            parameters: Vec::new(),
        }
    }
}

/// The names of parameters as they are recorded: some of them, as far as a line of text takes them.
fn names(parameters: &Map<String, Value>) -> Vec<String> {
    let shown = |name: &String| name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    parameters.keys().take(MAX_NAMES).map(shown).collect()
}

impl Facade {
    /// Records a request that changed nothing, and what it was answered. That it cannot be recorded is no reason to
    /// refuse it.
    async fn noted(&self, id: &InstanceId, asked: &Asked, reply: Reply) -> Reply {
        let answered = match &reply {
            Ok(answer) => Answered {
                status: answer.status.as_u16(),
                refusal: None,
                operation: answer
                    .body
                    .get("operation")
                    .and_then(|text| text.as_str()?.parse().ok()),
            },
            // What is wrong with a request may show a tenant's values.
            Err(error) => Answered {
                status: error.status().as_u16(),
                refusal: Some(error.description())
                    .filter(|text| !text.is_empty() && error.status() != StatusCode::BAD_REQUEST),
                operation: None,
            },
        };
        if let Err(error) = self.ledger.note(id, asked, &answered).await {
            tracing::warn!(instance = %id, %error, "a request was not recorded");
        }
        reply
    }

    /// The answer to what was accepted, or was judged not to be.
    async fn settled(&self, id: &InstanceId, asked: &Asked, settled: Settled<Reply, Uuid>) -> Reply {
        match settled {
            Settled::Answered(reply) => self.noted(id, asked, reply).await,
            Settled::Accepted(operation) => Ok(Answer::accepted(operation)),
        }
    }

    pub(super) async fn provision(&self, id: &InstanceId, asking: &Asking<'_>, body: &[u8]) -> Reply {
        let request = ProvisionRequest::parse(body, &asking.query, asking.version, self.webhook_policy)?;
        let asked = Asked {
            plan: Some(request.plan_id.to_string()),
            parameters: names(&request.parameters),
            ..asking.asked(Request::Provision)
        };
        let catalog = self.current_catalog()?;
        self.about(asking, Some(request.plan_id.as_str()));
        let plan = catalog.plan(&request.service_id, &request.plan_id);
        decide::provision::admit(&request, plan)?;
        let scope = self.quotas.scope(Some(&request.organization_guid), plan.ok());
        let settled = self
            .ledger
            .provision(id, &asked, &scope, |held, usage| {
                decide::provision::judge(&request, plan, &self.namespaces, (&self.quotas, usage), held)
            })
            .await?;
        let reply = match settled {
            Settled::Answered(reply) => self.noted(id, &asked, reply).await,
            Settled::Accepted(Provisioned::Begun(operation)) => Ok(Answer::accepted(operation)),
            Settled::Accepted(Provisioned::Claimed) => {
                if let Ok(plan) = plan {
                    record::pool_claim(&plan.resource);
                }
                Ok(Answer::created())
            }
        };
        reply.map(|answer| actions::listed(answer, id, plan.ok().map(|plan| &plan.spec), asking.version))
    }

    pub(super) async fn update(&self, id: &InstanceId, asking: &Asking<'_>, body: &[u8]) -> Reply {
        let request = UpdateRequest::parse(body, &asking.query, asking.version, self.webhook_policy)?;
        let asked = Asked {
            plan: request.plan_id.as_ref().map(ToString::to_string),
            parameters: request.parameters.as_ref().map(names).unwrap_or_default(),
            ..asking.asked(Request::Update)
        };
        decide::update::admit(&request)?;
        let catalog = self.current_catalog()?;
        self.about(asking, request.plan_id.as_ref().map(|plan| plan.as_str()));
        let target = request
            .plan_id
            .as_ref()
            .and_then(|plan| catalog.plan_by_id(plan.as_str()));
        let scope = self.quotas.scope(None, target);
        let settled = self
            .ledger
            .update(id, &asked, &scope, |held, usage| {
                decide::update::judge(&request, &catalog, (&self.quotas, usage), held)
            })
            .await?;
        match settled {
            Settled::Answered(reply) => self.noted(id, &asked, reply).await,
            Settled::Accepted(Some(operation)) => Ok(Answer::accepted(operation)),
            Settled::Accepted(None) => Ok(Answer::done()),
        }
    }

    pub(super) async fn act(
        &self,
        id: &InstanceId,
        action: Action,
        backup: Option<&str>,
        asking: &Asking<'_>,
    ) -> Reply {
        match action {
            Action::Restart => self.begin(id, Deed::Restart, Request::Restart, asking).await,
            Action::CreateBackup => self.begin(id, Deed::Backup, Request::Backup, asking).await,
            Action::RestoreBackup => {
                let deed = Deed::Restore(backup.unwrap_or_default().to_owned());
                self.begin(id, deed, Request::Restore, asking).await
            }
            Action::ListBackups | Action::GetBackup => {
                let held = self.ledger.reach(id).await?;
                decide::actions::backups(held.as_ref(), &self.ledger.backups(id).await?, backup)
            }
            Action::Flush => {
                let held = self.ledger.reach(id).await?;
                let reply = match decide::actions::flush(held.as_ref()) {
                    Ok(connection) => {
                        let target = Target::new(connection, &self.trust);
                        decide::actions::flushed(&wire::flush(&target, Flush::All).await)
                    }
                    Err(error) => Err(error),
                };
                self.noted(id, &asking.asked(Request::Flush), reply).await
            }
            Action::Stats => {
                let held = self.ledger.reach(id).await?;
                let target = Target::new(decide::actions::look(held.as_ref())?, &self.trust);
                decide::actions::counted(&wire::stats(&target).await)
            }
        }
    }

    /// What takes time is an operation.
    async fn begin(&self, id: &InstanceId, deed: Deed, request: Request, asking: &Asking<'_>) -> Reply {
        let webhook = asking.query.webhook(self.webhook_policy)?;
        let asked = asking.asked(request);
        let settled = self
            .ledger
            .act(id, &asked, |held, backups, filled| {
                decide::actions::act(deed, held, (backups, filled), self.deadline(held), webhook)
            })
            .await?;
        self.settled(id, &asked, settled).await
    }

    /// How long an operation on an instance may take. It is known without a catalog, and without the plan.
    fn deadline<S>(&self, held: Option<&Held<S>>) -> Duration {
        let catalog = self.catalog.borrow().clone();
        held.and_then(|held| Some(catalog?.plan_by_id(&held.instance.plan_id)?.spec.operation_deadline()))
            .unwrap_or(CachePlanSpec::DEFAULT_OPERATION_DEADLINE)
    }

    pub(super) async fn deprovision(&self, id: &InstanceId, asking: &Asking<'_>) -> Reply {
        let request = DeprovisionRequest::parse(&asking.query, self.webhook_policy)?;
        self.about(asking, asking.query.get("plan_id"));
        let asked = asking.asked(Request::Deprovision);
        decide::deprovision::admit(&request)?;
        let settled = self
            .ledger
            .deprovision(id, &asked, |held| {
                decide::deprovision::judge(&request, held, self.deadline(held))
            })
            .await?;
        self.settled(id, &asked, settled).await
    }

    pub(super) async fn last_operation(&self, id: &InstanceId, asking: &Asking<'_>) -> Reply {
        let named = decide::last_operation::named(asking.query.get("operation"), id)?;
        let polled = self.ledger.poll(id, named).await?;
        decide::last_operation::judge(polled.as_ref(), named.is_some(), asking.version, ambient::now())
    }

    pub(super) async fn bind(&self, id: &InstanceId, binding: &BindingId, asking: &Asking<'_>, body: &[u8]) -> Reply {
        let request = BindRequest::parse(body, &asking.query, asking.version, self.webhook_policy)?;
        self.about(
            asking,
            match &request.origin {
                Origin::Fresh { plan_id, .. } => Some(plan_id.as_str()),
                Origin::Successor { .. } => None,
            },
        );
        let asked = Asked {
            binding: Some(binding.clone()),
            plan: match &request.origin {
                Origin::Fresh { plan_id, .. } => Some(plan_id.to_string()),
                Origin::Successor { .. } => None,
            },
            parameters: names(&request.parameters),
            ..asking.asked(Request::Bind)
        };
        let catalog = self.catalog.borrow().clone();
        let user = FreshUser::generate();
        let settled = self
            .ledger
            .bind(id, binding, request.predecessor(), &asked, |held, standing| {
                let setting = decide::bind::Setting {
                    version: asking.version,
                    catalog: catalog.as_deref(),
                    user: &user,
                    deadline: self.deadline(held),
                };
                decide::bind::judge(&request, held, standing, &setting)
            })
            .await?;
        match settled {
            Settled::Answered(reply) => self.noted(id, &asked, reply).await,
            Settled::Accepted(Bound::Made(new)) => Ok(decide::bind::bound(
                StatusCode::CREATED,
                &new.credentials,
                asking.version,
            )),
            Settled::Accepted(Bound::Begun(operation)) => Ok(Answer::accepted(operation)),
        }
    }

    pub(super) async fn unbind(&self, id: &InstanceId, binding: &BindingId, asking: &Asking<'_>) -> Reply {
        self.about(asking, asking.query.get("plan_id"));
        let request = UnbindRequest::parse(&asking.query);
        let asked = Asked {
            binding: Some(binding.clone()),
            ..asking.asked(Request::Unbind)
        };
        let settled = self
            .ledger
            .unbind(id, binding, &asked, |held, existing| {
                decide::unbind::judge(&request, held, existing, self.deadline(held))
            })
            .await?;
        match settled {
            Settled::Answered(reply) => self.noted(id, &asked, reply).await,
            Settled::Accepted(Unbound::Done) => Ok(Answer::done()),
            Settled::Accepted(Unbound::Begun(operation)) => Ok(Answer::accepted(operation)),
        }
    }

    pub(super) async fn last_binding_operation(
        &self,
        id: &InstanceId,
        binding: &BindingId,
        asking: &Asking<'_>,
    ) -> Reply {
        let named = decide::last_binding_operation::named(asking.query.get("operation"))?;
        let polled = self.ledger.poll_binding(id, binding, named).await?;
        decide::last_binding_operation::judge(polled.as_ref(), named.is_some(), ambient::now())
    }
}
