//! What of a virtual server needs more than one value to judge: TLS, authentication, limits, logs.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Findings, Objects, hosts};
use crate::config::certificates::Certificate;
use crate::config::violation::{ViolationCode, WarningCode};
use crate::model::duration::Duration;
use crate::model::host::HostName;
use crate::model::name::Name;
use crate::model::path::RelativePath;
use crate::model::size::Size;
use crate::model::spec::virtual_server::{BareLineEnds, BindingTls, ClientCertificates, Mechanism};
use crate::model::spec::{Collection, VirtualServerSpec};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Everything that is wrong with the server, apart from what `super` looks at.
pub(super) fn check(objects: &Objects, name: &Name, spec: &VirtualServerSpec, found: &mut Findings) {
    bindings(name, spec, found);
    tls(objects, name, spec, found);
    authentication(objects, name, spec, found);
    limits(name, spec, found);
    pickup(objects, name, spec, found);
    let sources = &spec.outbound.source_addresses;
    hosts::check_sources((Collection::VirtualServers, name), "/spec/outbound/sourceAddresses", sources, found);
    if spec.staging.as_ref().is_some_and(|staging| staging.redirect_to.is_none() && staging.allow.is_empty()) {
        let detail = "redirectTo or allow is needed; with neither, no mail at all could be sent";
        found.wrong((Collection::VirtualServers, name), "/spec/staging", ViolationCode::Required, detail);
    }
}

/// No file may be taken by two, nor a directory of one lie in that of another.
fn pickup(objects: &Objects, name: &Name, spec: &VirtualServerSpec, found: &mut Findings) {
    let path = |name: &Name, spec: &VirtualServerSpec| {
        let own = spec.pickup.path.clone().unwrap_or_else(|| RelativePath::from(name));
        spec.pickup.enabled.then_some(own)
    };
    let Some(own) = path(name, spec) else { return };
    let others = objects.virtual_servers.range::<Name, _>(..name);
    let mut others = others.filter_map(|(other, (_, spec))| path(other, spec).map(|path| (other, path)));
    if let Some((other, theirs)) = others.find(|(_, theirs)| own.overlaps(theirs)) {
        let detail = format!("virtual server {other} takes mail from pickup/{theirs} already");
        found.wrong((Collection::VirtualServers, name), "/spec/pickup/path", ViolationCode::Conflict, detail);
    }
    if own.as_str().split('/').any(|segment| segment.starts_with('.')) {
        let detail = "names that begin with a dot are for the appliance";
        found.wrong((Collection::VirtualServers, name), "/spec/pickup/path", ViolationCode::InvalidValue, detail);
    }
}

fn bindings(name: &Name, spec: &VirtualServerSpec, found: &mut Findings) {
    let of = (Collection::VirtualServers, name);
    let control = &spec.connection_control;
    let restricted = !control.allow.is_empty() && !control.allow.iter().any(|pattern| pattern.is_everybody());
    for binding in &spec.bindings {
        let at = format!("{} port {}", binding.address, binding.port);
        let proxies = binding.proxy_protocol.iter().flat_map(|proxy| &proxy.trusted);
        if proxies.into_iter().any(|net| net.0.prefix_len() == 0) {
            let detail = format!("whoever connects to {at} can say in a PROXY header that it is somebody else");
            found.warn(of, WarningCode::TrustsEverybody, detail);
        }
        if binding.bare_line_ends == BareLineEnds::Normalise && !restricted && !binding.address.0.is_loopback() {
            let detail =
                format!("{at} normalises bare line ends for clients that connectionControl.allow does not restrict");
            found.warn(of, WarningCode::NormalisesForEverybody, detail);
        }
    }
}

fn tls(objects: &Objects, name: &Name, spec: &VirtualServerSpec, found: &mut Findings) {
    let of = (Collection::VirtualServers, name);
    let mut seen = HashSet::new();
    for (index, certificate) in spec.certificates.iter().enumerate() {
        let pointer = format!("/spec/certificates/{index}");
        if !objects.has_certificate(certificate) {
            found.missing(of, pointer, Collection::Certificates, certificate);
        } else if !seen.insert(certificate) {
            found.wrong(of, pointer, ViolationCode::Duplicate, format!("{certificate} is in the list already"));
        }
    }
    for (index, binding) in spec.bindings.iter().enumerate() {
        let pointer = format!("/spec/bindings/{index}/tls");
        match binding.tls {
            BindingTls::None if spec.tls.required => {
                let detail = "tls.required is true, and a client has no way to TLS on this binding";
                found.wrong(of, pointer, ViolationCode::Conflict, detail);
            }
            BindingTls::Starttls | BindingTls::Implicit if spec.certificates.is_empty() => {
                let detail = "TLS needs a certificate, and the list of certificates is empty";
                found.wrong(of, pointer, ViolationCode::Conflict, detail);
            }
            _ => {}
        }
    }
    match (spec.tls.client_certificates, &spec.tls.client_ca) {
        (ClientCertificates::None, Some(_)) => {
            let detail = "clientCa is for checking client certificates, and clientCertificates is none";
            found.wrong(of, "/spec/tls/clientCa", ViolationCode::Conflict, detail);
        }
        (ClientCertificates::Request | ClientCertificates::Require, None) => {
            let detail = "clientCa is needed to check client certificates";
            found.wrong(of, "/spec/tls/clientCa", ViolationCode::Required, detail);
        }
        _ => {}
    }
}

/// Whether the name that the server gives itself is one that it can prove.
pub(super) fn names(
    name: &Name,
    spec: &VirtualServerSpec,
    certificates: &BTreeMap<Name, Arc<Certificate>>,
    host_name: &HostName,
    found: &mut Findings,
) {
    let fqdn = spec.fqdn.as_ref().unwrap_or(host_name).as_str();
    let own = spec.certificates.iter().filter_map(|name| certificates.get(name)?.identity.as_ref());
    let known: Vec<_> = own.map(|identity| identity.facts()).collect();
    if !known.is_empty() && !known.iter().any(|facts| facts.is_for(fqdn, true)) {
        let detail =
            format!("none of its certificates is for {fqdn}, the name that virtual server {name} gives itself");
        found.warn((Collection::VirtualServers, name), WarningCode::NameNotCovered, detail);
    }
}

fn authentication(objects: &Objects, name: &Name, spec: &VirtualServerSpec, found: &mut Findings) {
    let of = (Collection::VirtualServers, name);
    let auth = &spec.authentication;
    let encrypts = spec.bindings.iter().any(|binding| binding.tls != BindingTls::None);
    let mut seen = HashSet::new();
    for (index, mechanism) in auth.mechanisms.iter().enumerate() {
        let pointer = format!("/spec/authentication/mechanisms/{index}");
        // a server without bindings is not used yet: nothing is wrong with it
        let in_clear_only = !encrypts && !spec.bindings.is_empty();
        if !seen.insert(mechanism) {
            found.wrong(of, pointer, ViolationCode::Duplicate, "the mechanism is in the list already");
        } else if in_clear_only && *mechanism == Mechanism::ScramSha256Plus {
            let detail = "the mechanism is bound to TLS, and no binding of this server has TLS";
            found.wrong(of, pointer, ViolationCode::Conflict, detail);
        } else if in_clear_only && mechanism.is_plaintext() && auth.require_tls {
            let detail = "the mechanism shows the password or token, and no binding of this server has TLS; \
                          authentication.requireTls: false says that this is meant";
            found.wrong(of, pointer, ViolationCode::Conflict, detail);
        }
        if mechanism.is_token() && auth.identity_providers.is_empty() {
            let detail = "the mechanism checks tokens, and no identity provider is named that issues them";
            found.wrong(of, "/spec/authentication/identityProviders", ViolationCode::Required, detail);
        }
    }
    if auth.required && auth.mechanisms.is_empty() {
        let detail = "authentication.required is true, and no mechanism is offered";
        found.wrong(of, "/spec/authentication/mechanisms", ViolationCode::Required, detail);
    }
    if spec.relay.authenticated == Some(true) && auth.mechanisms.is_empty() {
        let detail = "authenticated clients shall relay, and authentication.mechanisms offers none";
        found.wrong(of, "/spec/relay/authenticated", ViolationCode::Conflict, detail);
    }
    for (index, provider) in auth.identity_providers.iter().enumerate() {
        if !objects.has_identity_provider(provider) {
            let pointer = format!("/spec/authentication/identityProviders/{index}");
            found.missing(of, pointer, Collection::IdentityProviders, provider);
        } else if objects.is_for_api_only(provider) {
            let pointer = format!("/spec/authentication/identityProviders/{index}");
            let detail = format!("the tokens of {provider} are not for SMTP: its use has no smtp");
            found.wrong(of, pointer, ViolationCode::Conflict, detail);
        }
    }
}

fn limits(name: &Name, spec: &VirtualServerSpec, found: &mut Findings) {
    let of = (Collection::VirtualServers, name);
    found.at_least(of, "/spec/connections/commandTimeout", spec.connections.command_timeout, SECOND);
    found.at_least(of, "/spec/connections/dataTimeout", spec.connections.data_timeout, SECOND);
    for (pointer, delay) in [
        ("/spec/connections/greetingDelay", spec.connections.greeting_delay),
        ("/spec/errors/delay", spec.errors.delay),
    ] {
        if delay > MINUTE {
            found.wrong(of, pointer, ViolationCode::OutOfRange, format!("at most {MINUTE} is allowed"));
        }
    }
    if spec.errors.hard_limit < spec.errors.soft_limit {
        let detail = format!("at least softLimit, {}, is needed", spec.errors.soft_limit);
        found.wrong(of, "/spec/errors/hardLimit", ViolationCode::OutOfRange, detail);
    }
    if spec.messages.max_session_size.is_some_and(|most| most < spec.messages.max_size) {
        let detail = format!("at least maxSize, {}, is needed", spec.messages.max_size);
        found.wrong(of, "/spec/messages/maxSessionSize", ViolationCode::OutOfRange, detail);
    }
    if let Some(every) = spec.protocol_log.rotate.every {
        found.at_least(of, "/spec/protocolLog/rotate/every", every, MINUTE);
    }
    if spec.protocol_log.rotate.size < Size::from_bytes(64 << 10) {
        found.wrong(of, "/spec/protocolLog/rotate/size", ViolationCode::OutOfRange, "at least 64KiB is needed");
    }
}
