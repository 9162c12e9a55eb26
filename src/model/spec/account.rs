//! `accounts`: who may authenticate over SMTP.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::host::{domain_key, mailbox_key};
use crate::model::password_hash::PasswordHash;
use crate::model::rates::Rates;
use crate::model::secret::Secret;
use crate::model::text::text_value;
use crate::model::username::Username;
use crate::smtp::address::{Domain, Mailbox};

/// An account: somebody or something that may authenticate over SMTP. A virtual server lets in the accounts that its
/// `authentication.accounts` picks, by the mechanisms that it offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"username": "ada@example.com", "sendAs": ["*@example.com"], "quotas": {"messages": "100/1h"}}))]
pub struct AccountSpec {
    /// What it logs in as; no two accounts have the same. Default: the object's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub username: Option<Username>,
    /// Its password. Default: none; it then logs in only by the tokens of an identity provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub password: Option<AccountPassword>,
    /// Whether it may send to domains that are not local, on virtual servers where authenticated clients may.
    pub may_relay: bool,
    /// What it may send as, beside the null reverse-path and its own username where that is an address. Default: any
    /// address in a local domain. With an empty list only its own username.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000, nullable = false)]
    pub send_as: Option<Vec<SenderPattern>>,
    /// How much it may send.
    pub quotas: AccountQuotas,
}

impl Default for AccountSpec {
    fn default() -> Self {
        AccountSpec { username: None, password: None, may_relay: true, send_as: None, quotas: AccountQuotas::default() }
    }
}

/// A password in a spec: a secret, or an Argon2 hash of one. What is kept of either is a secret again, which holds
/// what the password is checked against and never the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountPassword {
    /// A hash that was made elsewhere, given in this request.
    Hash(PasswordHash),
    /// A secret.
    Secret(Secret),
}

impl Serialize for AccountPassword {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            // never the hash: a spec that was taken over has a secret in its place
            AccountPassword::Hash(_) => serde_json::json!({"set": true}).serialize(s),
            AccountPassword::Secret(secret) => secret.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for AccountPassword {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Hashed {
            hash: PasswordHash,
        }
        let form = serde_json::Value::deserialize(d)?;
        let parsed = if form.get("hash").is_some() {
            let several = form.as_object().is_some_and(|form| form.len() > 1);
            if several {
                return Err(serde::de::Error::custom("exactly one of value, env, file and hash is needed"));
            }
            serde_json::from_value(form).map(|Hashed { hash }| AccountPassword::Hash(hash))
        } else {
            serde_json::from_value(form).map(AccountPassword::Secret)
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for AccountPassword {
    fn schema() -> RefOr<Schema> {
        let RefOr::T(Schema::Object(mut schema)) = Secret::schema() else { return Secret::schema() };
        schema.description = Some(
            "A password: `value`, of which only what can check it is kept; an Argon2 `hash`, with which SCRAM cannot be \
             used; or `env` or `file` that hold it. It reads as `set` and `fingerprint`, with `env` or `file` as given; to \
             keep a password, write the fingerprint that was read."
                .to_owned(),
        );
        schema
            .properties
            .insert("hash".to_owned(), utoipa::openapi::Ref::from_schema_name(PasswordHash::name()).into());
        schema.examples = vec![serde_json::json!({"file": "accounts/ada"})];
        Schema::Object(schema).into()
    }
}

impl ToSchema for AccountPassword {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("AccountPassword")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((PasswordHash::name().into_owned(), PasswordHash::schema()));
        Secret::schemas(schemas);
    }
}

/// How much may be sent: by an account, with an API key, from a domain. Over it, the client is told to come again later.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"messages": "100/1h, 1000/1d", "recipients": "5000/1d", "recipientsPerMessage": 50}))]
pub struct AccountQuotas {
    /// Most messages in a time: never more than so many in any time of that length (what was sent counts up to 1/24 of it longer).
    /// What is refused in the end counts for nobody. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub messages: Option<Rates>,
    /// Most recipients in a time, of all messages together. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub recipients: Option<Rates>,
    /// Most recipients of one message. Default: what the virtual server takes (`messages.maxRecipients`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 64_000, nullable = false)]
    pub recipients_per_message: Option<u32>,
}

/// Addresses that an account may send as: one address, all of a domain (`*@example.com`), or any (`*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SenderPattern {
    /// Every address.
    Any,
    /// Every address of this domain, not of domains below it.
    Domain(Domain),
    /// This address.
    Exact(Mailbox),
}

/// The text is no such pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a sender is an address, all addresses of a domain as *@example.com, or * for any")]
pub struct NotASenderPattern;

impl SenderPattern {
    /// Whether the address is one of these. Case does not count, nor how an internationalized domain is spelt.
    pub fn matches(&self, sender: &Mailbox) -> bool {
        match self {
            SenderPattern::Any => true,
            SenderPattern::Domain(domain) => key(domain) == key(sender.domain()),
            SenderPattern::Exact(mailbox) => mailbox_key(mailbox) == mailbox_key(sender),
        }
    }
}

fn key(domain: &Domain) -> Cow<'_, str> {
    domain_key(domain)
}

impl FromStr for SenderPattern {
    type Err = NotASenderPattern;

    fn from_str(text: &str) -> Result<Self, NotASenderPattern> {
        match (text, text.strip_prefix("*@")) {
            ("*", _) => Ok(SenderPattern::Any),
            (_, Some(domain)) => domain.parse().map(SenderPattern::Domain).map_err(|_| NotASenderPattern),
            _ => text.parse().map(SenderPattern::Exact).map_err(|_| NotASenderPattern),
        }
    }
}

impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SenderPattern::Any => f.write_str("*"),
            SenderPattern::Domain(domain) => write!(f, "*@{domain}"),
            SenderPattern::Exact(mailbox) => mailbox.fmt(f),
        }
    }
}

text_value!(
    SenderPattern,
    "SenderPattern",
    "bridgehead-sender-pattern",
    "Addresses that may be sent as: one address, all of a domain, or any.",
    ["ada@example.com", "*@example.com", "*"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders() {
        let matches = |pattern: &str, sender: &str| {
            let pattern: SenderPattern = pattern.parse().unwrap();
            assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            pattern.matches(&sender.parse().unwrap())
        };
        assert!(
            matches("*", "a@b.example")
                && matches("*@b.example", "A@B.example")
                && matches("a@b.example", "A@b.example")
        );
        assert!(matches("*@münchen.example", "a@xn--mnchen-3ya.example"));
        assert!(!matches("*@b.example", "a@c.b.example") && !matches("a@b.example", "b@b.example"));
        for text in ["", "a", "*@", "*@*", "@b.example", "a@"] {
            assert_eq!(text.parse::<SenderPattern>(), Err(NotASenderPattern), "{text}");
        }
    }
}
