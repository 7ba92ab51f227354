//! What is to be done next for an instance that is to exist, and what its status says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use super::super::{Decision, Desired, Leave, Report};
use super::decide::report;
use super::node::{Lack, Node, Setting, Stage, look};
use super::observed::Observed;
use super::sizing::{self, Impossible};
use super::users::Users;
use super::workload::{Workload, workloads};
use super::{Kind, Placement, Step, manifests, template};
use crate::api::conditions::{Progress, Reason};
use crate::api::{self, Connection, Endpoint, KubernetesSpec, ProviderKind, annotations};
use crate::provider::secrets::{self, SecretStep};
use crate::provider::users::LOOK_AGAIN;
use crate::settings::ServiceHost;

/// An instance that is to exist, and what stands of it.
pub struct Instance<'a> {
    desired: &'a Desired,
    spec: &'a KubernetesSpec,
    placement: &'a Placement,
    observed: &'a Observed,
    now: Timestamp,
    workloads: BTreeMap<&'a str, Vec<Workload<'a>>>,
    /// The nodes that it is to have.
    names: Vec<String>,
    /// The nodes that it is not to have any more.
    surplus: Vec<String>,
    /// The restart that is asked for and due by now.
    restart: Option<Timestamp>,
    /// Whether a change that loses data may be made now.
    leave: Leave,
    /// Its users, if it has some.
    users: Option<Users<'a>>,
}

impl<'a> Instance<'a> {
    /// Looks at what stands.
    pub fn new(
        desired: &'a Desired,
        spec: &'a KubernetesSpec,
        placement: &'a Placement,
        observed: &'a Observed,
        now: Timestamp,
    ) -> Self {
        let workloads = workloads(observed, &desired.uid);
        let names = manifests::node_names(desired, spec, observed);
        let services = observed.services.keys().map(String::as_str);
        let services = services.filter(|name| observed.is_of(&desired.uid, Kind::Service, name));
        let standing: BTreeSet<_> = services.chain(workloads.keys().copied()).collect();
        let surplus = standing
            .into_iter()
            .filter(|name| !names.iter().any(|wanted| wanted == name))
            .map(str::to_owned)
            .collect();
        // What was begun is not undone because a clock was set back.
        let begun = |time: &Timestamp| {
            let mut standing = workloads.values().flatten();
            standing.any(|workload| workload.restarted_at() == Some(*time))
        };
        let restart = desired.restart_due(now).or_else(|| desired.restart_at.filter(begun));
        // Nobody has data in what never answered, and who asks for a restart means it.
        let nobodys = !desired.was_ready && desired.adopt.is_none();
        let leave = if nobodys || restart > desired.record.restarted_at {
            Leave::Granted
        } else {
            Leave::of(desired.consent, sizing::window(spec).ok().flatten(), now)
        };
        Self {
            desired,
            spec,
            placement,
            observed,
            now,
            workloads,
            names,
            surplus,
            restart,
            leave,
            users: password(desired, observed).and_then(|password| Users::of(desired, observed, &password)),
        }
    }

    /// What to do next.
    pub fn decide(&self) -> Decision<Step> {
        let item_memory = match self.judge() {
            Ok(item_memory) => item_memory,
            Err(_) if self.stays_as_found() => 0,
            Err(impossible) => {
                let message = impossible.to_string();
                return Decision::rest(self.say(Progress::Stalled, Reason::ProviderRefused, message, &[]));
            }
        };
        let password = password(self.desired, self.observed);
        let open = self.desired.took_over_workload();
        if self.desired.plan.engine.type_.is_redis_like()
            && !open
            && let Some(step) = secrets::auth_step(self.desired, &self.observed.secrets)
        {
            let report = match step {
                SecretStep::CreateAuth => self.working("making the password", &[]),
                _ => self.working(
                    "putting back the password that it was started with",
                    &self.nodes(item_memory),
                ),
            };
            return Decision::act(Step::Secret(step), report);
        }
        let nodes = self.nodes(item_memory);
        if let Some(step) = self.users.as_ref().and_then(Users::file) {
            let report = self.working("writing the users that Pods start with", &nodes);
            return Decision::act(Step::Secret(step), report);
        }
        let decision = self
            .next(&nodes, password)
            .unwrap_or_else(|| Decision::rest(self.at_rest(&nodes)));
        match self.look_again(&nodes) {
            Some(wait) => decision.after(wait),
            None => decision,
        }
    }

    /// Whether what was taken over goes on as it was found, and nothing is made from the plan.
    fn stays_as_found(&self) -> bool {
        let mut standing = self.workloads.values().flatten();
        let found = standing.any(|workload| workload.template().is_none() && !workload.is_deleting());
        found && self.desired.as_found && self.restart <= self.desired.record.restarted_at
    }

    /// Memory for items of a node in MiB, if the plan can be made.
    fn judge(&self) -> Result<u32, Impossible> {
        let engine = self.desired.plan.engine.type_;
        if engine.is_redis_like() && self.spec.replicas.unwrap_or(1) > 1 {
            return Err(Impossible::NoReplicas(engine));
        }
        sizing::window(self.spec)?;
        for node in &self.names {
            self.same_class(template::claim(node))?;
        }
        sizing::item_memory(engine, self.spec)
    }

    fn same_class(&self, claim: String) -> Result<(), Impossible> {
        let wanted = self.spec.persistence.as_ref().and_then(|of| of.storage_class.as_ref());
        let live = self.observed.claims.get(&claim).and_then(|live| live.spec.as_ref());
        match (wanted, live.and_then(|spec| spec.storage_class_name.as_ref())) {
            (Some(wanted), Some(is)) if wanted != is => Err(Impossible::OtherStorageClass {
                claim,
                is: is.clone(),
                wanted: wanted.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Every node that is to be. One is changed at a time, and only when those before it have settled.
    fn nodes(&self, item_memory: u32) -> Vec<Node> {
        let setting = Setting {
            desired: self.desired,
            spec: self.spec,
            observed: self.observed,
            item_memory,
            restart: self.restart,
            leave: self.leave == Leave::Granted,
            users: self.users.as_ref(),
        };
        let mut turn = true;
        let look = |name: &String| {
            let workloads = self.workloads.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let node = look(&setting, name, workloads, turn);
            turn = turn && node.stage == Stage::Settled;
            node
        };
        self.names.iter().map(look).collect()
    }

    /// The next step, if there is one.
    fn next(&self, nodes: &[Node], password: Option<SecretString>) -> Option<Decision<Step>> {
        let shared: Vec<_> = manifests::shared(self.desired, self.spec, self.placement)
            .into_iter()
            .filter(|manifest| !self.observed.has(manifest))
            .collect();
        if !shared.is_empty() {
            let report = self.working("applying what all nodes share", nodes);
            return Some(Decision::act(Step::Apply(shared), report));
        }
        if let Some((pod, address, change)) = self.users.as_ref().and_then(Users::difference) {
            let report = self.working(&format!("telling Pod {pod} of users"), nodes);
            let step = Step::Users {
                pod: pod.to_owned(),
                address,
                change,
            };
            return Some(Decision::act(step, report));
        }
        if let Some((step, doing)) = todo(nodes) {
            return Some(Decision::act(step, self.working(&doing, nodes)));
        }
        if let Some(step) = self.publish(nodes, password) {
            let report = self.working("writing the connection Secret", nodes);
            return Some(Decision::act(Step::Secret(step), report));
        }
        if nodes.iter().any(|node| node.stage != Stage::Settled) {
            return None;
        }
        let surplus = self.surplus_objects(nodes);
        (!surplus.is_empty()).then(|| {
            let report = self.working("removing what is not wanted any more", nodes);
            Decision::act(Step::Delete(surplus), report)
        })
    }

    /// The connection Secret, if it is to be written: when all nodes answer, or when it is gone.
    fn publish(&self, nodes: &[Node], password: Option<SecretString>) -> Option<SecretStep> {
        let answering = nodes.iter().all(|node| node.answers);
        let lost = !self.observed.secrets.contains_key(&self.desired.connection_secret);
        if !(answering || self.desired.was_ready && lost) {
            return None;
        }
        let names = self.names.iter().map(String::as_str).chain(self.held_surplus());
        let endpoints: Vec<_> = names.map(|name| self.endpoint(name)).collect::<Option<_>>()?;
        let first = endpoints.first()?;
        let engine = self.desired.plan.engine.type_;
        let open = self.desired.took_over_workload();
        let user = self.desired.plan.engine.default_user().filter(|_| !open);
        let connection = Connection {
            engine,
            provider: ProviderKind::Kubernetes,
            host: first.host.clone(),
            port: first.port,
            tls: false,
            username: user.map(str::to_owned),
            password: password.filter(|_| !open),
            nodes: endpoints.iter().map(|endpoint| endpoint.address.clone()).collect(),
        };
        secrets::connection_step(self.desired, &self.observed.secrets, &connection)
    }

    /// Nodes that are not wanted any more, hold data, and may not go yet.
    fn held_surplus(&self) -> impl Iterator<Item = &str> {
        let held = |name: &&str| {
            let workloads = self.workloads.get(name);
            self.leave != Leave::Granted && workloads.is_some_and(|all| all.iter().any(Workload::holds_data))
        };
        self.surplus.iter().map(String::as_str).filter(held)
    }

    /// Objects that are not wanted any more, as far as they may go.
    fn surplus_objects(&self, nodes: &[Node]) -> Vec<(Kind, String)> {
        let held: BTreeSet<_> = self.held_surplus().collect();
        let of_nodes = self.surplus.iter().filter(|name| !held.contains(name.as_str()));
        let of_nodes = of_nodes.flat_map(|name| {
            let workloads = self.workloads.get(name.as_str()).into_iter().flatten();
            let deployments = workloads.map(|workload| (Kind::Deployment, workload.name.to_owned()));
            let others = [
                (Kind::Service, name.clone()),
                (Kind::PersistentVolumeClaim, template::claim(name)),
            ];
            deployments.chain(others)
        });
        let budgeted = manifests::shared(self.desired, self.spec, self.placement)
            .iter()
            .any(|manifest| manifest.kind == Kind::PodDisruptionBudget);
        let budget = (Kind::PodDisruptionBudget, self.desired.name.clone());
        let users = self.users.as_ref();
        let pods: Vec<_> = nodes.iter().map(|node| node.pods.clone()).collect();
        let secrets = users.map(|users| users.surplus(&pods, self.now)).unwrap_or_default();
        of_nodes
            .chain(secrets.into_iter().map(|name| (Kind::Secret, name)))
            .chain((!budgeted && held.is_empty()).then_some(budget))
            .filter(|(kind, name)| self.observed.is_of(&self.desired.uid, *kind, name))
            .filter(|(kind, name)| !self.observed.is_deleting(*kind, name))
            .collect()
    }

    /// What to say when there is nothing to be done now.
    fn at_rest(&self, nodes: &[Node]) -> Report {
        let stage = |pick: fn(&Stage) -> bool| nodes.iter().find(|node| pick(&node.stage));
        let worst = stage(|stage| matches!(stage, Stage::Down(..)))
            .or_else(|| stage(|stage| matches!(stage, Stage::Failing(_))))
            .or_else(|| stage(|stage| matches!(stage, Stage::Wait(_))))
            .or_else(|| stage(|stage| *stage == Stage::Held));
        match worst.map(|node| (&node.name, &node.stage)) {
            Some((node, Stage::Down(deployment, lack))) => self.down(nodes, node, deployment, lack),
            Some((node, Stage::Failing(why))) => {
                let message = format!(
                    "{why}; {node} serves as before meanwhile, and stays so if the plan or the parameters are put back"
                );
                self.say(self.progress(nodes), Reason::WorkloadFailing, message, nodes)
            }
            Some((_, Stage::Wait(doing))) => self.working(doing, nodes),
            Some((node, _)) => self.held(nodes, &format!("replacing the Pod of {node}")),
            None => self.settled(nodes),
        }
    }

    fn down(&self, nodes: &[Node], node: &str, deployment: &str, lack: &Lack) -> Report {
        let said = match lack {
            Lack::Lost(why) => why.as_deref().unwrap_or("its Pod does not answer"),
            Lack::Failing(why) | Lack::Coming(why) => why,
        };
        let reason = match lack {
            Lack::Lost(_) if self.desired.was_ready => Reason::Unavailable,
            Lack::Failing(_) => Reason::WorkloadFailing,
            Lack::Lost(_) | Lack::Coming(_) => self.doing(),
        };
        let gap = self.desired.was_ready && self.spec.persistence.is_some() && matches!(lack, Lack::Coming(_));
        let message = if gap {
            format!("{node} does not answer until Deployment {deployment} has taken over its volume: {said}")
        } else {
            format!("Deployment {deployment}: {said}")
        };
        self.say(self.progress(nodes), reason, message, nodes)
    }

    fn held(&self, nodes: &[Node], what: &str) -> Report {
        let until = match self.leave {
            Leave::At(time) => format!("waits for the maintenance window, which opens at {time}"),
            Leave::Granted | Leave::OnConsent => {
                "waits for consent, since neither plan nor parameters name a maintenanceWindow".to_owned()
            }
        };
        let message = format!(
            "{what} loses what it holds, and {until}; to have it done now, annotate the instance with {}=true",
            annotations::APPROVE_DISRUPTION
        );
        self.say(self.progress(nodes), Reason::AwaitingMaintenance, message, nodes)
    }

    fn settled(&self, nodes: &[Node]) -> Report {
        let held: Vec<_> = self.held_surplus().collect();
        if !held.is_empty() {
            return self.held(nodes, &format!("removing {}", held.join(", ")));
        }
        if !self.surplus.is_empty() {
            let message = format!("waiting for the end of {}", self.surplus.join(", "));
            return self.working(&message, nodes);
        }
        if let Some(pending) = self.pending_users(nodes) {
            // All others are served.
            let mut report = self.say(Progress::ReadyAndReconciling, Reason::Updating, pending, nodes);
            report.bound = true;
            return report;
        }
        let first = self.names.first().and_then(|name| self.endpoint(name));
        let Some(endpoint) = first else {
            return self.working("waiting for the Service to get its address", nodes);
        };
        let engine = self.desired.plan.engine.type_;
        let message = format!("{engine} answers at {}", endpoint.address);
        let mut report = self.say(Progress::Ready, Reason::Available, message, nodes);
        report.record.restarted_at = self.desired.record.restarted_at.max(self.restart);
        report.bound = true;
        report.engine = Some(api::RunningEngine {
            type_: engine,
            version: self.running(nodes),
        });
        report
    }

    /// The version that the first node's server says that it runs, else that of the plan.
    fn running(&self, nodes: &[Node]) -> String {
        let mut pods = nodes.first().into_iter().flat_map(|node| &node.pods);
        let said = pods.find_map(|pod| self.observed.versions.get(pod));
        said.unwrap_or(&self.desired.plan.engine.version).clone()
    }

    /// What of the users is waited for.
    fn pending_users(&self, nodes: &[Node]) -> Option<String> {
        let pods: Vec<_> = nodes.iter().map(|node| node.pods.clone()).collect();
        self.users.as_ref()?.pending(&pods)
    }

    /// When to look again although nothing changed. Of what Pods do with their users nobody tells.
    fn look_again(&self, nodes: &[Node]) -> Option<Duration> {
        let users = self.pending_users(nodes).map(|_| LOOK_AGAIN);
        users.into_iter().chain(self.opens(nodes)).min()
    }

    /// When something that waits for its time may be done.
    fn opens(&self, nodes: &[Node]) -> Option<Duration> {
        let awaits = nodes.iter().any(|node| node.stage == Stage::Held) || self.held_surplus().next().is_some();
        let opens = match self.leave {
            Leave::At(time) if awaits => Some(time),
            _ => None,
        };
        let restart = self.desired.restart_at.filter(|time| Some(*time) != self.restart);
        let next = opens.into_iter().chain(restart).min()?;
        Duration::try_from(next.duration_since(self.now)).ok()
    }

    /// What is going on, in a word.
    fn doing(&self) -> Reason {
        if !self.desired.was_ready {
            Reason::Creating
        } else if self.restart > self.desired.record.restarted_at {
            Reason::Restarting
        } else {
            Reason::Updating
        }
    }

    fn progress(&self, nodes: &[Node]) -> Progress {
        if self.desired.was_ready && !nodes.is_empty() && nodes.iter().all(|node| node.answers) {
            Progress::ReadyAndReconciling
        } else {
            Progress::Reconciling
        }
    }

    fn working(&self, message: &str, nodes: &[Node]) -> Report {
        self.say(self.progress(nodes), self.doing(), message.to_owned(), nodes)
    }

    /// A report with the addresses that are known. A further node is shown when it answered once.
    fn say(&self, progress: Progress, reason: Reason, message: String, nodes: &[Node]) -> Report {
        let coming = |name: &str| {
            let mut others = nodes.iter().skip(1);
            others.any(|node| {
                node.name == name && matches!(node.stage, Stage::Down(_, Lack::Coming(_) | Lack::Failing(_)))
            })
        };
        let mut report = report(self.desired, progress, reason, message);
        if self.desired.plan.engine.type_.is_redis_like() && !self.desired.took_over_workload() {
            report.record.token = secrets::auth_record(self.desired, &self.observed.secrets);
        }
        if let Some(users) = &self.users {
            let pods: Vec<_> = nodes.iter().map(|node| node.pods.clone()).collect();
            report.record.users = users.record(&pods);
        }
        let names = self.names.iter().map(String::as_str).filter(|name| !coming(name));
        report.nodes = names
            .chain(self.held_surplus())
            .filter_map(|name| {
                let endpoint = self.endpoint(name)?;
                Some(api::Node {
                    id: name.to_owned(),
                    host: Some(endpoint.host),
                    port: Some(endpoint.port),
                })
            })
            .collect();
        report.endpoint = self.names.first().and_then(|name| self.endpoint(name));
        report.bound = self.desired.was_ready && self.observed.secrets.contains_key(&self.desired.connection_secret);
        report
    }

    /// Where a node answers, once its Service has an address.
    fn endpoint(&self, node: &str) -> Option<Endpoint> {
        let service = self.observed.services.get(node)?;
        let address = service.spec.as_ref()?.cluster_ip.clone();
        let address = address.filter(|address| !address.is_empty())?;
        let host = match self.placement.service_host {
            ServiceHost::ClusterIp => address,
            ServiceHost::Dns => format!(
                "{node}.{}.svc.{}",
                self.desired.namespace, self.placement.cluster_domain
            ),
        };
        let port = manifests::port(self.desired, self.observed, node);
        Some(Endpoint::new(host, port, false))
    }
}

/// The password of the default user.
fn password(desired: &Desired, observed: &Observed) -> Option<SecretString> {
    let secret = observed.secrets.get(&desired.auth_secret())?;
    secrets::password(secret)
}

/// What is to be done for nodes now, and for what. What is to be applied for several is applied at once.
fn todo(nodes: &[Node]) -> Option<(Step, String)> {
    let mut steps = nodes.iter().filter_map(|node| match &node.stage {
        Stage::Do(step, doing) => Some((step.clone(), doing.clone())),
        _ => None,
    });
    let (mut step, mut doing) = steps.next()?;
    for (further, what) in steps {
        if let (Step::Apply(manifests), Step::Apply(more)) = (&mut step, further) {
            manifests.extend(more);
            doing = format!("{doing}, {what}");
        }
    }
    Some((step, doing))
}
