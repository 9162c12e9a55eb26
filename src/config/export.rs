//! The whole configuration as one document, as it can be applied again.
//!
//! **Secrets.** By reference they stand as a read shows them: whoever applies that to the same appliance keeps them.
//! Included they stand by their value; of a password there is only the hash it is checked against. **Defaults** are left
//! out where the specs of the collection have the same ones for everybody. **Bounds**: it is made of one revision, in
//! memory, and no longer than what can be applied ([`MAX_TEXT`]).

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::answer::{Actor, ChangeError};
use super::configuration::{Configuration, blocking};
use super::document::{Format, MAX_TEXT};
use super::object::{Record, Spec};
use super::records::{SCAN, decode, object_key};
use crate::accounts::Verifier;
use crate::model::secret::Secret;
use crate::model::spec::{Collection, SETTINGS};
use crate::store::{ConfigStore, StoreError};

/// Whether the values of secrets are in an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Secrets {
    /// As a read shows them.
    #[default]
    Reference,
    /// By their value. Who does that is in the audit log.
    Include,
}

/// An export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The document.
    pub text: String,
    /// The revision that it is.
    pub revision: u64,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It would be longer than what can be applied.
    #[error(
        "the document would have more than {MAX_TEXT} bytes, which is more than can be applied; list the collections instead"
    )]
    TooLarge,
    /// The store cannot be read, or the export not be written down.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        ExportError::Change(error.into())
    }
}

impl Configuration {
    /// The whole of it.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub async fn export(&self, format: Format, secrets: Secrets, actor: &Actor) -> Result<Export, ExportError> {
        if secrets == Secrets::Include {
            self.record_action("config", "exportedWithSecrets", actor).await?;
        }
        // nobody writes meanwhile
        let state = self.lock().await;
        let store = self.store.clone();
        let written = blocking(move || {
            let written = write(&*store, format, secrets);
            written.map(|text| Export { text, revision: state.revision })
        });
        written.await?
    }
}

fn write(store: &dyn ConfigStore, format: Format, secrets: Secrets) -> Result<String, ExportError> {
    let mut text = match format {
        Format::Yaml => "apiVersion: v1\n".to_owned(),
        Format::Json => "{\n  \"apiVersion\": \"v1\"".to_owned(),
    };
    for collection in Collection::ALL {
        let defaults = Defaults::of(collection);
        let mut any = false;
        each(store, collection, |name, record| {
            let body = body(collection, name, &record, secrets, &defaults)?;
            match format {
                Format::Yaml => yaml(&mut text, collection, name, &body, !any)?,
                Format::Json => json_member(&mut text, collection, name, &body, !any),
            }
            any = true;
            if text.len() > MAX_TEXT { Err(ExportError::TooLarge) } else { Ok(()) }
        })?;
        if any && format == Format::Json && collection != Collection::Settings {
            text.push_str("\n  }");
        }
    }
    if format == Format::Json {
        text.push_str("\n}\n");
    }
    Ok(text)
}

fn each(
    store: &dyn ConfigStore,
    collection: Collection,
    mut take: impl FnMut(&str, Record) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let prefix = object_key(collection, "");
    let mut after: Option<String> = None;
    loop {
        let rows = store.scan(&prefix, after.as_deref(), SCAN)?;
        let full = rows.len() == SCAN;
        after = rows.last().map(|(key, _)| key.clone());
        for (key, bytes) in rows {
            let record = decode(&key, &bytes)?;
            take(&key[prefix.len()..], record)?;
        }
        if !full {
            return Ok(());
        }
    }
}

/// What stands under the name: the fields of the spec, with the labels among them.
fn body(
    collection: Collection,
    name: &str,
    record: &Record,
    secrets: Secrets,
    defaults: &Defaults,
) -> Result<Value, ExportError> {
    let damaged = |detail: String| StoreError::Damaged(format!("{}: {detail}", object_key(collection, name)));
    let mut value = record.spec.clone();
    if secrets == Secrets::Include && collection.may_hold_secrets() {
        let mut spec = Spec::parse(collection, &value).map_err(|violation| damaged(violation.to_string()))?;
        for (pointer, secret) in spec.secrets_mut() {
            let Secret::Kept(fingerprint) = &*secret else { continue };
            let text = record.secrets.get(fingerprint.as_str());
            let text =
                text.ok_or_else(|| damaged(format!("the value with the fingerprint {fingerprint} is missing")))?;
            let included = match collection {
                Collection::Accounts => {
                    let verifier: Verifier =
                        serde_json::from_str(text.reveal()).map_err(|_| damaged("the password is damaged".into()))?;
                    json!({"hash": verifier.hash()})
                }
                _ => json!({"value": text.reveal()}),
            };
            if let Some(place) = value.pointer_mut(&pointer) {
                *place = included;
            }
        }
    }
    let mut fields = match defaults.without(collection, value) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    if !record.labels.0.is_empty() {
        fields.insert("labels".to_owned(), json!(record.labels));
    }
    Ok(Value::Object(fields))
}

/// The spec that everybody gets who says nothing; of collections where nothing has to be said.
struct Defaults(Option<Value>);

impl Defaults {
    fn of(collection: Collection) -> Self {
        Defaults(Spec::parse(collection, &json!({})).ok().map(|spec| spec.value()))
    }

    fn without(&self, collection: Collection, spec: Value) -> Value {
        let Some(defaults) = &self.0 else { return spec };
        let short = subtract(&spec, defaults).unwrap_or_else(|| json!({}));
        let parse = |value: &Value| Spec::parse(collection, value).ok();
        // what is left out must come back the same
        if parse(&short).is_some_and(|short| Some(short) == parse(&spec)) { short } else { spec }
    }
}

/// The value without what is the same in `from`; nothing when all of it is.
fn subtract(value: &Value, from: &Value) -> Option<Value> {
    match (value, from) {
        (value, from) if value == from => None,
        (Value::Object(fields), Value::Object(from)) => {
            let left = fields.iter().filter_map(|(key, value)| {
                let left = match from.get(key) {
                    Some(from) => subtract(value, from)?,
                    None => value.clone(),
                };
                Some((key.clone(), left))
            });
            Some(Value::Object(left.collect()))
        }
        (value, _) => Some(value.clone()),
    }
}

fn yaml(text: &mut String, collection: Collection, name: &str, body: &Value, first: bool) -> Result<(), ExportError> {
    let failed = |error: serde_saphyr::ser_error::Error| StoreError::Io(format!("YAML could not be written: {error}"));
    let one = match collection {
        Collection::Settings => json!({collection.document(): body}),
        _ => json!({name: body}),
    };
    let one = serde_saphyr::to_string_with_options(&one, serde_saphyr::ser_options! { prefer_block_scalars: false });
    let one = one.map_err(failed)?;
    let indent = match collection {
        Collection::Settings => "",
        _ => {
            if first {
                let _ = writeln!(text, "{}:", collection.document());
            }
            "  "
        }
    };
    for line in one.lines() {
        let _ = writeln!(text, "{}{line}", if line.is_empty() { "" } else { indent });
    }
    Ok(())
}

fn json_member(text: &mut String, collection: Collection, name: &str, body: &Value, first: bool) {
    let key = |text: &str| Value::String(text.to_owned());
    let _ = match collection {
        Collection::Settings => write!(text, ",\n  {}: {body}", key(SETTINGS)),
        _ if first => write!(text, ",\n  {}: {{\n    {}: {body}", key(collection.document()), key(name)),
        _ => write!(text, ",\n    {}: {body}", key(name)),
    };
}
