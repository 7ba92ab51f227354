//! The settings that cache clusters and replication groups share, and how they are asked for.

use super::error::{ApiError, Outcome};
use super::model::Upkeep;
use super::names;
use super::nodes::Tls;
use super::query::Params;
use super::state::Cloud;
use super::xml::Fields;

/// Parameters of [`Cloud::new_upkeep`].
pub(crate) const CREATE: &[&str] = &[
    "CacheSubnetGroupName",
    "SecurityGroupIds",
    "PreferredMaintenanceWindow",
    "NotificationTopicArn",
    "AutoMinorVersionUpgrade",
    "SnapshotRetentionLimit",
    "SnapshotWindow",
    "NetworkType",
    "IpDiscovery",
];

/// Parameters of [`Upkeep::change`].
pub(crate) const MODIFY: &[&str] = &[
    "SecurityGroupIds",
    "PreferredMaintenanceWindow",
    "NotificationTopicArn",
    "NotificationTopicStatus",
    "AutoMinorVersionUpgrade",
    "SnapshotRetentionLimit",
    "SnapshotWindow",
    "IpDiscovery",
];

impl Cloud {
    /// Reads the settings of something new.
    pub(crate) fn new_upkeep(&self, p: Params, parameter_group: String, replicates: bool) -> Outcome<Upkeep> {
        let upkeep = Upkeep {
            maintenance: "sun:05:00-sun:06:00".into(),
            snapshot_window: "03:00-04:00".into(),
            retention: 0,
            topic: None,
            topic_status: "active".into(),
            auto_minor: true,
            security_groups: Vec::new(),
            parameter_group,
            subnet_group: self.subnet_group(p.text("CacheSubnetGroupName"))?,
            network: "ipv4".into(),
            discovery: "ipv4".into(),
        };
        if let Some(other) = p.text("NetworkType").filter(|network| *network != "ipv4") {
            return Err(ApiError::value(format!("The sandbox's network is ipv4, not {other}.")));
        }
        Ok(upkeep.change(p, replicates)?.0)
    }
}

impl Upkeep {
    /// The settings with the request's changes, and whether one of them takes a while.
    pub(crate) fn change(mut self, p: Params, replicates: bool) -> Outcome<(Self, bool)> {
        let before = self.security_groups.clone();
        if let Some(window) = p.text("PreferredMaintenanceWindow") {
            self.maintenance = names::maintenance_window(window)?;
        }
        if (p.has("SnapshotWindow") || p.count("SnapshotRetentionLimit")?.is_some_and(|days| days > 0)) && !replicates {
            return Err(ApiError::combination(
                "Snapshots are not supported by the engine memcached.",
            ));
        }
        if let Some(window) = p.text("SnapshotWindow") {
            self.snapshot_window = names::snapshot_window(window)?;
        }
        if let Some(days) = p.count("SnapshotRetentionLimit")? {
            if days > 35 {
                return Err(ApiError::value(format!(
                    "SnapshotRetentionLimit must be between 0 and 35: {days}"
                )));
            }
            self.retention = days;
        }
        if let Some(topic) = p.text("NotificationTopicArn") {
            if !topic.starts_with("arn:aws:sns:") {
                return Err(ApiError::value(format!("Invalid NotificationTopicArn: {topic}")));
            }
            self.topic = Some(topic.to_owned());
        }
        if let Some(status) = p.text("NotificationTopicStatus") {
            if !["active", "inactive"].contains(&status) {
                return Err(ApiError::value(format!("Invalid NotificationTopicStatus: {status}")));
            }
            self.topic_status = status.to_owned();
        }
        if let Some(auto) = p.flag("AutoMinorVersionUpgrade")? {
            self.auto_minor = auto;
        }
        if let Some(other) = p.text("IpDiscovery").filter(|discovery| *discovery != "ipv4") {
            return Err(ApiError::combination(format!(
                "IpDiscovery {other} does not fit the network type ipv4."
            )));
        }
        if p.has("SecurityGroupIds") {
            self.security_groups = names::security_groups(p.texts("SecurityGroupIds", "SecurityGroupId"))?;
        }
        let slow = self.security_groups != before;
        Ok((self, slow))
    }
}

/// `TransitEncryptionEnabled` and `TransitEncryptionMode` of a request, or what was before.
pub(crate) fn tls(p: Params, before: Tls) -> Outcome<Tls> {
    let enabled = p.flag("TransitEncryptionEnabled")?;
    let mode = match p.text("TransitEncryptionMode") {
        None => None,
        Some("preferred") => Some(Tls::Preferred),
        Some("required") => Some(Tls::Required),
        Some(other) => return Err(ApiError::value(format!("Invalid TransitEncryptionMode: {other}"))),
    };
    match (enabled.unwrap_or(before != Tls::Off), mode) {
        (true, mode) => Ok(mode.unwrap_or(if before == Tls::Off { Tls::Required } else { before })),
        (false, None) => Ok(Tls::Off),
        (false, Some(_)) => Err(ApiError::combination(
            "TransitEncryptionMode can be set only when in-transit encryption is enabled.",
        )),
    }
}

/// How a mode of encryption is spelled.
pub(crate) fn tls_mode(tls: Tls) -> Option<&'static str> {
    match tls {
        Tls::Off => None,
        Tls::Preferred => Some("preferred"),
        Tls::Required => Some("required"),
    }
}

/// An `Endpoint` structure.
pub(crate) fn endpoint(address: std::net::Ipv4Addr, port: u16) -> Fields {
    Fields::new().text("Address", address).text("Port", port)
}
