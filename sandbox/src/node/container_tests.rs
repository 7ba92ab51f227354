use super::*;
use serde_json::json;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 80, 1, 7);

fn pod(container: &serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "cache-0", "namespace": "caches", "uid": "u", "labels": {"app": "cache"}},
        "spec": {"nodeName": "node", "containers": [container]},
    }))
    .unwrap()
}

fn variables(container: &serde_json::Value, sources: &Sources) -> Result<BTreeMap<String, String>, String> {
    let pod = pod(container);
    environment(&pod, &pod.spec.as_ref().unwrap().containers[0], ADDRESS, sources)
}

fn sources() -> Sources {
    let data = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    Sources {
        secrets: [("login".into(), data(&[("password", "s3cret")]))].into(),
        config_maps: [("settings".into(), data(&[("size", "64")]))].into(),
    }
}

#[test]
fn an_environment_draws_on_everything_a_kubelet_offers() {
    let container = json!({
        "name": "c",
        "resources": {"limits": {"memory": "64Mi"}},
        "envFrom": [
            {"prefix": "CFG_", "configMapRef": {"name": "settings"}},
            {"secretRef": {"name": "absent", "optional": true}},
        ],
        "env": [
            {"name": "PLAIN", "value": "a"},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
            {"name": "SIZE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "size"}}},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "x", "optional": true}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "MB", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "URL", "value": "redis://:$(PASSWORD)@$(IP) $$(IP) $(LATER) $x"},
        ],
    });
    let got = variables(&container, &sources()).unwrap();
    let expected = [
        ("APP", "cache"),
        ("CFG_size", "64"),
        ("IP", "127.80.1.7"),
        ("MB", "64"),
        ("NAME", "cache-0"),
        ("PASSWORD", "s3cret"),
        ("PLAIN", "a"),
        ("SIZE", "64"),
        ("URL", "redis://:s3cret@127.80.1.7 $(IP) $(LATER) $x"),
    ];
    assert_eq!(
        got,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    );
}

#[test]
fn a_missing_source_is_named_as_a_kubelet_names_it() {
    let secret = |name: &str, key: &str| {
        let from = json!({"secretKeyRef": {"name": name, "key": key}});
        json!({"name": "c", "env": [{"name": "P", "valueFrom": from}]})
    };
    let error = |container| variables(&container, &sources()).unwrap_err();
    assert_eq!(error(secret("absent", "password")), r#"secret "absent" not found"#);
    assert_eq!(
        error(secret("login", "other")),
        r#"couldn't find key other in secret "login""#
    );
    let whole = json!({"name": "c", "envFrom": [{"configMapRef": {"name": "absent"}}]});
    assert_eq!(error(whole), r#"configmap "absent" not found"#);
}

#[test]
fn every_reference_is_listed_once() {
    let mut pod = pod(&json!({
        "name": "c",
        "envFrom": [{"secretRef": {"name": "b"}}],
        "env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}}],
    }));
    let volumes = json!([
        {"name": "v", "secret": {"secretName": "b"}},
        {"name": "w", "configMap": {"name": "m"}},
        {"name": "x", "projected": {"sources": [{"secret": {"name": "c"}}, {"configMap": {"name": "m"}}]}},
    ]);
    pod.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes).unwrap();
    let (secrets, config_maps) = references(&pod);
    assert_eq!(secrets, ["a", "b", "c"]);
    assert_eq!(config_maps, ["m"]);
}

#[test]
fn paths_and_addresses_are_rewritten_where_they_stand_alone() {
    let mounts = [
        ("/data", "/s/data"),
        ("/data/tls/", "/s/tls"),
        ("/etc/redis", "/s/conf"),
    ];
    let mounts = mounts.map(|(path, folder)| (path.to_owned(), PathBuf::from(folder)));
    let rewriting = Rewriting::new(mounts.into(), ADDRESS);
    for (text, expected) in [
        ("/data", "/s/data"),
        ("/data/", "/s/data/"),
        ("/data/dump.rdb", "/s/data/dump.rdb"),
        ("/data/tls/ca.crt", "/s/tls/ca.crt"),
        ("/database", "/database"),
        ("/data-old", "/data-old"),
        ("/var/data", "/var/data"),
        ("./data", "./data"),
        ("--dir=/data", "--dir=/s/data"),
        (
            "redis-server /etc/redis/a.conf --dir /data",
            "redis-server /s/conf/a.conf --dir /s/data",
        ),
        ("cat '/data/x'; ls \"/data\"", "cat '/s/data/x'; ls \"/s/data\""),
        ("0.0.0.0", "127.80.1.7"),
        ("127.0.0.1:6379", "127.80.1.7:6379"),
        ("redis-cli -h localhost ping", "redis-cli -h 127.80.1.7 ping"),
        ("-l127.0.0.1", "-l127.80.1.7"),
        ("1127.0.0.1", "1127.0.0.1"),
        ("10.0.0.0.0", "10.0.0.0.0"),
        ("localhost.example", "localhost.example"),
        ("my-localhost", "my-localhost"),
        ("größe=/data", "größe=/s/data"),
    ] {
        assert_eq!(rewriting.text(text), expected, "{text}");
    }
    assert_eq!(rewriting.folder("/data"), Some("/s/data".into()));
    assert_eq!(rewriting.folder("/srv"), None);
}
