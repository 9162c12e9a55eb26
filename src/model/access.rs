//! What a caller of the REST API may do: [`Scope`]s, the [`Role`]s that stand for several of them, and a [`Grant`], which is
//! all that a key or a token gives.
//!
//! A scope names a sort of operation; each operation in OpenAPI names the one it needs. A role is a fixed set of scopes, and
//! each role has all of the one before it: viewer, operator, administrator, owner. Nobody may give away more than he has:
//! [`Grant::exceeds`] is the one place that says what "more" is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::labels::LabelSelector;
use super::pattern::Network;
use super::spec::account::{AccountQuotas, SenderPattern};
use super::time::Timestamp;

/// A sort of operation of the REST API. Which one an operation needs stands in its description and in `x-scope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(as = AccessScope)]
pub enum Scope {
    /// See the configuration, and why things are as they are.
    #[serde(rename = "config:read")]
    ConfigRead,
    /// Change the configuration, but for keys.
    #[serde(rename = "config:write")]
    ConfigWrite,
    /// See queues, messages and sessions; not the content of mail.
    #[serde(rename = "queue:read")]
    QueueRead,
    /// Act on queues, messages, sessions and running state.
    #[serde(rename = "queue:write")]
    QueueWrite,
    /// Submit mail.
    #[serde(rename = "messages:send")]
    MessagesSend,
    /// Read the content of mail.
    #[serde(rename = "messages:content")]
    MessagesContent,
    /// See what happened to messages.
    #[serde(rename = "tracking:read")]
    TrackingRead,
    /// Read the audit log.
    #[serde(rename = "audit:read")]
    AuditRead,
    /// Read metrics.
    #[serde(rename = "metrics:read")]
    MetricsRead,
    /// Make, change and take away keys.
    #[serde(rename = "keys:write")]
    KeysWrite,
    /// Read secrets.
    #[serde(rename = "secrets:read")]
    SecretsRead,
}

impl Scope {
    /// All of them.
    pub const ALL: [Scope; 11] = [
        Scope::ConfigRead,
        Scope::ConfigWrite,
        Scope::QueueRead,
        Scope::QueueWrite,
        Scope::MessagesSend,
        Scope::MessagesContent,
        Scope::TrackingRead,
        Scope::AuditRead,
        Scope::MetricsRead,
        Scope::KeysWrite,
        Scope::SecretsRead,
    ];

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Scope::ConfigRead => "config:read",
            Scope::ConfigWrite => "config:write",
            Scope::QueueRead => "queue:read",
            Scope::QueueWrite => "queue:write",
            Scope::MessagesSend => "messages:send",
            Scope::MessagesContent => "messages:content",
            Scope::TrackingRead => "tracking:read",
            Scope::AuditRead => "audit:read",
            Scope::MetricsRead => "metrics:read",
            Scope::KeysWrite => "keys:write",
            Scope::SecretsRead => "secrets:read",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no scope {0:?}")]
pub struct NotAScope(String);

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        Scope::ALL.into_iter().find(|scope| scope.word() == text).ok_or_else(|| NotAScope(text.to_owned()))
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u16);

impl Scopes {
    /// All of them.
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether it has this one.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & bit(scope) != 0
    }

    /// Those that it has, in order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Scopes(scopes.into_iter().fold(0, |bits, scope| bits | bit(scope)))
    }
}

fn bit(scope: Scope) -> u16 {
    1 << scope as u16
}

/// A fixed set of scopes. A viewer sees everything but the content of mail; an operator also acts on queues, messages, sessions
/// and running state; an administrator also changes the configuration, submits mail and reads its content; an owner
/// also manages keys and reads secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Sees.
    Viewer,
    /// Also acts on mail.
    Operator,
    /// Also configures.
    Administrator,
    /// May do everything.
    Owner,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Operator, Role::Administrator, Role::Owner];

    /// What it may do.
    pub fn scopes(self) -> Scopes {
        use Scope::*;
        let own: &[Scope] = match self {
            Role::Viewer => &[ConfigRead, QueueRead, TrackingRead, AuditRead, MetricsRead],
            Role::Operator => &[QueueWrite],
            Role::Administrator => &[ConfigWrite, MessagesSend, MessagesContent],
            Role::Owner => &[KeysWrite, SecretsRead],
        };
        let lower = Role::ALL.into_iter().filter(|role| *role < self).flat_map(|role| role.scopes().iter());
        own.iter().copied().chain(lower).collect()
    }

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Administrator => "administrator",
            Role::Owner => "owner",
        }
    }
}

impl FromStr for Role {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        Role::ALL.into_iter().find(|role| role.word() == text).ok_or_else(|| NotAScope(text.to_owned()))
    }
}

/// All that a key or a token gives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// The role that it was given as, if it was one.
    pub role: Option<Role>,
    /// What may be done.
    pub scopes: Scopes,
    /// With which objects of the configuration; the empty selector: with all.
    pub objects: LabelSelector,
    /// From where; empty: from everywhere.
    pub allow_from: Vec<Network>,
    /// Until when; `None`: until it is taken away.
    pub expires_at: Option<Timestamp>,
    /// Mail that it submits may be from these; `None`: from any address in a local domain.
    pub send_as: Option<Vec<SenderPattern>>,
    /// How much it may submit.
    pub quotas: AccountQuotas,
}

impl Grant {
    /// All that a role gives, with no other limit.
    pub fn of(role: Role) -> Self {
        Grant { role: Some(role), scopes: role.scopes(), ..Grant::default() }
    }

    /// Whether it gives this.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.has(scope)
    }

    /// Whether it may be used from here. Who comes by a socket of this machine has no address and is nowhere.
    pub fn is_allowed_from(&self, client: Option<IpAddr>) -> bool {
        let inside = |client: IpAddr| {
            let client = client.to_canonical();
            self.allow_from.iter().any(|network| network.0.contains(&client))
        };
        self.allow_from.is_empty() || client.is_some_and(inside)
    }

    /// Whether it holds now.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// The first thing that this grant has and `giver` has not: the field of an API key, and why. `None` when whoever has
    /// `giver` may give this.
    pub fn exceeds(&self, giver: &Grant) -> Option<(&'static str, String)> {
        if let Some(scope) = self.scopes.iter().find(|scope| !giver.may(*scope)) {
            let field = if self.role.is_some() { "role" } else { "scopes" };
            return Some((field, format!("it would give the scope {scope}, which the caller has not")));
        }
        if !self.objects.narrows(&giver.objects) {
            let detail = format!("the caller may only give keys whose objects are limited by {}", giver.objects);
            return Some(("objects", detail));
        }
        let inside = |network: &Network| giver.allow_from.iter().any(|outer| outer.0.contains(&network.0));
        if !giver.allow_from.is_empty() && (self.allow_from.is_empty() || !self.allow_from.iter().all(inside)) {
            return Some(("allowFrom", "the caller itself may only come from narrower networks".to_owned()));
        }
        if giver.expires_at.is_some_and(|end| self.expires_at.is_none_or(|own| own > end)) {
            return Some(("expiresAt", "it would hold for longer than what the caller has".to_owned()));
        }
        if let Some(senders) = &giver.send_as {
            let given = self.send_as.as_deref();
            let more = |own: &SenderPattern| !senders.iter().any(|pattern| covers(pattern, own));
            if given.is_none_or(|given| given.iter().any(more)) {
                return Some(("sendAs", "it could send as somebody whom the caller cannot send as".to_owned()));
            }
        }
        if giver.quotas != AccountQuotas::default() && self.quotas != giver.quotas {
            return Some(("quotas", "the caller may only give the quotas that it has itself".to_owned()));
        }
        None
    }
}

/// Whether every sender of `inner` is one of `outer`.
fn covers(outer: &SenderPattern, inner: &SenderPattern) -> bool {
    match (outer, inner) {
        (SenderPattern::Any, _) => true,
        (SenderPattern::Domain(_), SenderPattern::Exact(mailbox)) => outer.matches(mailbox),
        _ => outer == inner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_steps_and_the_words_are_those_of_serde() {
        let counts = Role::ALL.map(|role| role.scopes().iter().count());
        assert_eq!(counts, [5, 6, 9, 11]);
        assert_eq!(Role::Owner.scopes(), Scopes::all());
        for role in Role::ALL {
            assert_eq!(serde_json::to_value(role).unwrap(), role.word());
            assert_eq!(role.word().parse(), Ok(role));
            assert_eq!(role.scopes().has(Scope::MessagesContent), role >= Role::Administrator, "never content");
            assert_eq!(role.scopes().has(Scope::KeysWrite), role == Role::Owner);
        }
        for scope in Scope::ALL {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.word());
            assert_eq!(scope.word().parse(), Ok(scope));
        }
        assert!("config:*".parse::<Scope>().is_err() && "root".parse::<Role>().is_err());
    }

    #[test]
    fn nobody_gives_more_than_he_has() {
        let owner = Grant::of(Role::Owner);
        assert_eq!(owner.exceeds(&owner), None);
        assert_eq!(owner.exceeds(&Grant::of(Role::Administrator)).unwrap().0, "role");
        let limited = Grant {
            objects: "team=mail".parse().unwrap(),
            allow_from: vec!["10.0.0.0/8".parse().unwrap()],
            expires_at: Some(Timestamp::from_millis(1_000)),
            send_as: Some(vec!["*@example.com".parse().unwrap()]),
            quotas: serde_json::from_value(serde_json::json!({"messages": "10/1h"})).unwrap(),
            ..owner.clone()
        };
        assert_eq!(limited.exceeds(&owner), None, "less is always possible");
        assert_eq!(limited.exceeds(&limited), None);
        let narrower = Grant {
            objects: "team=mail,stage=test".parse().unwrap(),
            allow_from: vec!["10.1.0.0/16".parse().unwrap()],
            expires_at: Some(Timestamp::from_millis(999)),
            send_as: Some(vec!["a@example.com".parse().unwrap()]),
            ..limited.clone()
        };
        assert_eq!(narrower.exceeds(&limited), None);
        for (wider, field) in [
            (Grant { objects: LabelSelector::default(), ..limited.clone() }, "objects"),
            (Grant { objects: "stage=test".parse().unwrap(), ..limited.clone() }, "objects"),
            (Grant { allow_from: Vec::new(), ..limited.clone() }, "allowFrom"),
            (Grant { allow_from: vec!["0.0.0.0/0".parse().unwrap()], ..limited.clone() }, "allowFrom"),
            (Grant { expires_at: None, ..limited.clone() }, "expiresAt"),
            (Grant { expires_at: Some(Timestamp::from_millis(1_001)), ..limited.clone() }, "expiresAt"),
            (Grant { send_as: None, ..limited.clone() }, "sendAs"),
            (Grant { send_as: Some(vec!["*".parse().unwrap()]), ..limited.clone() }, "sendAs"),
            (Grant { quotas: AccountQuotas::default(), ..limited.clone() }, "quotas"),
        ] {
            assert_eq!(wider.exceeds(&limited).map(|(field, _)| field), Some(field));
        }
    }

    #[test]
    fn networks_and_ends() {
        let grant = Grant { allow_from: vec!["10.0.0.0/8".parse().unwrap()], ..Grant::default() };
        assert!(grant.is_allowed_from(Some("10.1.2.3".parse().unwrap())));
        assert!(grant.is_allowed_from(Some("::ffff:10.1.2.3".parse().unwrap())), "an IPv4 client of a socket for both");
        assert!(!grant.is_allowed_from(Some("192.0.2.1".parse().unwrap())) && !grant.is_allowed_from(None));
        assert!(Grant::default().is_allowed_from(None));
        let ending = Grant { expires_at: Some(Timestamp::from_millis(5)), ..Grant::default() };
        assert!(ending.has_expired(Timestamp::from_millis(5)) && !ending.has_expired(Timestamp::from_millis(4)));
        assert!(!Grant::default().has_expired(Timestamp::from_millis(i64::MAX)));
    }
}
