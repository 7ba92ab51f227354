//! What the broker's service accounts may not do, by the API server's own word.

use sandbox::Sandbox;

use crate::run;

/// Namespace, verb and resource, for an account.
type Asked<'a> = (&'a str, &'a str, &'a str);

async fn can(sandbox: &Sandbox, account: &str, (namespace, verb, resource): Asked<'_>) -> bool {
    let who = format!("--as=system:serviceaccount:cache-broker-system:cache-broker-{account}");
    // A subresource follows a colon.
    let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
    let subresource = format!("--subresource={subresource}");
    let mut arguments = vec!["auth", "can-i", verb, resource, who.as_str(), "--quiet"];
    if subresource != "--subresource=" {
        arguments.push(&subresource);
    }
    match namespace {
        "*" => arguments.push("--all-namespaces"),
        "" => {}
        namespace => arguments.extend(["--namespace", namespace]),
    }
    run(sandbox, "kubectl", &arguments).await.is_ok()
}

/// Least privilege, as the chart gave it to the broker that runs.
pub async fn are_the_least(sandbox: &Sandbox) {
    let own = "cache-broker-system";
    let mut refused: Vec<(&str, Asked<'_>)> = Vec::new();
    for account in ["operator", "api"] {
        for asked in [
            ("*", "list", "secrets"),
            ("kube-system", "get", "secrets"),
            ("default", "get", "secrets"),
            // The Secrets that hold its own settings are given to it by the kubelet.
            (own, "get", "secrets"),
            ("*", "list", "cacheinstances.cache.akkeris.io"),
            ("default", "list", "cacheinstances.cache.akkeris.io"),
            ("default", "create", "deployments.apps"),
            (own, "create", "deployments.apps"),
            ("redis-system", "create", "pods"),
            ("redis-system", "create", "pods:exec"),
            ("redis-system", "get", "configmaps"),
            ("redis-system", "create", "serviceaccounts:token"),
            ("redis-system", "create", "rolebindings.rbac.authorization.k8s.io"),
            ("", "list", "nodes"),
            ("", "list", "namespaces"),
            ("", "create", "namespaces"),
            ("", "delete", "cacheplans.cache.akkeris.io"),
            ("", "create", "cacheplans.cache.akkeris.io"),
            ("", "patch", "customresourcedefinitions.apiextensions.k8s.io"),
            ("", "escalate", "clusterroles.rbac.authorization.k8s.io"),
            ("", "bind", "clusterroles.rbac.authorization.k8s.io"),
            ("", "impersonate", "serviceaccounts"),
            ("", "create", "tokenreviews.authentication.k8s.io"),
            (own, "delete", "leases.coordination.k8s.io"),
            (own, "update", "leases.coordination.k8s.io/another"),
        ] {
            refused.push((account, asked));
        }
    }
    for asked in [
        ("redis-system", "get", "secrets"),
        ("redis-system", "list", "deployments.apps"),
        ("redis-system", "update", "cacheinstances.cache.akkeris.io:status"),
        ("redis-system", "list", "cachebackups.cache.akkeris.io"),
        ("", "patch", "cacheplans.cache.akkeris.io"),
        (own, "create", "leases.coordination.k8s.io"),
        (own, "create", "controllerrevisions.apps"),
    ] {
        refused.push(("api", asked));
    }
    for (account, asked) in refused {
        assert!(!can(sandbox, account, asked).await, "{account} may {asked:?}");
    }
    // The questions are such as can be answered with yes.
    for (account, asked) in [
        ("operator", ("redis-system", "get", "secrets")),
        ("operator", ("memcached-system", "create", "deployments.apps")),
        ("operator", ("", "patch", "cacheplans.cache.akkeris.io")),
        ("api", ("redis-system", "create", "cacheinstances.cache.akkeris.io")),
        ("api", ("", "list", "cacheplans.cache.akkeris.io")),
    ] {
        assert!(can(sandbox, account, asked).await, "{account} may not {asked:?}");
    }
    // Controllers of the Service Binding specification find instances by an aggregated role.
    let label = "servicebinding.io/controller=true";
    let roles = crate::kubectl(
        sandbox,
        &["get", "clusterroles", "-l", label, "-o", "jsonpath={.items[*].rules}"],
    )
    .await;
    assert!(
        roles.contains("cacheinstances") && !roles.contains("secrets"),
        "{roles}"
    );
}
