//! What is to be done next for one node: a pure function of what stands.
//!
//! A node has one Service for life. It leads to one Deployment, the one that serves. The *target* is the Deployment that
//! is to serve; it is named by what its Pod is made from, so nothing needs to be remembered to find it again.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::Desired;
use super::inputs::Inputs;
use super::observed::Observed;
use super::template::{self, Purpose, TEMPLATE, Template};
use super::users::{Users, has_users};
use super::workload::{Workload, in_use};
use super::{Kind, Manifest, Step, legacy, manifests};
use crate::api::{KubernetesSpec, Memory};

/// How far a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// It is as it is to be.
    Settled,
    /// This is to be done, and what it is for.
    Do(Step, String),
    /// It answers, and the cluster is at work on this.
    Wait(String),
    /// It answers, and the Pod that is to take its place does not start.
    Failing(String),
    /// It does not answer: the Deployment that is to, and what it lacks.
    Down(String, Lack),
    /// It answers, and to change it would lose what it holds.
    Held,
    /// It answers, and another node is changed first.
    Queued,
}

/// Why a Deployment does not answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Lack {
    /// It answered before; what is known of the cause.
    Lost(Option<String>),
    /// Its Pod does not start, for this reason.
    Failing(String),
    /// It is on its way: what is waited for.
    Coming(String),
}

/// A node as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub stage: Stage,
    /// Whether it answers.
    pub answers: bool,
    /// The Pods that its Service leads to.
    pub pods: Vec<String>,
}

/// What holds for all nodes of an instance.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The instance.
    pub desired: &'a Desired,
    /// Its plan's part.
    pub spec: &'a KubernetesSpec,
    /// What stands.
    pub observed: &'a Observed,
    /// Memory for items of a node, in MiB.
    pub item_memory: u32,
    /// The restart that is due, if any.
    pub restart: Option<Timestamp>,
    /// Whether a change that loses what a node holds may be made now.
    pub leave: bool,
    /// Its users, if it has some.
    pub users: Option<&'a Users<'a>>,
}

/// The Deployment that is to serve.
enum Target<'a> {
    /// One of version 0.1 that runs what is wanted, or one that was taken over and stays as it was found.
    Legacy(Workload<'a>),
    /// One that is made from these.
    Made(Inputs<'a>),
}

/// One node, looked at.
struct Look<'a> {
    setting: &'a Setting<'a>,
    template: Template<'a>,
    workloads: &'a [Workload<'a>],
    selected: Option<&'a BTreeMap<String, String>>,
    target: Target<'a>,
    /// The target's name.
    name: String,
    /// The labels of the target's Pods.
    selector: BTreeMap<String, String>,
}

/// Looks at a node. Where it is not its turn, what it is to become is not begun.
pub fn look(setting: &Setting<'_>, node: &str, workloads: &[Workload<'_>], turn: bool) -> Node {
    let service = setting.observed.services.get(node);
    let selected = service
        .and_then(|service| service.spec.as_ref())
        .and_then(|spec| spec.selector.as_ref());
    let template = Template {
        desired: setting.desired,
        spec: setting.spec,
        node,
        item_memory: setting.item_memory,
    };
    let target = target(setting, node, workloads, selected);
    let (name, selector) = match &target {
        Target::Legacy(legacy) => (legacy.name.to_owned(), legacy.selector()),
        Target::Made(inputs) => (
            template.name(inputs, Purpose::Serving),
            template.selector(inputs, Purpose::Serving),
        ),
    };
    let look = Look {
        setting,
        template,
        workloads,
        selected,
        target,
        name,
        selector,
    };
    let serving = look.serving();
    let stage = match serving {
        Some(serving) if serving.name == look.name => look.settle(serving),
        Some(serving) => look.change(serving, turn),
        None => look.begin(),
    };
    let selected = serving.filter(|serving| look.is_selected(serving));
    Node {
        name: node.to_owned(),
        stage,
        answers: selected.is_some_and(Workload::is_available),
        pods: selected.map(Workload::pod_names).unwrap_or_default(),
    }
}

fn target<'a>(
    setting: &'a Setting<'_>,
    node: &'a str,
    workloads: &'a [Workload<'a>],
    selected: Option<&BTreeMap<String, String>>,
) -> Target<'a> {
    let (desired, spec) = (setting.desired, setting.spec);
    let done = desired.record.restarted_at;
    let engine = &desired.plan.engine;
    let legacy = workloads.iter().find(|workload| {
        let plain = workload.template().is_none() && !has_users(desired);
        let ours = plain && workload.name == node && !workload.is_deleting();
        ours && setting.restart <= done && (desired.as_found || legacy::runs(workload.live(), engine, spec))
    });
    if let Some(legacy) = legacy {
        return Target::Legacy(*legacy);
    }
    // What was restarted once stays so, also when nobody asks for it any more.
    let before = workloads
        .iter()
        .filter(|workload| Some(&workload.selector()) == selected)
        .filter_map(Workload::restarted_at);
    let restarted_at = before.chain(done).chain(setting.restart).max();
    let users = has_users(desired);
    Target::Made(Inputs::of(node, engine, spec, users, restarted_at).open(desired.took_over_workload()))
}

impl<'a> Look<'a> {
    fn is_selected(&self, workload: &Workload<'_>) -> bool {
        self.selected == Some(&workload.selector())
    }

    /// The Deployment that the Service leads to or, where it leads nowhere, is to lead to now.
    fn serving(&self) -> Option<&'a Workload<'a>> {
        let alive = || {
            let mut alive = self.workloads.iter();
            move |wanted: &dyn Fn(&Workload<'_>) -> bool| {
                alive.find(|workload| !workload.is_trial() && !workload.is_deleting() && wanted(workload))
            }
        };
        alive()(&|workload| self.is_selected(workload))
            .or_else(|| alive()(&|workload| workload.name == self.name && workload.is_available()))
            .or_else(|| alive()(&|workload| workload.is_available()))
            .or_else(|| alive()(&|workload| workload.name == self.name))
            .or_else(|| alive()(&|_| true))
    }

    /// The name of the claim that the target uses, if it keeps data.
    fn claim(&self) -> Option<String> {
        let persistent = self.setting.spec.persistence.is_some() && matches!(self.target, Target::Made(_));
        persistent.then(|| template::claim(self.template.node))
    }

    /// Nothing of it stands: it is made.
    fn begin(&self) -> Stage {
        if let Some(end) = self.leaving() {
            return end;
        }
        let mut manifests: Vec<_> = self.claim_to_apply().into_iter().collect();
        if let Target::Made(inputs) = &self.target {
            manifests.push(self.template.deployment(inputs, Purpose::Serving));
        }
        manifests.push(self.service(&self.selector, self.port()));
        Stage::Do(Step::Apply(manifests), format!("making Deployment {}", self.name))
    }

    /// What must be gone before the target is made.
    fn leaving(&self) -> Option<Stage> {
        let claim = self.claim();
        let in_the_way = |workload: &&Workload<'_>| {
            workload.is_deleting()
                && (workload.name == self.name || claim.as_ref().is_some_and(|claim| workload.uses(claim)))
        };
        let held = claim
            .as_ref()
            .is_some_and(|claim| in_use(self.setting.observed, claim, &self.selector));
        let leaving = self.workloads.iter().find(in_the_way);
        let why = match (leaving, claim) {
            (Some(leaving), _) => format!("waiting for the end of Deployment {}", leaving.name),
            (None, Some(claim)) if held => format!("waiting for the end of the Pod that uses {claim}"),
            _ => return None,
        };
        Some(Stage::Down(self.name.clone(), Lack::Coming(why)))
    }

    /// It serves what it is to serve.
    fn settle(&self, serving: &Workload<'_>) -> Stage {
        if let Some(stage) = self
            .put_right(serving)
            .or_else(|| self.lead_to(&self.selector, self.port()))
        {
            return stage;
        }
        if !serving.is_available() {
            let lack = match serving.trouble() {
                why if serving.was_available() => Lack::Lost(why),
                Some(why) => Lack::Failing(why),
                None => Lack::Coming("waiting for its Pod to answer".to_owned()),
            };
            return Stage::Down(self.name.clone(), lack);
        }
        if let Some(stage) = self.clear(&[&self.name]) {
            return stage;
        }
        if let Some(left) = self.workloads.iter().find(|workload| workload.name != self.name) {
            return Stage::Wait(format!("waiting for the end of Deployment {}", left.name));
        }
        let claim = template::claim(self.template.node);
        let observed = self.setting.observed;
        if self.claim().is_none()
            && observed.is_of(&self.setting.desired.uid, Kind::PersistentVolumeClaim, &claim)
            && !observed.is_deleting(Kind::PersistentVolumeClaim, &claim)
        {
            let doing = format!("removing PersistentVolumeClaim {claim}, which is not wanted any more");
            return Stage::Do(Step::Delete(vec![(Kind::PersistentVolumeClaim, claim)]), doing);
        }
        Stage::Settled
    }

    /// It serves what it served before, and is to become another.
    fn change(&self, serving: &Workload<'_>, turn: bool) -> Stage {
        let shared = self.claim().filter(|claim| serving.uses(claim));
        let next = match (&self.target, &shared) {
            (Target::Made(inputs), Some(_)) => self.template.name(inputs, Purpose::Trial),
            _ => self.name.clone(),
        };
        if let Some(stage) = self
            .lead_to(&serving.selector(), self.port_of(serving))
            .or_else(|| scaled(serving))
            .or_else(|| self.clear(&[serving.name, &next]))
        {
            return stage;
        }
        if !turn {
            return Stage::Queued;
        }
        if shared.is_none() && serving.holds_data() && !self.setting.leave {
            return Stage::Held;
        }
        let Some(successor) = self.workloads.iter().find(|workload| workload.name == next) else {
            return self.make(shared.is_some(), &next);
        };
        if successor.is_deleting() {
            return Stage::Wait(format!("waiting for the end of Deployment {next}, to make it anew"));
        }
        if shared.is_none()
            && let Some(stage) = self.put_right(successor)
        {
            return stage;
        }
        if !successor.is_available() {
            return match successor.trouble() {
                Some(why) => Stage::Failing(format!("Deployment {next}: {why}")),
                None => Stage::Wait(format!("waiting for the Pod of Deployment {next} to answer")),
            };
        }
        // A Pod may have started before a user was bound.
        if shared.is_none()
            && let Some(users) = self.setting.users
            && !users.stand_on(&successor.pod_names())
        {
            return Stage::Wait(format!("waiting for the Pod of Deployment {next} to have all users"));
        }
        match shared {
            None => Stage::Do(
                Step::Apply(vec![self.service(&self.selector, self.port())]),
                format!("turning Service {} to Deployment {next}", self.template.node),
            ),
            Some(claim) => match self.claim_to_apply() {
                // Whether it may grow is found out while the old Pod serves.
                Some(larger) => Stage::Do(Step::Apply(vec![larger]), format!("asking for a larger {claim}")),
                None => Stage::Do(
                    Step::Delete(vec![(Kind::Deployment, serving.name.to_owned())]),
                    format!(
                        "{} does not answer until Deployment {} has taken over {claim}, which one Pod at a time can use",
                        self.template.node, self.name
                    ),
                ),
            },
        }
    }

    fn make(&self, trial: bool, name: &str) -> Stage {
        let Target::Made(inputs) = &self.target else {
            // One of version 0.1 stands, or it would not be the target.
            return Stage::Wait(format!("waiting for Deployment {name}"));
        };
        if trial {
            let deployment = self.template.deployment(inputs, Purpose::Trial);
            let doing = format!("trying with Deployment {name} whether the new Pod starts");
            return Stage::Do(Step::Apply(vec![deployment]), doing);
        }
        let mut manifests: Vec<_> = self.claim_to_apply().into_iter().collect();
        manifests.push(self.template.deployment(inputs, Purpose::Serving));
        Stage::Do(Step::Apply(manifests), format!("making Deployment {name}"))
    }

    /// Undoes what somebody else did to the target.
    fn put_right(&self, live: &Workload<'_>) -> Option<Stage> {
        if let Some(claim) = self.claim_to_apply() {
            let doing = format!("asking for {} {}", claim.kind.as_str(), claim.name);
            return Some(Stage::Do(Step::Apply(vec![claim]), doing));
        }
        match &self.target {
            Target::Made(inputs) if live.template() == Some(TEMPLATE.to_string().as_str()) => {
                let deployment = self.template.deployment(inputs, Purpose::Serving);
                let stands = self.setting.observed.has(&deployment);
                let doing = format!("putting Deployment {} right", live.name);
                (!stands).then(|| Stage::Do(Step::Apply(vec![deployment]), doing))
            }
            _ => scaled(live),
        }
    }

    /// The port of a Deployment's Pods.
    fn port_of(&self, workload: &Workload<'_>) -> u16 {
        let default = self.setting.desired.plan.engine.type_.default_port();
        workload.port().unwrap_or(default)
    }

    /// The port of the target's Pods.
    fn port(&self) -> u16 {
        match &self.target {
            Target::Legacy(workload) => self.port_of(workload),
            Target::Made(_) => self.setting.desired.plan.engine.type_.default_port(),
        }
    }

    /// Makes the Service lead to a port of Pods with these labels, if it does not.
    fn lead_to(&self, selector: &BTreeMap<String, String>, target: u16) -> Option<Stage> {
        let service = self.service(selector, target);
        let found = self.setting.desired.as_found && matches!(self.target, Target::Legacy(_));
        let stands = self.selected == Some(selector) && (found || self.setting.observed.has(&service));
        let doing = format!("applying Service {}", self.template.node);
        (!stands).then(|| Stage::Do(Step::Apply(vec![service]), doing))
    }

    fn service(&self, selector: &BTreeMap<String, String>, target: u16) -> Manifest {
        let (desired, node) = (self.setting.desired, self.template.node);
        let port = manifests::port(desired, self.setting.observed, node);
        manifests::service(desired, node, (port, target), selector)
    }

    /// Removes its Deployments but those that are kept.
    fn clear(&self, kept: &[&str]) -> Option<Stage> {
        let surplus: Vec<_> = self
            .workloads
            .iter()
            .filter(|workload| !kept.contains(&workload.name) && !workload.is_deleting())
            .map(|workload| (Kind::Deployment, workload.name.to_owned()))
            .collect();
        let names: Vec<_> = surplus.iter().map(|(_, name)| name.as_str()).collect();
        let doing = format!("removing Deployment {}", names.join(", "));
        (!surplus.is_empty()).then_some(Stage::Do(Step::Delete(surplus), doing))
    }

    /// The target's claim, if it is not there or has to grow. One that is larger than asked for stays so: volumes do not
    /// shrink. One without a volume yet grows when it has one: before that Kubernetes refuses.
    fn claim_to_apply(&self) -> Option<Manifest> {
        let (claim, persistence) = (self.claim()?, self.setting.spec.persistence.as_ref()?);
        let ours = self
            .setting
            .observed
            .is_of(&self.setting.desired.uid, Kind::PersistentVolumeClaim, &claim);
        let stands = self.setting.observed.claims.get(&claim).is_some_and(|live| {
            let requests = live
                .spec
                .as_ref()
                .and_then(|spec| spec.resources.as_ref())
                .and_then(|resources| resources.requests.as_ref());
            let size = requests.and_then(|requests| requests.get("storage"));
            // A size in other units is somebody else's choice.
            let size = size.and_then(|size| size.0.parse::<Memory>().ok());
            let phase = live.status.as_ref().and_then(|status| status.phase.as_deref());
            phase == Some("Pending") || size.is_none_or(|size| size >= persistence.size)
        });
        (!(ours && stands)).then(|| manifests::claim(self.setting.desired, &claim, persistence))
    }
}

/// Gives a Deployment its one Pod again, if somebody changed their number.
fn scaled(live: &Workload<'_>) -> Option<Stage> {
    let doing = format!("giving Deployment {} its one Pod again", live.name);
    (!live.has_one_replica()).then(|| Stage::Do(Step::Scale(live.name.to_owned()), doing))
}
