use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::super::{Desired, Fault};
use super::decide::place;
use super::{Defaults, Observed, Ownership, Phase, Poller, Target};

/// Gathers what there is of an instance on ElastiCache.
///
/// Tags are read only until they have proven that the cache is ours, and events only when it has failed.
///
/// # Errors
/// When ElastiCache does not answer.
pub async fn observe(
    poller: &Poller,
    desired: &Desired,
    defaults: &Defaults,
    secrets: BTreeMap<String, Arc<Secret>>,
) -> Result<(Target, Observed), Fault> {
    let place = place(desired, defaults);
    let target = place.target;
    let live = poller.look(&target).await?;
    let mut ownership = Ownership::Unreadable;
    let mut failure = None;
    if let Some(live) = &live {
        let readable = !matches!(live.phase, Phase::Creating | Phase::Deleting);
        if let (None, Some(arn), true) = (&place.arn, &live.arn, readable) {
            ownership = poller.ownership(arn, &desired.uid).await;
        }
        if matches!(live.phase, Phase::Failed(_)) {
            failure = poller.newest_event(&target).await;
        }
    }
    Ok((
        target,
        Observed {
            live,
            ownership,
            failure,
            secrets,
        },
    ))
}
