//! The body of a request held against the collection's JSON schema: everything that is wrong with its shape, at once.
//!
//! The schema is the one that the OpenAPI document shows ([`super::openapi`]), derived from the spec types; the formats in it are checked by the parsers of
//! our value types, in whose words a wrong value is reported. What the schema lets pass is parsed by serde, so nothing
//! depends on the two agreeing in every corner.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::{LazyLock, OnceLock};

use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};

use super::object::{Spec, escape};
use super::openapi;
use super::violation::{Violation, ViolationCode};
use crate::model::labels::{self, Labels};
use crate::model::spec::Collection;

/// Most violations that are told of one body.
const MOST: usize = 200;
/// Fields of an object that only the appliance writes.
const READ_ONLY: [&str; 4] = ["name", "owner", "generation", "status"];

/// Parses `{labels?, spec}`.
///
/// # Errors
/// All violations, with pointers from the root of the body.
pub fn check(collection: Collection, body: &Value) -> Result<(Labels, Spec), Vec<Violation>> {
    let mut violations: Vec<Violation> =
        validator(collection).iter_errors(body).flat_map(|error| explain(&error, body)).take(MOST).collect();
    violations.extend(wrong_labels(body.get("labels")));
    if violations.is_empty() {
        match Spec::parse(collection, body.get("spec").unwrap_or(&Value::Null)) {
            Ok(spec) => {
                let labels = body.get("labels").map(Labels::deserialize_from).unwrap_or_default();
                return Ok((labels, spec));
            }
            Err(violation) => violations.push(violation),
        }
    }
    violations.sort();
    violations.dedup();
    Err(violations)
}

impl Labels {
    /// From a value that the checks have let pass.
    fn deserialize_from(value: &Value) -> Labels {
        let pairs = value.as_object().into_iter().flatten();
        Labels(pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
    }
}

fn wrong_labels(labels: Option<&Value>) -> Vec<Violation> {
    let wrong = |pointer: String, detail: &str| Violation::new(pointer, ViolationCode::InvalidLabel, detail);
    let mut violations = Vec::new();
    let Some(labels) = labels.and_then(Value::as_object) else { return violations };
    for (key, value) in labels {
        if !labels::is_key(key) {
            let detail = "a label's key has letters, digits, '-', '_', '.' and '/', begins and ends with a letter or digit, \
                          and has at most 63 characters";
            violations.push(wrong(format!("/labels/{}", escape(key)), detail));
        }
        if value.as_str().is_some_and(|value| !labels::is_value(value)) {
            let detail = "a label's value is empty or has letters, digits, '-', '_', '.' and '/', begins and ends with a \
                          letter or digit, and has at most 63 characters";
            violations.push(wrong(format!("/labels/{}", escape(key)), detail));
        }
    }
    violations
}

fn validator(collection: Collection) -> &'static jsonschema::Validator {
    // each when it is first asked for: together they take a tenth of a second, and memory
    static VALIDATORS: LazyLock<BTreeMap<Collection, OnceLock<jsonschema::Validator>>> =
        LazyLock::new(|| Collection::ALL.into_iter().map(|collection| (collection, OnceLock::new())).collect());
    let validator = VALIDATORS.get(&collection).expect("every collection has a place");
    validator.get_or_init(|| build(collection))
}

fn build(collection: Collection) -> jsonschema::Validator {
    let mut options = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        .should_ignore_unknown_formats(true);
    for (format, parse) in FORMATS {
        options = options.with_format(*format, move |text: &str| parse(text).is_ok());
    }
    options.build(&schema(collection)).expect("the schemas of the specs are valid: a test builds them all")
}

/// The JSON schema of a request's body, complete in itself.
pub fn schema(collection: Collection) -> Value {
    json!({
        "type": "object",
        "properties": {
            "labels": {
                "type": "object", "additionalProperties": {"type": "string"}, "maxProperties": labels::MAX_LABELS
            },
            "spec": {"$ref": format!("#/components/schemas/{}", openapi::spec_name(collection))},
        },
        "required": ["spec"],
        "additionalProperties": false,
        "components": {"schemas": openapi::schemas(collection)},
    })
}

/// Takes `default: null` out of schemas: derived for optional fields, it would contradict their type. For OpenAPI.
pub fn without_null_defaults(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::Ref(reference) => reference.default = reference.default.take().filter(|value| !value.is_null()),
        RefOr::T(Schema::Object(object)) => {
            object.default = object.default.take().filter(|value| !value.is_null());
            object.properties.values_mut().for_each(without_null_defaults);
        }
        RefOr::T(Schema::Array(array)) => array.default = array.default.take().filter(|value| !value.is_null()),
        RefOr::T(_) => {}
    }
}

type Parse = fn(&str) -> Result<(), String>;

/// Our formats, and the parser that says what is wrong.
const FORMATS: &[(&str, Parse)] = &[
    ("bridgehead-address-pattern", parse::<crate::model::pattern::AddressPattern>),
    ("bridgehead-address-template", parse::<crate::model::template::Template>),
    ("bridgehead-client-id", parse::<crate::model::spec::connector::oauth2::ClientId>),
    ("bridgehead-client-pattern", parse::<crate::model::pattern::ClientPattern>),
    ("bridgehead-dns-list-code", parse::<crate::model::dns_list::DnsListCode>),
    ("bridgehead-dns-list-reply", parse::<crate::model::dns_list::DnsListReply>),
    ("bridgehead-domain", parse::<crate::smtp::address::Domain>),
    ("bridgehead-duration", parse::<crate::model::duration::Duration>),
    ("bridgehead-fingerprint", parse::<crate::model::secret::Fingerprint>),
    ("bridgehead-host", parse::<crate::model::host::Host>),
    ("bridgehead-host-and-port", parse::<crate::model::host::HostAndPort>),
    ("bridgehead-host-name", parse::<crate::model::host::HostName>),
    ("bridgehead-http-header", parse::<crate::model::http_header::HttpHeaderName>),
    ("bridgehead-http-url", parse::<crate::model::http_url::HttpUrl>),
    ("bridgehead-ip-address", parse::<crate::model::host::IpAddress>),
    ("bridgehead-key-digest", parse::<crate::model::key_digest::KeyDigest>),
    ("bridgehead-label-selector", parse::<crate::model::labels::LabelSelector>),
    ("bridgehead-mailbox", parse::<crate::smtp::address::Mailbox>),
    ("bridgehead-mailbox-pattern", parse::<crate::model::mailbox_pattern::MailboxPattern>),
    ("bridgehead-name", parse::<crate::model::name::Name>),
    ("bridgehead-name-server", parse::<crate::model::host::NameServer>),
    ("bridgehead-recipient-attribute", parse::<crate::model::spec::recipient_policy::Asked>),
    ("bridgehead-network", parse::<crate::model::pattern::Network>),
    ("bridgehead-password-hash", parse::<crate::model::password_hash::PasswordHash>),
    ("bridgehead-rate", parse::<crate::model::rate::Rate>),
    ("bridgehead-rates", parse::<crate::model::rates::Rates>),
    ("bridgehead-recipient-pattern", parse::<crate::model::pattern::RecipientPattern>),
    ("bridgehead-recipient-reference", parse::<crate::model::recipient_ref::RecipientRef>),
    ("bridgehead-relative-path", parse::<crate::model::path::RelativePath>),
    ("bridgehead-scope", parse::<crate::model::spec::connector::oauth2::Scope>),
    ("bridgehead-secret-file", parse::<crate::model::secret::SecretFile>),
    ("bridgehead-secret-variable", parse::<crate::model::secret::SecretVariable>),
    ("bridgehead-ascii-mailbox", parse::<crate::model::spec::rewrite_sender::AsciiMailbox>),
    ("bridgehead-sender-pattern", parse::<crate::model::spec::account::SenderPattern>),
    ("bridgehead-sender-reference", parse::<crate::model::recipient_ref::SenderPattern>),
    ("bridgehead-service-url", parse::<crate::model::web::ServiceUrl>),
    ("bridgehead-size", parse::<crate::model::size::Size>),
    ("bridgehead-socket-path", parse::<crate::model::path::SocketPath>),
    ("bridgehead-time-of-day", parse::<crate::model::schedule::TimeOfDay>),
    ("bridgehead-time-zone", parse::<crate::model::schedule::ZoneName>),
    ("bridgehead-username", parse::<crate::model::username::Username>),
];

fn parse<T: FromStr>(text: &str) -> Result<(), String>
where
    T::Err: Display,
{
    text.parse::<T>().map(|_| ()).map_err(|error| error.to_string())
}

/// One error of the schema in our words.
fn explain(error: &jsonschema::ValidationError<'_>, body: &Value) -> Vec<Violation> {
    let pointer = error.instance_path().as_str().to_owned();
    let one = |code, detail: String| vec![Violation::new(pointer.clone(), code, detail)];
    let range = |detail: String| one(ViolationCode::OutOfRange, detail);
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
            .iter()
            .map(|field| {
                let at = format!("{pointer}/{}", escape(field));
                if pointer.is_empty() && READ_ONLY.contains(&field.as_str()) {
                    Violation::new(
                        at,
                        ViolationCode::ReadOnlyField,
                        format!("{field} is written by the appliance only"),
                    )
                } else {
                    Violation::new(at, ViolationCode::UnknownField, format!("there is no field {field:?} here"))
                }
            })
            .collect(),
        // an object that has no fields at all
        ValidationErrorKind::FalseSchema => {
            let fields =
                body.pointer(&pointer).and_then(Value::as_object).into_iter().flatten().map(|(field, _)| field);
            let unknown = |field: &String| {
                let at = format!("{pointer}/{}", escape(field));
                Violation::new(at, ViolationCode::UnknownField, format!("there is no field {field:?} here"))
            };
            fields.map(unknown).collect()
        }
        ValidationErrorKind::Required { property } => {
            let field = property.as_str().unwrap_or_default();
            let at = format!("{pointer}/{}", escape(field));
            vec![Violation::new(at, ViolationCode::Required, format!("{field} is needed"))]
        }
        ValidationErrorKind::Type { kind } => one(ViolationCode::WrongType, format!("{} is needed", types(kind))),
        ValidationErrorKind::Format { format } => {
            let text = error.instance().as_str().unwrap_or_default();
            let parser = FORMATS.iter().find(|(name, _)| name == format);
            let detail = parser.and_then(|(_, parse)| parse(text).err());
            one(ViolationCode::InvalidValue, detail.unwrap_or_else(|| format!("the value is no {format}")))
        }
        ValidationErrorKind::Enum { options } => {
            let words: Vec<String> = options.as_array().into_iter().flatten().map(Value::to_string).collect();
            one(ViolationCode::InvalidValue, format!("one of {} is needed", words.join(", ")))
        }
        ValidationErrorKind::Minimum { limit } => range(format!("at least {limit} is needed")),
        ValidationErrorKind::Maximum { limit } => range(format!("at most {limit} is allowed")),
        ValidationErrorKind::MinLength { limit } => range(format!("at least {limit} characters are needed")),
        ValidationErrorKind::MaxLength { limit } => range(format!("at most {limit} characters are allowed")),
        ValidationErrorKind::MinItems { limit } => range(format!("at least {limit} entries are needed")),
        ValidationErrorKind::MaxItems { limit } => range(format!("at most {limit} entries are allowed")),
        ValidationErrorKind::MinProperties { limit } => range(format!("at least {limit} of the fields is needed")),
        ValidationErrorKind::MaxProperties { limit } => range(format!("at most {limit} of the fields is allowed")),
        ValidationErrorKind::OneOfNotValid { context } => explain_kinds(context, body, &pointer),
        ValidationErrorKind::PropertyNames { error } => {
            let key = error.instance().as_str().unwrap_or_default();
            let detail = format!("{key:?} is no key: a key has 1 to 63 letters, digits, '-', '_' and '.'");
            vec![Violation::new(format!("{pointer}/{}", escape(key)), ViolationCode::InvalidValue, detail)]
        }
        other => one(ViolationCode::InvalidValue, format!("the value is not allowed here ({})", other.keyword())),
    }
}

/// The fields that say which of several kinds an object is.
const TAGS: [&str; 2] = ["type", "kind"];

/// What is wrong with an object that is one of several kinds, told apart by one of [`TAGS`]: what its own kind says, or that
/// there is no such kind.
fn explain_kinds(kinds: &[Vec<jsonschema::ValidationError<'_>>], body: &Value, pointer: &str) -> Vec<Violation> {
    let Some(object) = body.pointer(pointer).and_then(Value::as_object) else {
        return vec![Violation::new(pointer, ViolationCode::WrongType, "an object is needed")];
    };
    let says = |error: &jsonschema::ValidationError<'_>| match error.kind() {
        ValidationErrorKind::Enum { .. } => {
            let at = error.instance_path().as_str();
            TAGS.into_iter().find(|tag| at.strip_prefix(pointer) == Some(&format!("/{tag}")))
        }
        ValidationErrorKind::Required { property } => {
            let here = error.instance_path().as_str() == pointer;
            TAGS.into_iter().find(|tag| here && property == tag)
        }
        _ => None,
    };
    let is_own = |errors: &&Vec<jsonschema::ValidationError<'_>>| errors.iter().all(|error| says(error).is_none());
    if let Some(own) = kinds.iter().find(is_own) {
        return own.iter().flat_map(|error| explain(error, body)).collect();
    }
    let tag = kinds.iter().flatten().find_map(says).unwrap_or(TAGS[0]);
    let at = format!("{pointer}/{tag}");
    if !object.contains_key(tag) {
        return vec![Violation::new(at, ViolationCode::Required, format!("{tag} is needed"))];
    }
    let options = kinds.iter().flatten().filter_map(|error| match error.kind() {
        ValidationErrorKind::Enum { options } if says(error).is_some() => options.as_array(),
        _ => None,
    });
    let words: Vec<String> = options.flatten().map(Value::to_string).collect();
    vec![Violation::new(at, ViolationCode::InvalidValue, format!("one of {} is needed", words.join(", ")))]
}

fn types(kind: &TypeKind) -> String {
    let word = |name: String| match name.as_str() {
        "string" => "a text".to_owned(),
        "integer" => "a whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "object" => "an object".to_owned(),
        "array" => "a list".to_owned(),
        _ => format!("a {name}"),
    };
    match kind {
        TypeKind::Single(one) => word(one.to_string()),
        TypeKind::Multiple(many) => many.iter().map(|one| word(one.to_string())).collect::<Vec<_>>().join(" or "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(collection: Collection, body: Value) -> Vec<(String, ViolationCode)> {
        let violations = check(collection, &body).unwrap_err();
        violations.into_iter().map(|violation| (violation.pointer, violation.code)).collect()
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        use ViolationCode::*;
        let body = json!({
            "name": "x",
            "labels": {"a b": "c", "n": 1},
            "spec": {
                "bindings": [{"address": "localhost", "port": 70000}, {"port": "25"}],
                "messages": {"maxSize": "10 MiB", "maxRecipients": 0},
                "delivery": {"retryIntervals": [], "expireAfter": "2x"},
                "relay": {"allow": ["10.0.0.1/8"]},
                "extensions": {"dsn": "yes"},
                "tls": {"minimumVersion": "1.1"},
                "authentication": {"mechanisms": ["cramMd5"], "accounts": "a b"},
                "connections": {"ratePerClient": "10"},
                "certificate": "a",
            }
        });
        let found = wrong(Collection::VirtualServers, body);
        let expected = [
            ("/name", ReadOnlyField),
            ("/labels/a b", InvalidLabel),
            ("/labels/n", WrongType),
            ("/spec/bindings/0/address", InvalidValue),
            ("/spec/bindings/0/port", OutOfRange),
            ("/spec/bindings/1/address", Required),
            ("/spec/bindings/1/port", WrongType),
            ("/spec/messages/maxSize", InvalidValue),
            ("/spec/messages/maxRecipients", OutOfRange),
            ("/spec/delivery/retryIntervals", OutOfRange),
            ("/spec/delivery/expireAfter", InvalidValue),
            ("/spec/relay/allow/0", InvalidValue),
            ("/spec/extensions/dsn", WrongType),
            ("/spec/tls/minimumVersion", InvalidValue),
            ("/spec/authentication/mechanisms/0", InvalidValue),
            ("/spec/authentication/accounts", InvalidValue),
            ("/spec/connections/ratePerClient", InvalidValue),
            ("/spec/certificate", UnknownField),
        ];
        for (pointer, code) in expected {
            assert!(found.contains(&(pointer.to_owned(), code)), "{pointer} {code:?} in {found:?}");
        }
        assert_eq!(found.len(), expected.len(), "{found:?}");
    }

    #[test]
    fn shapes_of_the_others() {
        use ViolationCode::*;
        let only = |pointer: &str, code| vec![(pointer.to_owned(), code)];
        let connector = |route: Value| json!({"spec": {"addressSpaces": [{"pattern": "*"}], "route": route}});
        assert_eq!(wrong(Collection::Connectors, connector(json!({}))), only("/spec/route", OutOfRange));
        assert_eq!(
            wrong(Collection::Connectors, connector(json!({"dns": {}, "smartHosts": [{"host": "a.example"}]}))),
            only("/spec/route", OutOfRange)
        );
        assert_eq!(
            wrong(Collection::Connectors, connector(json!({"smartHosts": []}))),
            only("/spec/route/smartHosts", OutOfRange)
        );
        assert_eq!(
            wrong(Collection::Connectors, connector(json!({"dns": {"x": 1}}))),
            only("/spec/route/dns/x", UnknownField)
        );
        assert_eq!(wrong(Collection::Recipients, json!({"spec": {"alias": null}})), only("/spec/alias", WrongType));
        assert_eq!(wrong(Collection::Recipients, json!({"spec": {"type": "robot"}})), only("/spec/type", InvalidValue));
        assert_eq!(
            wrong(Collection::Recipients, json!({"spec": {"attributes": {"a b": "x"}}})),
            only("/spec/attributes/a b", InvalidValue)
        );
        assert_eq!(
            wrong(Collection::Recipients, json!({"spec": {"attributes": {"a": 7}}})),
            only("/spec/attributes/a", WrongType)
        );
        assert_eq!(wrong(Collection::Recipients, json!({})), only("/spec", Required));
        assert_eq!(wrong(Collection::Recipients, json!([])), only("", WrongType));
        let filter = |filter: Value| json!({"spec": {"addresses": [{"template": "@a.example"}], "filter": filter}});
        assert_eq!(wrong(Collection::RecipientPolicies, filter(json!({}))), only("/spec/filter", InvalidValue));
        assert_eq!(
            wrong(Collection::RecipientPolicies, filter(json!({"all": [{"attribute": "shoe", "operator": "exists"}]}))),
            only("/spec/filter/all/0/attribute", InvalidValue)
        );
        let filter = |spec: Value| wrong(Collection::Filters, json!({"spec": spec}));
        assert_eq!(filter(json!({})), only("/spec/kind", Required));
        assert_eq!(filter(json!([])), only("/spec", WrongType));
        assert_eq!(filter(json!({"kind": "colour"})), only("/spec/kind", InvalidValue));
        assert_eq!(filter(json!({"kind": 7})), only("/spec/kind", InvalidValue));
        assert_eq!(filter(json!({"kind": "sender", "dnsbl": []})), only("/spec/dnsbl", UnknownField));
        assert_eq!(
            filter(json!({"kind": "sender", "deny": ["a@b.example", "@"], "action": "bounce"})),
            [("/spec/action".to_owned(), InvalidValue), ("/spec/deny/1".to_owned(), InvalidValue)]
        );
        let list = |list: Value| filter(json!({"kind": "connection", "dnsbl": [list]}));
        assert_eq!(list(json!({"codes": []})), only("/spec/dnsbl/0/zone", Required));
        assert_eq!(
            list(json!({"zone": "bl.example", "codes": ["10.0.0.1"]})),
            only("/spec/dnsbl/0/codes/0", InvalidValue)
        );
        assert_eq!(list(json!({"zone": "bl.example", "reply": "%9"})), only("/spec/dnsbl/0/reply", InvalidValue));
        assert_eq!(list(json!({"zone": "bl.example", "ttl": 1})), only("/spec/dnsbl/0/ttl", UnknownField));
        assert_eq!(
            filter(json!({"kind": "connection", "exceptions": vec!["a@b.example"; 1_001]})),
            only("/spec/exceptions", OutOfRange)
        );
        assert_eq!(
            wrong(Collection::MailboxStores, json!({"spec": {"type": "drop", "path": "../x"}})),
            only("/spec/path", InvalidValue)
        );
        let store = |spec: Value| wrong(Collection::MailboxStores, json!({"spec": spec}));
        assert_eq!(store(json!({})), only("/spec/type", Required));
        assert_eq!(store(json!([])), only("/spec", WrongType));
        assert_eq!(store(json!({"type": "mbox"})), only("/spec/type", InvalidValue));
        assert_eq!(store(json!({"type": "lmtp", "socket": "/s", "path": "x"})), only("/spec/path", UnknownField));
        assert_eq!(store(json!({"type": "lmtp", "socket": "/s", "host": "a.example"})), only("/spec", InvalidValue));
        assert_eq!(
            store(json!({"type": "webhook", "url": "http://169.254.169.254/", "maxConnections": 0})),
            [
                ("/spec/maxConnections".to_owned(), OutOfRange),
                ("/spec/secret".to_owned(), Required),
                ("/spec/url".to_owned(), InvalidValue)
            ]
        );
        assert_eq!(
            store(json!({"type": "maildir", "quota": {"size": "much", "files": 1}})),
            [("/spec/quota/files".to_owned(), UnknownField), ("/spec/quota/size".to_owned(), InvalidValue)]
        );
        assert_eq!(
            wrong(Collection::Settings, json!({"spec": {"retention": {"nothing": "1d"}}})),
            only("/spec/retention/nothing", UnknownField)
        );
    }

    #[test]
    fn defaults_pass_their_own_schema_and_come_back() {
        for (collection, spec) in [
            (Collection::VirtualServers, json!({})),
            (Collection::Recipients, json!({})),
            (Collection::Settings, json!({})),
            (Collection::MailboxStores, json!({"type": "maildir"})),
            (Collection::MailboxStores, json!({"type": "drop"})),
            (Collection::MailboxStores, json!({"type": "lmtp", "host": "box.example"})),
            (
                Collection::MailboxStores,
                json!({"type": "webhook", "url": "https://app.example/", "secret": {"env": "BRIDGEHEAD_SECRET_X"}}),
            ),
            (Collection::Filters, json!({"kind": "recipient"})),
            (Collection::RemoteDomains, json!({"pattern": "*.partner.example", "tls": "dane"})),
            (
                Collection::EventSinks,
                json!({"url": "https://app.example/", "secret": {"env": "BRIDGEHEAD_SECRET_X"}, "events": ["failed"]}),
            ),
            (Collection::Filters, json!({"kind": "connection", "dnsbl": [{"zone": "bl.example"}]})),
            (
                Collection::Connectors,
                json!({"addressSpaces": [{"pattern": "*"}], "route": {"smartHosts": [{"host": "a.example"}]}}),
            ),
            (
                Collection::RecipientPolicies,
                json!({"addresses": [{"template": "@a.example"}], "filter": {"not": {"attribute": "alias", "operator": "in", "values": ["x"]}}}),
            ),
        ] {
            let (_, spec) = check(collection, &json!({"spec": spec})).unwrap();
            let (_, again) = check(collection, &json!({"spec": spec.value()})).unwrap();
            assert_eq!(spec, again, "{collection:?}");
        }
    }

    #[test]
    fn every_reference_of_a_schema_is_in_it() {
        for collection in Collection::ALL {
            let text = schema(collection).to_string();
            for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(text.contains(&format!("\"{name}\":{{")), "{name} in {collection:?}");
                assert!(!text.contains("\"default\":null"));
            }
        }
    }

    #[test]
    fn the_examples_that_openapi_shows_are_accepted() {
        for collection in Collection::ALL {
            let schema = schema(collection);
            let name = schema["properties"]["spec"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            let spec = &schema["components"]["schemas"][name];
            let example = if spec["examples"].is_array() { &spec["examples"][0] } else { &spec["example"] };
            assert!(example.is_object(), "{collection:?} has no example");
            check(collection, &json!({"spec": example})).unwrap();
            for (name, schema) in schema["components"]["schemas"].as_object().unwrap() {
                let format = schema["format"].as_str().unwrap_or_default();
                let Some((_, parse)) = FORMATS.iter().find(|(known, _)| *known == format) else { continue };
                for example in schema["examples"].as_array().unwrap().iter().filter_map(Value::as_str) {
                    parse(example).unwrap_or_else(|error| panic!("{name}: {error}"));
                }
            }
        }
    }
}
