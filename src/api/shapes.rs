//! What all configuration resources have around their `spec`: status, conditions, warnings.

use serde::Serialize;
use utoipa::openapi::schema::{AdditionalProperties, SchemaType, Type};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::time::Timestamp;

/// Something that is or is not so about an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "type": "Listening", "status": "false", "reason": "addressInUse",
    "message": "0.0.0.0:25 is in use by another process", "lastTransitionTime": "2026-11-24T10:15:02.113Z",
    "observedGeneration": 7
}))]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub last_transition_time: Option<Timestamp>,
    /// The generation of the object that this was found for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub observed_generation: Option<u64>,
}

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
pub enum ConditionType {
    /// Whether all its bindings are open.
    Listening,
    /// Whether the certificate, or those of the virtual server, can be used and are valid now.
    CertificateValid,
    /// Whether the whole world may relay. Only there when it may, or when it is unknown because one address that may relay
    /// hides many clients.
    OpenRelay,
    /// An operator has paused, stopped or suspended it. Only there when one has.
    Overridden,
    /// Whether what is configured can be put to use. Only there when it cannot; of the settings, whether what the watched
    /// directory says is in force, when there is one.
    ConfigAccepted,
    /// Whether the other side answers.
    Reachable,
    /// Whether it can log in to the other side. Only there for connectors that do so with a token.
    Authenticated,
    /// Whether it could ask for the mail that waits elsewhere the last time (`requestDequeue`). Only there when it has asked.
    DequeueRequested,
    /// Whether its time is over. Only there when it is.
    Expired,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

/// A socket that a virtual server listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoundAddress {
    /// The local address.
    #[schema(value_type = String, example = "0.0.0.0")]
    pub address: std::net::IpAddr,
    /// The port; the one that was chosen, where the binding says 0.
    #[schema(example = 2525)]
    pub port: u16,
}

/// What a virtual server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum VirtualServerState {
    /// It listens on all its bindings.
    Running,
    /// It listens on some of its bindings, or none; the condition `Listening` says why.
    Degraded,
    /// Its bindings are being opened.
    Starting,
    /// An operator has paused it: it takes no new sessions.
    Paused,
    /// It is switched off, or an operator has stopped it.
    Stopped,
}

/// What the listeners of a virtual server do: the answer of whoever runs them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServerStatus {
    /// What it does.
    pub state: VirtualServerState,
    /// Where it listens now.
    pub listeners: Vec<BoundAddress>,
    /// What is or is not so about it.
    pub conditions: Vec<Condition>,
}

/// The status of a recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RecipientStatus)]
pub struct RecipientStatus {
    /// What it does.
    pub state: ObjectState,
    /// The addresses it has: what the recipient policy gives, and its own.
    pub addresses: Vec<crate::model::spec::recipient::StampedAddress>,
    /// What is or is not so about it.
    pub conditions: Vec<Condition>,
}

/// The status of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// What it does.
    pub state: ObjectState,
    /// What is or is not so about it.
    pub conditions: Vec<Condition>,
}

/// The status of a certificate: what is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// What it does.
    pub state: ObjectState,
    /// The hosts that it is for: its subject alternative names.
    pub names: Vec<String>,
    /// Who issued it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub issuer: Option<String>,
    /// From when it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub not_before: Option<Timestamp>,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub not_after: Option<Timestamp>,
    /// The SHA-256 of the certificate, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub fingerprint: Option<String>,
    /// What is or is not so about it. When `CertificateValid` is false because a file is broken, the fields above still
    /// tell what is in force.
    pub conditions: Vec<Condition>,
}

/// What an object does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ObjectState {
    /// It is in force.
    Active,
    /// It is switched off.
    Disabled,
    /// An operator has suspended it: nothing is sent through it.
    Suspended,
}

/// A change of one object; only described, the patch is applied to the stored JSON.
pub enum MergePatch {}

impl PartialSchema for MergePatch {
    fn schema() -> RefOr<Schema> {
        let part = |description: &str| {
            ObjectBuilder::new()
                .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
                .additional_properties(Some(AdditionalProperties::FreeForm(true)))
                .description(Some(description))
        };
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some(
                "A change of one object, as a JSON merge patch (RFC 7396) over `labels` and `spec`: what is absent \
                 stays, null puts a field back to its default, **lists are replaced whole**.",
            ))
            .property("labels", part("Labels to set, or to remove with null."))
            .property("spec", part("Fields to set, or to put back to their default with null."))
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .examples([serde_json::json!({"spec": {"enabled": false}})])
            .into()
    }
}

impl ToSchema for MergePatch {}
