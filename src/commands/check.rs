//! `cache-broker check`: whether a start would succeed, as far as that can be told without one.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use k8s_openapi::api::authorization::v1::{SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::{Api, Client, CustomResourceExt};

use super::{DEADLINE, asked, rights};
use crate::api::{self, CacheBackup, CacheInstance, CachePlan};
use crate::cluster;
use crate::ledger::{DatabaseUrl, KeyRing, Ledger};
use crate::osb::Services;
use crate::osb::tls::Tls;
use crate::provider::elasticache::{Client as ElastiCacheClient, Limits};
use crate::serve::tls_paths;
use crate::settings::{Checked, Settings, SettingsError};

/// Kubernetes before this does not know all that the definitions and manifests use.
const LEAST_MINOR: u32 = 30;
/// Postgres before this is out of its makers' support.
const LEAST_POSTGRES: i32 = 130_000;
/// How many rights are asked about at one time.
const AT_ONCE: usize = 16;

/// What was found, as it is printed.
#[derive(Debug, Default)]
struct Findings {
    failed: usize,
}

impl Findings {
    fn good(&self, part: &str, what: impl AsRef<str>) {
        println!("ok      {part}: {}", what.as_ref());
    }

    /// Worth knowing, and nothing that keeps a broker from starting.
    fn note(&self, part: &str, what: impl AsRef<str>) {
        println!("note    {part}: {}", what.as_ref());
    }

    fn bad(&mut self, part: &str, what: impl AsRef<str>) {
        self.failed += 1;
        println!("FAILED  {part}: {}", what.as_ref());
    }
}

/// Looks at everything that a start needs and prints what it finds, a line each.
///
/// # Errors
/// When something must be mended first. What, was printed.
pub async fn check(settings: Settings) -> Result<(), String> {
    let mut findings = Findings::default();
    match settings.clone().check() {
        Ok(checked) => {
            findings.good("settings", "complete");
            files(&checked, &mut findings);
            cluster(&checked, &mut findings).await;
            database(checked.database_url, checked.keys, &mut findings).await;
        }
        Err(SettingsError(errors)) => {
            for error in errors {
                findings.bad("settings", error);
            }
            findings.note("database, cluster", "not looked at before the settings are complete");
        }
    }
    aws(&settings, &mut findings).await;
    match findings.failed {
        0 => Ok(()),
        1 => Err("1 thing must be mended".to_owned()),
        many => Err(format!("{many} things must be mended")),
    }
}

fn files(checked: &Checked, findings: &mut Findings) {
    let settings = &checked.settings;
    match Services::read(settings.services_file.as_deref()) {
        Ok(services) => findings.good("services", format!("{} of them", services.services.len())),
        Err(error) => findings.bad("services", error.to_string()),
    }
    if let Some(paths) = tls_paths(settings).filter(|_| checked.role.serves_api()) {
        match Tls::read(paths) {
            Ok(_) => findings.good("certificate", "goes with its key"),
            Err(error) => findings.bad("certificate", error.to_string()),
        }
    }
    if checked.role.serves_api() && settings.insecure_no_auth {
        findings.note(
            "callers",
            "anybody who can reach the API is served (--insecure-no-auth)",
        );
    }
    if !settings.use_kubernetes && settings.aws_region.is_none() {
        findings.note("plans", "none is offered: set USE_KUBERNETES=true or AWS_REGION");
    }
}

async fn database(url: DatabaseUrl, keys: KeyRing, findings: &mut Findings) {
    let part = "database";
    let ledger = match Ledger::new(url, keys, 2) {
        Ok(ledger) => ledger,
        Err(error) => return findings.bad(part, error.to_string()),
    };
    let seen = match ledger.inspect().await {
        Ok(seen) => seen,
        Err(error) => {
            return findings.bad(
                part,
                format!("{error}; see that DATABASE_URL names a server that this machine reaches, and a user that it lets in"),
            );
        }
    };
    if seen.version < LEAST_POSTGRES {
        let (found, least) = (seen.version / 10_000, LEAST_POSTGRES / 10_000);
        findings.bad(part, format!("it is PostgreSQL {found}; {least} or later is needed"));
    } else {
        let tls = if seen.tls { "with TLS" } else { "without TLS" };
        findings.good(part, format!("PostgreSQL {}, {tls}", seen.version / 10_000));
    }
    if seen.standby {
        findings.bad(
            part,
            "it is a standby that takes no writes; name the primary in DATABASE_URL",
        );
    }
    match (seen.migrations, seen.may_create) {
        (None, true) => findings.good(part, "its tables are made at the first start"),
        (None, false) => findings.bad(
            part,
            format!(
                "it has no tables of the broker's and the user may not make them: grant create on database {} to {}",
                seen.database, seen.user
            ),
        ),
        (Some(done), _) => findings.good(part, format!("its tables are at migration {done}")),
    }
    match seen.sealed {
        Some(Err(error)) => findings.bad(
            part,
            format!(
                "what it holds sealed cannot be opened: {error}; put the key that sealed it back into LEDGER_KEYS_FILE"
            ),
        ),
        Some(Ok(())) => findings.good(part, "what it holds sealed can be opened"),
        None => {}
    }
}

async fn cluster(checked: &Checked, findings: &mut Findings) {
    let part = "cluster";
    let client = match cluster::client(&checked.settings).await {
        Ok(client) => client,
        Err(error) => return findings.bad(part, error),
    };
    let version = match asked("asking for its version", client.apiserver_version()).await {
        Ok(version) => version,
        Err(error) => return findings.bad(part, error),
    };
    let minor: u32 = version.minor.trim_end_matches('+').parse().unwrap_or(u32::MAX);
    if minor < LEAST_MINOR {
        findings.bad(
            part,
            format!(
                "it is Kubernetes {}; 1.{LEAST_MINOR} or later is needed",
                version.git_version
            ),
        );
    } else {
        findings.good(part, format!("Kubernetes {}", version.git_version));
    }
    definitions(&client, findings).await;
    allowed(checked, &client, findings).await;
}

/// Whether the kinds are there, as far as their reader may look: by the group's list, which everybody may read.
async fn definitions(client: &Client, findings: &mut Findings) {
    let listed = match asked("listing the kinds", client.list_api_group_resources(&api_version())).await {
        Ok(listed) => listed
            .resources
            .into_iter()
            .map(|resource| resource.kind)
            .collect::<BTreeSet<_>>(),
        Err(error) if error.contains("404") || error.to_lowercase().contains("not found") => BTreeSet::new(),
        Err(error) => return findings.bad("definitions", error),
    };
    let kinds = [CachePlan::crd(), CacheInstance::crd(), CacheBackup::crd()]
        .map(|crd: CustomResourceDefinition| crd.spec.names.kind);
    let missing: Vec<_> = kinds
        .iter()
        .filter(|kind| !listed.contains(*kind))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        findings.good("definitions", "all are there");
    } else {
        let missing = missing.join(", ");
        findings.bad(
            "definitions",
            format!("{missing} missing: kubectl apply --server-side -k crds, or cache-broker crds --apply"),
        );
    }
}

fn api_version() -> String {
    format!("{}/{}", api::GROUP, api::VERSION)
}

async fn allowed(checked: &Checked, client: &Client, findings: &mut Findings) {
    let part = "rights";
    let needed = match rights::needed(checked.role, &checked.watch_namespaces, &checked.settings.namespace) {
        Ok(needed) => needed,
        Err(error) => return findings.bad(part, error.to_string()),
    };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    let count = needed.len();
    let asking = needed.into_iter().map(|right| {
        let reviews = reviews.clone();
        async move {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(right.clone()),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = asked(
                "asking what is allowed",
                reviews.create(&PostParams::default(), &review),
            )
            .await?;
            Ok((right, answer.status.is_some_and(|status| status.allowed)))
        }
    });
    let answers: Vec<Result<_, String>> = stream::iter(asking).buffer_unordered(AT_ONCE).collect().await;
    let mut refused = BTreeSet::new();
    for answer in answers {
        match answer {
            Ok((_, true)) => {}
            Ok((right, false)) => {
                refused.insert(rights::worded(&right));
            }
            Err(error) => return findings.bad(part, error),
        }
    }
    if refused.is_empty() {
        findings.good(part, format!("all {count} are given"));
    }
    for right in refused {
        findings.bad(
            part,
            format!("{right}: not allowed; deploy/base has the roles, and the chart gives the same"),
        );
    }
}

async fn aws(settings: &Settings, findings: &mut Findings) {
    let part = "aws";
    let Some(region) = &settings.aws_region else {
        return findings.note(part, "no AWS_REGION: no plan on ElastiCache is offered");
    };
    let limits = Limits {
        calls_per_second: settings.aws_calls_per_second,
    };
    let client = ElastiCacheClient::new(region.clone(), settings.aws_endpoint_url.clone(), limits).await;
    let reached = tokio::time::timeout(DEADLINE, client.reach()).await;
    match reached.unwrap_or_else(|_| Err(format!("no answer within {} s", DEADLINE.as_secs()))) {
        Ok(()) => findings.good(part, format!("ElastiCache in {region} answers")),
        Err(error) => {
            return findings.bad(
                part,
                format!("{error}; see that the region is right and that the credentials may call ElastiCache (docs/aws-policy.json)"),
            );
        }
    }
    for (variable, group) in [
        ("REDIS_SUBNET_GROUP", &settings.redis_subnet_group),
        ("MEMCACHED_SUBNET_GROUP", &settings.memcached_subnet_group),
    ] {
        let Some(group) = group else {
            findings.note(
                part,
                format!("no {variable}: plans that name none use the account's default"),
            );
            continue;
        };
        match client.subnet_group(group).await {
            Ok(Some(network)) => findings.good(part, format!("{variable} {group} is in {network}")),
            Ok(None) => findings.bad(part, format!("{variable}: there is no subnet group {group} in {region}; aws elasticache create-cache-subnet-group makes one")),
            Err(error) => findings.bad(part, format!("{variable}: {error}")),
        }
    }
    match &settings.elasticache_security_group {
        None => findings.note(part, "no ELASTICACHE_SECURITY_GROUP: plans that name none use the network's default"),
        Some(group) if is_security_group(group) => findings.good(
            part,
            format!("ELASTICACHE_SECURITY_GROUP {group} is an id; ElastiCache cannot be asked whether it exists"),
        ),
        Some(group) => findings.bad(
            part,
            format!("ELASTICACHE_SECURITY_GROUP {group:?} is no id of a group, such as sg-0123456789abcdef0; names are not taken"),
        ),
    }
}

/// Ids had 8 hexadecimal digits once and have 17 today.
fn is_security_group(text: &str) -> bool {
    text.strip_prefix("sg-").is_some_and(|id| {
        [8, 17].contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_groups_go_by_ids() {
        for (text, is) in [
            ("sg-0123456789abcdef0", true),
            ("sg-01234567", true),
            ("caches", false),
            ("sg-", false),
            ("sg-0123456789ABCDEF0", false),
        ] {
            assert_eq!(is_security_group(text), is, "{text}");
        }
    }
}
