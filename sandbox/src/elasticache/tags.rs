//! Tags (AddTagsToResource, RemoveTagsFromResource, ListTagsForResource), subnet groups and events.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::error::{ApiError, Outcome};
use super::model::{Event, SubnetGroup};
use super::names;
use super::query::Params;
use super::state::{ACCOUNT, Cloud, Then};
use super::xml::Fields;

/// The VPC that every subnet is in.
pub(crate) const VPC: &str = "vpc-00000000000000001";

enum Resource {
    Cluster(String),
    Group(String),
    Snapshot(String),
    User(String),
    UserGroup(String),
}

impl Cloud {
    pub(crate) fn list_tags(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["ResourceName"])?;
        let resource = self.tagged(p.need("ResourceName")?)?;
        Ok(show_tags(self.tags_of(&resource)))
    }

    pub(crate) fn add_tags(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["ResourceName", "Tags"])?;
        let resource = self.tagged(p.need("ResourceName")?)?;
        let added = p.tags()?;
        if added.is_empty() {
            return Err(ApiError::value("Tags must name a tag."));
        }
        let mut tags = self.tags_of(&resource).clone();
        tags.extend(added);
        if tags.len() > 50 {
            return Err(ApiError::new(
                "TagQuotaPerResourceExceeded",
                "A resource can have 50 tags.",
            ));
        }
        self.set_tags(&resource, tags.clone());
        Ok(show_tags(&tags))
    }

    pub(crate) fn remove_tags(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["ResourceName", "TagKeys"])?;
        let resource = self.tagged(p.need("ResourceName")?)?;
        let mut tags = self.tags_of(&resource).clone();
        for key in p.texts("TagKeys", "member") {
            if tags.remove(&key).is_none() {
                return Err(ApiError::new(
                    "TagNotFound",
                    format!("The tag {key} was not found on the resource."),
                ));
            }
        }
        self.set_tags(&resource, tags.clone());
        Ok(show_tags(&tags))
    }

    /// Finds what an ARN names. The tags of what is not available cannot be reached, and the answer to that looks as
    /// if it did not exist: groups that are being saved and all clusters answer `CacheClusterNotFound`.
    fn tagged(&self, arn: &str) -> Outcome<Resource> {
        let invalid = || {
            ApiError::new(
                "InvalidARN",
                format!("{arn} is not a valid ARN of this account and region."),
            )
        };
        let prefix = format!("arn:aws:elasticache:{}:{ACCOUNT}:", self.region);
        let (kind, id) = arn
            .strip_prefix(&prefix)
            .and_then(|rest| rest.split_once(':'))
            .ok_or_else(invalid)?;
        let hidden = || {
            ApiError::new(
                "CacheClusterNotFound",
                format!("{id} is either not present or not available."),
            )
        };
        match kind {
            "cluster" => match self.clusters.get(id) {
                Some(cluster) if cluster.status == "available" => Ok(Resource::Cluster(id.to_owned())),
                _ => Err(hidden()),
            },
            "replicationgroup" => match self.group(id)?.status.as_str() {
                "available" => Ok(Resource::Group(id.to_owned())),
                "snapshotting" => Err(hidden()),
                status => Err(ApiError::group_state(format!(
                    "Replication group {id} has status {status}."
                ))),
            },
            "snapshot" => self
                .snapshot(id)
                .map(|snapshot| Resource::Snapshot(snapshot.name.clone())),
            "user" => self.user(id).map(|user| Resource::User(user.id.clone())),
            "usergroup" => self.user_group(id).map(|group| Resource::UserGroup(group.id.clone())),
            _ => Err(invalid()),
        }
    }

    fn tags_of(&self, resource: &Resource) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let tags = match resource {
            Resource::Cluster(id) => self.clusters.get(id).map(|cluster| &cluster.tags),
            Resource::Group(id) => self.groups.get(id).map(|group| &group.tags),
            Resource::Snapshot(name) => self.snapshots.get(name).map(|snapshot| &snapshot.tags),
            Resource::User(id) => self.users.get(id).map(|user| &user.tags),
            Resource::UserGroup(id) => self.user_groups.get(id).map(|group| &group.tags),
        };
        tags.unwrap_or(&NONE)
    }

    /// Writes tags. A group or cluster is `modifying` for a while after that.
    fn set_tags(&mut self, resource: &Resource, tags: BTreeMap<String, String>) {
        let slow = !self.times.tagging.is_zero();
        match resource {
            Resource::Cluster(id) => {
                if let Some(cluster) = self.clusters.get_mut(id) {
                    cluster.tags = tags;
                }
                if slow {
                    self.set_status(id, "modifying");
                    self.start(self.times.tagging, Vec::new(), Then::ClusterReady(id.clone()));
                }
            }
            Resource::Group(id) => {
                if let Some(group) = self.groups.get_mut(id) {
                    group.tags = tags;
                }
                if slow {
                    self.set_group_status(id, "modifying");
                    self.start(self.times.tagging, Vec::new(), Then::GroupReady(id.clone()));
                }
            }
            Resource::Snapshot(name) => {
                if let Some(snapshot) = self.snapshots.get_mut(name) {
                    snapshot.tags = tags;
                }
            }
            Resource::User(id) => {
                if let Some(user) = self.users.get_mut(id) {
                    user.tags = tags;
                }
            }
            Resource::UserGroup(id) => {
                if let Some(group) = self.user_groups.get_mut(id) {
                    group.tags = tags;
                }
            }
        }
    }

    /// DescribeEvents: of the last hour unless told, of 14 days at the most.
    pub(crate) fn describe_events(&self, p: Params) -> Outcome<Fields> {
        p.only(&[
            "SourceIdentifier",
            "SourceType",
            "StartTime",
            "EndTime",
            "Duration",
            "MaxRecords",
            "Marker",
        ])?;
        let time = |name: &str| {
            p.text(name)
                .map(|text| {
                    text.parse::<Timestamp>()
                        .map_err(|_| ApiError::value(format!("Invalid {name}: {text}")))
                })
                .transpose()
        };
        if p.has("SourceIdentifier") && !p.has("SourceType") {
            return Err(ApiError::combination("SourceIdentifier needs a SourceType."));
        }
        let until = time("EndTime")?.unwrap_or(self.now);
        let minutes = p.count("Duration")?.unwrap_or(60);
        let length = std::time::Duration::from_secs(60 * u64::try_from(minutes.min(20_160)).unwrap_or(60));
        let from = time("StartTime")?.unwrap_or(until - length);
        let found: Vec<(String, &Event)> = (self.events.iter().enumerate())
            .filter(|(_, event)| event.date >= from && event.date <= until)
            .filter(|(_, event)| p.text("SourceType").is_none_or(|kind| kind == event.kind))
            .filter(|(_, event)| {
                p.text("SourceIdentifier")
                    .is_none_or(|id| id.eq_ignore_ascii_case(&event.source))
            })
            .map(|(n, event)| (format!("{n:010}"), event))
            .collect();
        let (marker, page) = self.page(p, found)?;
        let items = page.into_iter().map(|event| {
            Fields::new()
                .text("SourceIdentifier", &event.source)
                .text("SourceType", event.kind)
                .text("Message", &event.message)
                .text("Date", event.date)
        });
        Ok(Fields::new().some("Marker", marker).list("Events", "Event", items))
    }

    pub(crate) fn describe_subnet_groups(&self, p: Params) -> Outcome<Fields> {
        p.only(&["CacheSubnetGroupName", "MaxRecords", "Marker"])?;
        let wanted = p.text("CacheSubnetGroupName").map(str::to_ascii_lowercase);
        if let Some(name) = &wanted {
            self.known_subnet_group(name)?;
        }
        let found: Vec<(String, &SubnetGroup)> = (self.subnet_groups.iter())
            .filter(|(name, _)| wanted.as_ref().is_none_or(|wanted| wanted == *name))
            .map(|(name, group)| (name.clone(), group))
            .collect();
        let (marker, page) = self.page(p, found)?;
        let items = page.into_iter().map(|group| self.show_subnet_group(group));
        Ok(Fields::new()
            .some("Marker", marker)
            .list("CacheSubnetGroups", "CacheSubnetGroup", items))
    }

    pub(crate) fn create_subnet_group(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["CacheSubnetGroupName", "CacheSubnetGroupDescription", "SubnetIds"])?;
        let name = names::id("CacheSubnetGroupName", p.need("CacheSubnetGroupName")?, names::OTHER_ID)?;
        p.need("CacheSubnetGroupDescription")?;
        let subnets = p.texts("SubnetIds", "SubnetIdentifier");
        if subnets.is_empty() {
            return Err(ApiError::value("SubnetIds must name a subnet."));
        }
        if self.subnet_groups.contains_key(&name) {
            return Err(ApiError::new(
                "CacheSubnetGroupAlreadyExists",
                format!("Cache subnet group {name} already exists."),
            ));
        }
        let group = SubnetGroup {
            name: name.clone(),
            subnets,
        };
        let reply = Fields::new().with("CacheSubnetGroup", self.show_subnet_group(&group));
        self.subnet_groups.insert(name, group);
        Ok(reply)
    }

    pub(crate) fn delete_subnet_group(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["CacheSubnetGroupName"])?;
        let name = p.need("CacheSubnetGroupName")?.to_ascii_lowercase();
        self.known_subnet_group(&name)?;
        if self
            .clusters
            .values()
            .any(|cluster| cluster.upkeep.subnet_group == name)
        {
            return Err(ApiError::new(
                "CacheSubnetGroupInUse",
                format!("Cache subnet group {name} is in use."),
            ));
        }
        self.subnet_groups.remove(&name);
        Ok(Fields::new())
    }

    fn known_subnet_group(&self, name: &str) -> Outcome<()> {
        if self.subnet_groups.contains_key(name) {
            return Ok(());
        }
        Err(ApiError::new(
            "CacheSubnetGroupNotFoundFault",
            format!("Cache Subnet Group {name} does not exist."),
        ))
    }

    fn show_subnet_group(&self, group: &SubnetGroup) -> Fields {
        let subnets = group.subnets.iter().enumerate().map(|(nth, id)| {
            Fields::new()
                .text("SubnetIdentifier", id)
                .with("SubnetAvailabilityZone", Fields::new().text("Name", self.zone(nth)))
                .texts("SupportedNetworkTypes", "member", ["ipv4"])
        });
        Fields::new()
            .text("CacheSubnetGroupName", &group.name)
            .text("CacheSubnetGroupDescription", "A subnet group of the sandbox")
            .text("VpcId", VPC)
            .list("Subnets", "Subnet", subnets)
            .text("ARN", self.arn("subnetgroup", &group.name))
            .texts("SupportedNetworkTypes", "member", ["ipv4"])
    }
}

fn show_tags(tags: &BTreeMap<String, String>) -> Fields {
    let items = tags
        .iter()
        .map(|(key, value)| Fields::new().text("Key", key).text("Value", value));
    Fields::new().list("TagList", "Tag", items)
}
