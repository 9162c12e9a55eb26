//! `certificates`: who a virtual server can prove to be.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::secret::{Secret, Source};

/// A TLS certificate with its private key. Virtual servers name it; a client that asks for a host by SNI gets the one for
/// that host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"chain": {"file": "smtp/tls.crt"}, "privateKey": {"file": "smtp/tls.key"}}))]
pub struct CertificateSpec {
    /// The certificate and those that lead from it to a root, in this order (PEM). A file is watched; together with the
    /// key, so that a half-replaced pair is never used.
    pub chain: Source,
    /// The certificate's private key (PEM: PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub private_key: Secret,
}
