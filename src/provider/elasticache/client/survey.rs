//! Everything in a region that may be this broker's, for `cache-broker doctor`.

use aws_sdk_elasticache::types::Tag;

use super::super::super::Fault;
use super::super::live::Phase;
use super::super::{OWNER_TAG, RELEASED};
use super::{Client, passing};

/// Page size of Describe calls that list what is not a cache.
const PAGE: i32 = 50;

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FoundKind {
    /// A replication group or cache cluster.
    Cache,
    /// A snapshot.
    Snapshot,
    /// A user.
    User,
    /// A user group.
    UserGroup,
}

impl FoundKind {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Snapshot => "snapshot",
            Self::User => "user",
            Self::UserGroup => "user group",
        }
    }
}

/// Whose it is, by its tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundOwner {
    /// That of the instance with this uid.
    Instance(String),
    /// It was let go.
    Released,
    /// No tag says.
    Nobody,
    /// The tags cannot be read now.
    Unreadable,
}

/// Something whose id begins with our prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: FoundKind,
    /// Its id.
    pub id: String,
    /// Its ARN, if it has one.
    pub arn: Option<String>,
    /// Whose it is.
    pub owner: FoundOwner,
    /// Whether it is going away already.
    pub leaving: bool,
}

impl Client {
    /// Everything whose id begins with a prefix and a hyphen, with its owner.
    ///
    /// # Errors
    /// When ElastiCache refuses or does not answer.
    pub async fn survey(&self, prefix: &str) -> Result<Vec<Found>, Fault> {
        let begins = format!("{}-", prefix.to_ascii_lowercase());
        let mut found = Vec::new();
        for live in self.list().await?.0 {
            found.push(Found {
                kind: FoundKind::Cache,
                id: live.id.to_ascii_lowercase(),
                arn: live.arn,
                owner: FoundOwner::Nobody,
                leaving: live.phase == Phase::Deleting,
            });
        }
        found.extend(self.snapshots_made().await?);
        found.extend(self.users().await?);
        found.extend(self.user_groups().await?);
        found.retain(|found| found.id.starts_with(&begins));
        for found in &mut found {
            if let (Some(arn), false) = (&found.arn, found.leaving) {
                found.owner = self.owner(arn).await;
            }
        }
        Ok(found)
    }

    async fn owner(&self, arn: &str) -> FoundOwner {
        self.turn().await;
        let Ok(output) = self.sdk.list_tags_for_resource().resource_name(arn).send().await else {
            return FoundOwner::Unreadable;
        };
        let tags = output.tag_list();
        let owner = tags
            .iter()
            .find(|tag| tag.key() == Some(OWNER_TAG))
            .and_then(Tag::value);
        match owner {
            None => FoundOwner::Nobody,
            Some(RELEASED) => FoundOwner::Released,
            Some(uid) => FoundOwner::Instance(uid.to_owned()),
        }
    }

    /// Snapshots that were asked for; those that ElastiCache takes by itself go with their cache.
    async fn snapshots_made(&self) -> Result<Vec<Found>, Fault> {
        let (mut found, mut marker) = (Vec::new(), None);
        loop {
            self.turn().await;
            let call = self.sdk.describe_snapshots().snapshot_source("user").max_records(PAGE);
            let output = call
                .set_marker(marker)
                .send()
                .await
                .map_err(|error| passing("listing snapshots", &error))?;
            found.extend(output.snapshots().iter().filter_map(|snapshot| {
                Some(Found {
                    kind: FoundKind::Snapshot,
                    id: snapshot.snapshot_name()?.to_ascii_lowercase(),
                    arn: snapshot.arn().map(str::to_owned),
                    owner: FoundOwner::Nobody,
                    leaving: snapshot.snapshot_status() == Some("deleting"),
                })
            }));
            marker = output.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                return Ok(found);
            }
        }
    }

    async fn users(&self) -> Result<Vec<Found>, Fault> {
        let (mut found, mut marker) = (Vec::new(), None);
        loop {
            self.turn().await;
            let call = self.sdk.describe_users().max_records(PAGE);
            let output = call
                .set_marker(marker)
                .send()
                .await
                .map_err(|error| passing("listing users", &error))?;
            found.extend(output.users().iter().filter_map(|user| {
                Some(Found {
                    kind: FoundKind::User,
                    id: user.user_id()?.to_ascii_lowercase(),
                    arn: user.arn().map(str::to_owned),
                    owner: FoundOwner::Nobody,
                    leaving: user.status() == Some("deleting"),
                })
            }));
            marker = output.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                return Ok(found);
            }
        }
    }

    async fn user_groups(&self) -> Result<Vec<Found>, Fault> {
        let (mut found, mut marker) = (Vec::new(), None);
        loop {
            self.turn().await;
            let call = self.sdk.describe_user_groups().max_records(PAGE);
            let output = call
                .set_marker(marker)
                .send()
                .await
                .map_err(|error| passing("listing user groups", &error))?;
            found.extend(output.user_groups().iter().filter_map(|group| {
                Some(Found {
                    kind: FoundKind::UserGroup,
                    id: group.user_group_id()?.to_ascii_lowercase(),
                    arn: group.arn().map(str::to_owned),
                    owner: FoundOwner::Nobody,
                    leaving: group.status() == Some("deleting"),
                })
            }));
            marker = output.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                return Ok(found);
            }
        }
    }
}
