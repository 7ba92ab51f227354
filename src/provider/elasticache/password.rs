//! The password of a replication group (`authentication: token`), changed where the group stands: another one is let in
//! beside the one before it, or beside none (`ROTATE`); then applications are told of it; and when the time of grace is
//! over it alone is let in (`SET`).
//!
//! Which one is wanted stands in the auth Secret. ElastiCache tells of no password, only of when it was last changed
//! (`AuthTokenLastModifiedDate`), and that shows whether a call had its effect. It must be known: a second `ROTATE` would
//! shut the password before out. So the date is read again right before each call, and no call is repeated unless the
//! date shows that it had no effect. What is left is a call of a leader before that was under way already and has its
//! effect between that reading and the present one's call.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use secrecy::{ExposeSecret, SecretString};

use super::super::{Desired, Token, TokenStage};
use super::plan::TokenStrategy;
use super::{Live, Phase};
use crate::api::{Authentication, ElastiCacheSpec, Topology};
use crate::provider::secrets;

/// The password that a replication group is to ask for, and how far that is.
#[derive(Clone, Debug)]
pub struct Password<'a> {
    desired: &'a Desired,
    live: &'a Live,
    wanted: SecretString,
    version: String,
    /// What applications are told, if they are told one.
    told: Option<SecretString>,
    now: Timestamp,
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// To be asked for.
    Ask(TokenStrategy),
    /// Until then others are let in, too.
    Until(Timestamp),
}

impl<'a> Password<'a> {
    /// That of a group whose plan has one, once it stands in the Secret.
    pub fn of(
        desired: &'a Desired,
        spec: &ElastiCacheSpec,
        live: &'a Live,
        secrets: &BTreeMap<String, Arc<Secret>>,
        now: Timestamp,
    ) -> Option<Self> {
        let asks = spec.authentication == Some(Authentication::Token) && live.topology == Topology::ReplicationGroup;
        let auth = secrets.get(&desired.auth_secret()).filter(|_| asks)?;
        let connection = secrets.get(&desired.connection_secret);
        Some(Self {
            desired,
            live,
            wanted: secrets::password(auth)?,
            version: auth.metadata.resource_version.clone().unwrap_or_default(),
            told: connection.and_then(|secret| secrets::password(secret)),
            now,
        })
    }

    fn is_told(&self) -> bool {
        let told = self.told.as_ref().map(SecretString::expose_secret);
        told == Some(self.wanted.expose_secret())
    }

    /// Whether it is on its way, or there.
    fn is_current(&self, token: &Token) -> bool {
        token.secret_version == self.version
    }

    /// Whether the change that was asked for when it was last changed `before` had its effect.
    fn had_effect(&self, before: Option<&String>) -> bool {
        self.live.phase == Phase::Available && self.live.config.token_changed.as_ref() != before
    }

    /// How far it is, by what is on record and what ElastiCache says; `None` if it was never asked for.
    pub fn token(&self) -> Option<Token> {
        let of = |stage| Token {
            secret_version: self.version.clone(),
            stage,
        };
        let Some(token) = self.desired.record.token.clone() else {
            // It was made with it.
            return self.live.config.authentication.then(|| of(TokenStage::Alone));
        };
        let unheard = matches!(&token.stage, TokenStage::Adding { before } if !self.had_effect(before.as_ref()));
        Some(match &token.stage {
            TokenStage::Adding { before } if self.is_current(&token) && self.had_effect(before.as_ref()) => {
                of(TokenStage::Both { since: self.now })
            }
            TokenStage::Setting { before } if self.is_current(&token) && self.had_effect(before.as_ref()) => {
                of(TokenStage::Alone)
            }
            // The Secret was written again, and says what it said before.
            TokenStage::Adding { .. } if unheard && self.is_told() && !self.is_current(&token) => of(TokenStage::Alone),
            TokenStage::Both { .. } | TokenStage::Setting { .. } | TokenStage::Alone if self.is_told() => {
                of(token.stage.clone())
            }
            _ => token,
        })
    }

    /// The password that applications are to be told now.
    pub fn shown(&self) -> Option<SecretString> {
        let is_let_in = |token: &Token| self.is_current(token) && !matches!(token.stage, TokenStage::Adding { .. });
        match self.token() {
            Some(token) if is_let_in(&token) => Some(self.wanted.clone()),
            // While it is on its way the group may say already that it asks for one, and lets in who has none.
            Some(token) if self.is_current(&token) => self.told.clone(),
            _ => {
                let asked = self.live.config.authentication.then(|| self.wanted.clone());
                self.told.clone().or(asked)
            }
        }
    }

    /// What is next for a group that is available and in all else as it is to be.
    pub fn next(&self) -> Option<Turn> {
        let Some(token) = self.token().filter(|token| self.is_current(token)) else {
            return Some(Turn::Ask(TokenStrategy::Rotate));
        };
        match token.stage {
            TokenStage::Adding { .. } => Some(Turn::Ask(TokenStrategy::Rotate)),
            TokenStage::Setting { .. } => Some(Turn::Ask(TokenStrategy::Set)),
            TokenStage::Alone => None,
            TokenStage::Both { since } => {
                let grace = SignedDuration::try_from(self.desired.grace).unwrap_or(SignedDuration::MAX);
                let until = since.checked_add(grace).unwrap_or(Timestamp::MAX);
                if self.desired.release_superseded || until <= self.now {
                    Some(Turn::Ask(TokenStrategy::Set))
                } else {
                    Some(Turn::Until(until))
                }
            }
        }
    }

    /// What is to be on record before it is asked for.
    pub fn asked(&self, strategy: TokenStrategy) -> Token {
        let before = self.live.config.token_changed.clone();
        Token {
            secret_version: self.version.clone(),
            stage: match strategy {
                TokenStrategy::Rotate => TokenStage::Adding { before },
                TokenStrategy::Set => TokenStage::Setting { before },
            },
        }
    }
}
