//! The Deployment of a node, as a pure function of what is desired.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::Desired;
use super::super::objects::metadata;
use super::super::secrets::{PASSWORD, REDIS_AUTH_CONF};
use super::inputs::Inputs;
use super::manifests::{instance_selector, manifest};
use super::sizing::DEFAULT_CONNECTIONS;
use super::users::{USERS_FILE, has_users};
use super::{Kind, Manifest};
use crate::api::labels::{INSTANCE, MANAGED_BY, MANAGER, NAME, NODE, WORKLOAD};
use crate::api::{EngineType, KubernetesSpec, annotations};

/// The version of the rendering below: to be raised with every change of it. Deployments of an older version are left
/// as they are while their inputs stay, so that an upgrade of the operator alone touches no Pod.
pub const TEMPLATE: u32 = 1;

/// memcached sets its limit of open files to `-c`, and holds this many itself with [`MEMCACHED_THREADS`] threads (counted
/// on 1.6.18): they are added, so that as many clients get in as the plan says.
const MEMCACHED_OWN_FILES: u32 = 25;
/// Connections beyond the plan's limit: for the probes, and for the broker's own questions.
const OWN_CONNECTIONS: u32 = 4;
/// Threads of memcached; its own default.
const MEMCACHED_THREADS: u32 = 4;
/// The user and group ids of the official images.
const MEMCACHED_USER: u32 = 11211;
const REDIS_USER: u32 = 999;
/// Where a redis container finds its password.
const REDIS_AUTH_FOLDER: &str = "/etc/redis-auth";
/// Where a redis container finds its users.
const REDIS_USERS_FOLDER: &str = "/etc/redis-users";
/// Where a redis container keeps its data.
const DATA_FOLDER: &str = "/data";
/// How long a Pod that is to go still answers, in seconds, so that Services stop leading to it first. A Service's proxies
/// hear of it within a second or two.
const DRAIN_SECONDS: u32 = 3;
/// How long a Pod has to end, in seconds.
const GRACE_SECONDS: u32 = 30;
/// The same where a log is to be brought to disk first.
const PERSISTENT_GRACE_SECONDS: u32 = 60;

/// What a Deployment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve.
    Serving,
    /// To try whether its Pod starts, while the volume is still with another one.
    Trial,
}

/// A node of an instance, with what its Pod is made from.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    /// The instance.
    pub desired: &'a Desired,
    /// Its plan's part.
    pub spec: &'a KubernetesSpec,
    /// The node.
    pub node: &'a str,
    /// Memory for items in MiB.
    pub item_memory: u32,
}

impl Template<'_> {
    /// What the value of the label [`WORKLOAD`] is.
    fn label(inputs: &Inputs<'_>, purpose: Purpose) -> String {
        match purpose {
            Purpose::Serving => inputs.digest(),
            Purpose::Trial => format!("{}-try", inputs.digest()),
        }
    }

    /// The name of the Deployment.
    pub fn name(&self, inputs: &Inputs<'_>, purpose: Purpose) -> String {
        format!("{}-{}", self.node, Self::label(inputs, purpose))
    }

    /// What tells the Deployment's Pods from all others. Pods of two Deployments of a node are never behind one Service.
    pub fn selector(&self, inputs: &Inputs<'_>, purpose: Purpose) -> BTreeMap<String, String> {
        let mut labels = instance_selector(self.desired);
        labels.insert(WORKLOAD.to_owned(), Self::label(inputs, purpose));
        labels
    }

    /// The Deployment.
    pub fn deployment(&self, inputs: &Inputs<'_>, purpose: Purpose) -> Manifest {
        let name = self.name(inputs, purpose);
        let mut metadata = metadata(self.desired, &name);
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.insert(NODE.to_owned(), json!(self.node));
        }
        let mut notes = json!({ annotations::TEMPLATE: TEMPLATE.to_string() });
        if let Some(notes) = notes.as_object_mut() {
            if let Some(time) = inputs.restarted_at {
                notes.insert(annotations::RESTARTED_AT.to_owned(), json!(time.to_string()));
            }
            if purpose == Purpose::Trial {
                notes.insert(annotations::TRIAL.to_owned(), json!("true"));
            }
        }
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("annotations".to_owned(), notes);
        }
        let labels = json!({
            MANAGED_BY: MANAGER,
            INSTANCE: self.desired.name,
            NAME: self.desired.plan.engine.type_.as_str(),
            WORKLOAD: Self::label(inputs, purpose),
        });
        let spec = json!({
            "replicas": 1,
            "selector": { "matchLabels": self.selector(inputs, purpose) },
            // Its Pod is only ever changed by somebody else's hand; then too, no two of them are to answer.
            "strategy": { "type": "Recreate" },
            "template": { "metadata": { "labels": labels }, "spec": self.pod(purpose) },
        });
        manifest(Kind::Deployment, metadata, spec)
    }

    fn has_users(&self) -> bool {
        has_users(self.desired)
    }

    /// Whether its clients show a password. Those of a redis that was taken over know of none.
    fn asks_for_password(&self) -> bool {
        self.engine().is_redis_like() && !self.desired.took_over_workload()
    }

    fn engine(&self) -> EngineType {
        self.desired.plan.engine.type_
    }

    fn pod(&self, purpose: Purpose) -> Value {
        let user = if self.engine().is_redis_like() {
            REDIS_USER
        } else {
            MEMCACHED_USER
        };
        let mut volumes = Vec::new();
        if self.asks_for_password() {
            let items = [REDIS_AUTH_CONF, PASSWORD].map(|key| json!({ "key": key, "path": key }));
            volumes.push(json!({ "name": "auth", "secret": {
                "secretName": self.desired.auth_secret(), "defaultMode": 0o440, "items": items,
            } }));
        }
        if self.has_users() {
            volumes.push(json!({ "name": "users", "secret": {
                "secretName": self.desired.users_secret(), "defaultMode": 0o440,
                "items": [{ "key": USERS_FILE, "path": USERS_FILE }],
            } }));
        }
        let persistent = self.spec.persistence.is_some();
        if persistent {
            volumes.push(match purpose {
                Purpose::Serving => {
                    json!({ "name": "data", "persistentVolumeClaim": { "claimName": claim(self.node) } })
                }
                Purpose::Trial => json!({ "name": "data", "emptyDir": {} }),
            });
        }
        let mut security = json!({
            "runAsNonRoot": true, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
            "seccompProfile": { "type": "RuntimeDefault" },
        });
        if let Some(security) = security.as_object_mut().filter(|_| persistent) {
            security.insert("fsGroupChangePolicy".to_owned(), json!("OnRootMismatch"));
        }
        json!({
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": if persistent { PERSISTENT_GRACE_SECONDS } else { GRACE_SECONDS },
            "securityContext": security,
            "nodeSelector": self.spec.node_selector,
            "tolerations": self.spec.tolerations,
            "affinity": self.spec.affinity,
            "topologySpreadConstraints": self.spread(),
            "priorityClassName": self.spec.priority_class,
            "containers": [self.container()],
            "volumes": volumes,
        })
    }

    /// As the plan says, else the nodes of an instance keep apart where they can. How many there are is no input: the
    /// first node does not change when another one comes.
    fn spread(&self) -> Value {
        if !self.spec.topology_spread.is_empty() {
            return json!(self.spec.topology_spread);
        }
        ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
            .map(|key| {
                json!({
                    "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": { "matchLabels": instance_selector(self.desired) },
                })
            })
            .into_iter()
            .collect()
    }

    fn container(&self) -> Value {
        let (engine, spec) = (&self.desired.plan.engine, self.spec);
        let port = engine.type_.default_port();
        let image = spec.image.clone().unwrap_or_else(|| match engine.type_ {
            EngineType::Valkey => format!("valkey/valkey:{}", engine.version),
            EngineType::Redis | EngineType::Memcached => format!("{}:{}", engine.type_, engine.version),
        });
        let (command, args) = self.command();
        let (ready, live) = probes(engine.type_, self.asks_for_password());
        let mut mounts = Vec::new();
        if self.asks_for_password() {
            mounts.push(json!({ "name": "auth", "mountPath": REDIS_AUTH_FOLDER, "readOnly": true }));
        }
        if self.has_users() {
            mounts.push(json!({ "name": "users", "mountPath": REDIS_USERS_FOLDER, "readOnly": true }));
        }
        if spec.persistence.is_some() {
            mounts.push(json!({ "name": "data", "mountPath": DATA_FOLDER }));
        }
        json!({
            "name": engine.type_.as_str(),
            "image": image,
            "command": command,
            "args": args,
            "ports": [{ "name": engine.type_.as_str(), "containerPort": port, "protocol": "TCP" }],
            "resources": {
                "requests": { "memory": spec.memory, "cpu": canonical_cpu(spec.cpu.as_deref().unwrap_or("100m")) },
                "limits": { "memory": spec.memory },
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "startupProbe": { "tcpSocket": { "port": port }, "periodSeconds": 1, "failureThreshold": 90 },
            "readinessProbe": {
                "exec": { "command": ["sh", "-c", ready] }, "periodSeconds": 5, "timeoutSeconds": 3,
            },
            "livenessProbe": {
                "exec": { "command": ["sh", "-c", live] }, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6,
            },
            "lifecycle": { "preStop": { "sleep": { "seconds": DRAIN_SECONDS } } },
            "volumeMounts": mounts,
        })
    }

    fn command(&self) -> (Vec<String>, Vec<String>) {
        let (engine, spec) = (self.engine(), self.spec);
        let clients = spec.connection_limit.unwrap_or(DEFAULT_CONNECTIONS);
        let connections = clients.saturating_add(OWN_CONNECTIONS);
        let port = engine.default_port().to_string();
        let options = |options: Vec<(&str, String)>| -> Vec<String> {
            let words = options.into_iter();
            words.flat_map(|(option, value)| [option.to_owned(), value]).collect()
        };
        if !engine.is_redis_like() {
            let item = spec.max_item_size.map_or(1, |item| item.mebibytes());
            return (
                vec!["memcached".to_owned()],
                options(vec![
                    ("-p", port),
                    ("-m", self.item_memory.to_string()),
                    ("-c", connections.saturating_add(MEMCACHED_OWN_FILES).to_string()),
                    ("-t", MEMCACHED_THREADS.to_string()),
                    ("-I", format!("{item}m")),
                ]),
            );
        }
        let server = redis_program(engine, "server");
        let persistent = spec.persistence.is_some();
        let command = if persistent {
            // A Pod that was deleted and its successor may run side by side for a moment: one log has one writer.
            let script = format!("exec 9>{DATA_FOLDER}/.lock && flock 9 && exec {server} \"$@\"");
            vec!["sh".to_owned(), "-c".to_owned(), script, server]
        } else {
            vec![server]
        };
        let policy = spec.eviction_policy.unwrap_or_default().as_str();
        let (log, folder) = if persistent {
            ("yes", DATA_FOLDER)
        } else {
            ("no", "/tmp")
        };
        let mut args = if self.asks_for_password() {
            vec![format!("{REDIS_AUTH_FOLDER}/{REDIS_AUTH_CONF}")]
        } else {
            ["--protected-mode", "no"].map(str::to_owned).to_vec()
        };
        args.extend(options(vec![
            ("--port", port),
            ("--maxmemory", format!("{}mb", self.item_memory)),
            ("--maxmemory-policy", policy.to_owned()),
            ("--maxclients", connections.to_string()),
            ("--save", String::new()),
            ("--appendonly", log.to_owned()),
            // While a sync is under way redis holds what it would write in memory, without bound. The log survives the
            // end of the process either way, and that of its host but for the last seconds.
            ("--appendfsync", "no".to_owned()),
            ("--dir", folder.to_owned()),
        ]));
        if self.has_users() {
            // It has the default user, too, whose password in the other file then does not matter.
            args.extend(options(vec![(
                "--aclfile",
                format!("{REDIS_USERS_FOLDER}/{USERS_FILE}"),
            )]));
        }
        (command, args)
    }
}

/// The name of the PersistentVolumeClaim of a node.
pub fn claim(node: &str) -> String {
    format!("{node}-data")
}

fn redis_program(engine: EngineType, kind: &str) -> String {
    match engine {
        EngineType::Valkey => format!("valkey-{kind}"),
        EngineType::Redis | EngineType::Memcached => format!("redis-{kind}"),
    }
}

/// The scripts that tell whether an engine answers its clients, and whether it lives. One that refuses a connection
/// because there are as many as it may have answers. A redis that loads its log, or is busy with a script, lives.
fn probes(engine: EngineType, password: bool) -> (String, String) {
    let port = engine.default_port();
    if engine.is_redis_like() {
        let cli = redis_program(engine, "cli");
        let password = if password {
            format!(r#"REDISCLI_AUTH="$(cat {REDIS_AUTH_FOLDER}/{PASSWORD})" "#)
        } else {
            String::new()
        };
        let script = |answers: &str| {
            format!(
                r#"answer=$({password}{cli} -p {port} PING 2>&1)
case $answer in {answers}) exit 0 ;; esac
echo "$answer"
exit 1"#
            )
        };
        let ready = r#"*PONG* | *MISCONF* | *"max number of clients"*"#;
        (script(ready), script(&format!("{ready} | *LOADING* | *BUSY*")))
    } else {
        // Debian's image has bash and no nc, Alpine's has nc and no bash. A refusal comes unasked, and would be lost if
        // a question were on its way.
        let script = format!(
            r#"if command -v bash > /dev/null; then
  answer=$(bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port} && {{ read -rt 0.2 line <&3 || {{ printf "version\r\n" >&3 && read -r line <&3; }}; echo "$line"; }}')
else
  answer=$({{ sleep 0.2; printf 'version\r\nquit\r\n'; }} | nc 127.0.0.1 {port})
fi
case $answer in VERSION* | ERROR*) exit 0 ;; esac
echo "no answer: $answer"
exit 1"#
        );
        (script.clone(), script)
    }
}

/// A CPU quantity as the API server writes it back: whole cores, else millicores.
pub fn canonical_cpu(text: &str) -> String {
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse().ok(),
        None => {
            let (cores, fraction) = text.split_once('.').unwrap_or((text, ""));
            format!("{fraction:0<3}")
                .parse::<u64>()
                .ok()
                .zip(cores.parse::<u64>().ok())
                .map(|(m, c)| c * 1000 + m)
        }
    };
    match millis {
        Some(millis) if millis % 1000 == 0 => (millis / 1000).to_string(),
        Some(millis) => format!("{millis}m"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_written_as_the_server_writes_it() {
        for (given, canonical) in [
            ("100m", "100m"),
            ("1000m", "1"),
            ("2", "2"),
            ("0.5", "500m"),
            ("1.25", "1250m"),
            ("1.0", "1"),
        ] {
            assert_eq!(canonical_cpu(given), canonical);
        }
    }
}
