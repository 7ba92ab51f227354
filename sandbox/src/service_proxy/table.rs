//! Which Service addresses lead to which pods: a pure function of the Services and the pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Where connections go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The backends of each Service address. An address without a backend is absent: nobody listens there, so the
    /// kernel refuses the connection.
    pub listeners: BTreeMap<SocketAddrV4, Vec<SocketAddrV4>>,
    /// The addresses of all pods that exist and have not ended. Connections to others are cut.
    pub alive: BTreeSet<Ipv4Addr>,
}

/// Builds the table.
///
/// A Service takes part if it has a selector and a loopback ClusterIP; its TCP ports lead to the pods of its namespace
/// that match the selector, are Ready and are not terminating.
pub fn table<'a>(services: impl IntoIterator<Item = &'a Service>, pods: impl IntoIterator<Item = &'a Pod>) -> Table {
    let index = Index::new(pods);
    let mut listeners = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
            continue;
        };
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let chosen = index.matching(namespace, selector);
        let unready_too = spec.publish_not_ready_addresses == Some(true);
        for address in cluster_ips(service) {
            for port in spec
                .ports
                .iter()
                .flatten()
                .filter(|port| is_tcp(port.protocol.as_deref()))
            {
                let Ok(number) = u16::try_from(port.port) else { continue };
                let backends: Vec<_> = chosen
                    .iter()
                    .filter(|pod| unready_too || is_ready(pod))
                    .filter_map(|pod| Some(SocketAddrV4::new(address_of(pod)?, target_port(port, pod)?)))
                    .collect();
                if !backends.is_empty() {
                    listeners.insert(SocketAddrV4::new(address, number), backends);
                }
            }
        }
    }
    Table {
        listeners,
        alive: index.alive,
    }
}

/// Live pods by namespace and by each of their labels, so that a selector is compared with few of them.
struct Index<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Pod>>,
    alive: BTreeSet<Ipv4Addr>,
}

impl<'a> Index<'a> {
    fn new(pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let mut by_label: HashMap<_, Vec<&'a Pod>> = HashMap::new();
        let mut alive = BTreeSet::new();
        for pod in pods {
            let Some(address) = address_of(pod).filter(|_| !has_ended(pod)) else {
                continue;
            };
            alive.insert(address);
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for (name, value) in pod.metadata.labels.iter().flatten() {
                by_label
                    .entry((namespace, name.as_str(), value.as_str()))
                    .or_default()
                    .push(pod);
            }
        }
        Self { by_label, alive }
    }

    fn labelled<'s>(&'s self, namespace: &'s str, name: &'s str, value: &'s str) -> &'s [&'a Pod] {
        self.by_label.get(&(namespace, name, value)).map_or(&[], Vec::as_slice)
    }

    fn matching(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<&'a Pod> {
        let fewest = selector
            .iter()
            .map(|(name, value)| self.labelled(namespace, name, value))
            .min_by_key(|pods| pods.len())
            .unwrap_or_default();
        let mut chosen: Vec<_> = fewest
            .iter()
            .copied()
            .filter(|pod| {
                let labels = pod.metadata.labels.as_ref();
                selector
                    .iter()
                    .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
            })
            .collect();
        chosen.sort_by_key(|pod| pod.metadata.name.as_deref());
        chosen
    }
}

fn cluster_ips(service: &Service) -> BTreeSet<Ipv4Addr> {
    let spec = service.spec.as_ref();
    let several = spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten();
    let one = spec.and_then(|spec| spec.cluster_ip.as_ref());
    several
        .chain(one)
        .filter_map(|address| address.parse().ok())
        .filter(Ipv4Addr::is_loopback)
        .collect()
}

fn address_of(pod: &Pod) -> Option<Ipv4Addr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("TCP"))
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            let containers = &pod.spec.as_ref()?.containers;
            let named = containers
                .iter()
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| port.name.as_ref() == Some(name) && is_tcp(port.protocol.as_deref()))?;
            u16::try_from(named.container_port).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, address: &str, labels: &Value) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "caches", "labels": labels},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "cache", "containerPort": 11211}]}]},
            "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    fn service(address: &str, selector: &Value, ports: &Value) -> Value {
        json!({
            "metadata": {"name": "s", "namespace": "caches"},
            "spec": {"clusterIP": address, "clusterIPs": [address], "selector": selector, "ports": ports},
        })
    }

    fn with(mut object: Value, pointer: &str, value: Value) -> Value {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value;
        object
    }

    fn built(services: &[Value], pods: &[Value]) -> Vec<(String, Vec<String>)> {
        let services: Vec<Service> = services
            .iter()
            .map(|one| serde_json::from_value(one.clone()).unwrap())
            .collect();
        let pods: Vec<Pod> = pods
            .iter()
            .map(|one| serde_json::from_value(one.clone()).unwrap())
            .collect();
        table(&services, &pods)
            .listeners
            .iter()
            .map(|(address, backends)| (address.to_string(), backends.iter().map(ToString::to_string).collect()))
            .collect()
    }

    #[test]
    fn a_port_leads_to_the_ready_pods_of_the_selector() {
        let blue = json!({"app": "cache", "colour": "blue"});
        let any = json!({"app": "cache"});
        let number = json!([{"port": 11211, "targetPort": 11211}]);
        let named = json!([{"port": 80, "targetPort": "cache", "protocol": "TCP"}]);
        let a = pod("a", "127.80.1.1", &blue);
        let b = pod("b", "127.80.1.2", &json!({"app": "cache", "colour": "green"}));
        let to = |address: &str, backends: &[&str]| {
            vec![(
                address.to_owned(),
                backends.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>(),
            )]
        };
        let none: Vec<(String, Vec<String>)> = Vec::new();
        let cases = [
            (
                "both match",
                service("127.64.0.9", &any, &number),
                vec![b.clone(), a.clone()],
                to("127.64.0.9:11211", &["127.80.1.1:11211", "127.80.1.2:11211"]),
            ),
            (
                "the selector chooses",
                service("127.64.0.9", &blue, &number),
                vec![a.clone(), b.clone()],
                to("127.64.0.9:11211", &["127.80.1.1:11211"]),
            ),
            (
                "a named port",
                service("127.64.0.9", &blue, &named),
                vec![a.clone()],
                to("127.64.0.9:80", &["127.80.1.1:11211"]),
            ),
            (
                "no target port",
                service("127.64.0.9", &blue, &json!([{"port": 7}])),
                vec![a.clone()],
                to("127.64.0.9:7", &["127.80.1.1:7"]),
            ),
            (
                "an unknown name",
                service("127.64.0.9", &blue, &json!([{"port": 7, "targetPort": "other"}])),
                vec![a.clone()],
                none.clone(),
            ),
            (
                "a pod that is not ready",
                service("127.64.0.9", &blue, &number),
                vec![with(
                    a.clone(),
                    "/status/conditions",
                    json!([{"type": "Ready", "status": "False"}]),
                )],
                none.clone(),
            ),
            (
                "a pod that is not ready, published all the same",
                with(
                    service("127.64.0.9", &blue, &number),
                    "/spec/publishNotReadyAddresses",
                    json!(true),
                ),
                vec![with(a.clone(), "/status/conditions", json!([]))],
                to("127.64.0.9:11211", &["127.80.1.1:11211"]),
            ),
            (
                "a terminating pod",
                service("127.64.0.9", &blue, &number),
                vec![with(
                    a.clone(),
                    "/metadata/deletionTimestamp",
                    json!("2026-01-01T00:00:00Z"),
                )],
                none.clone(),
            ),
            (
                "a pod that has ended",
                service("127.64.0.9", &blue, &number),
                vec![with(a.clone(), "/status/phase", json!("Succeeded"))],
                none.clone(),
            ),
            (
                "a pod of another namespace",
                service("127.64.0.9", &blue, &number),
                vec![with(a.clone(), "/metadata/namespace", json!("elsewhere"))],
                none.clone(),
            ),
            (
                "headless",
                service("None", &blue, &number),
                vec![a.clone()],
                none.clone(),
            ),
            (
                "another network",
                service("10.0.0.1", &blue, &number),
                vec![a.clone()],
                none.clone(),
            ),
            (
                "no selector",
                service("127.64.0.1", &json!(null), &number),
                vec![a.clone()],
                none.clone(),
            ),
            (
                "UDP",
                service("127.64.0.9", &blue, &json!([{"port": 11211, "protocol": "UDP"}])),
                vec![a.clone()],
                none.clone(),
            ),
        ];
        for (name, service, pods, expected) in cases {
            assert_eq!(built(&[service], &pods), expected, "{name}");
        }
    }

    #[test]
    fn a_terminating_pod_stays_alive_until_it_is_gone() {
        let a = pod("a", "127.80.1.1", &json!({}));
        let leaving = with(
            pod("b", "127.80.1.2", &json!({})),
            "/metadata/deletionTimestamp",
            json!("2026-01-01T00:00:00Z"),
        );
        let ended = with(pod("c", "127.80.1.3", &json!({})), "/status/phase", json!("Failed"));
        let pods: Vec<Pod> = [a, leaving, ended]
            .map(|one| serde_json::from_value(one).unwrap())
            .into();
        let alive = table([], &pods).alive;
        assert_eq!(
            alive,
            ["127.80.1.1", "127.80.1.2"].map(|one| one.parse().unwrap()).into()
        );
    }
}
