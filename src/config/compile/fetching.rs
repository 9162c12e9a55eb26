//! Mail that is fetched: what is wrong with `remoteTriggered` and `requestDequeue` of a connector.

use super::{Findings, Objects, access, hosts, routes};
use crate::config::violation::{Violation, ViolationCode};
use crate::model::duration::Duration;
use crate::model::name::Name;
use crate::model::spec::connector::fetching::{DequeueMethod, RequestDequeue};
use crate::model::spec::connector::security::LoginMechanism;
use crate::model::spec::{Collection, ConnectorSpec};

/// Everything about fetching that is wrong with the connector.
pub(super) fn check(objects: &Objects, name: &Name, spec: &ConnectorSpec, found: &mut Findings) {
    for (index, account) in spec.remote_triggered.iter().flat_map(|remote| &remote.accounts).enumerate() {
        if !objects.accounts.contains_key(account) {
            let pointer = format!("/spec/remoteTriggered/accounts/{index}");
            found.missing((Collection::Connectors, name), pointer, Collection::Accounts, account);
        }
    }
    if let Some(request) = &spec.request_dequeue {
        check_request(objects, name, request, found);
    }
}

fn check_request(objects: &Objects, name: &Name, request: &RequestDequeue, found: &mut Findings) {
    let of = (Collection::Connectors, name);
    if let Some(server) = request.virtual_server.as_ref().filter(|name| !objects.virtual_servers.contains_key(*name)) {
        found.missing(of, "/spec/requestDequeue/virtualServer", Collection::VirtualServers, server);
    }
    if let Some(fault) = hosts::fault(objects, &request.host, request.port) {
        found.wrong(of, "/spec/requestDequeue/host", ViolationCode::Conflict, fault);
    }
    if request.every.is_none() && request.schedule.is_none() && !request.on_send {
        let detail = "every, schedule or onSend is needed; with none of them, nothing would ever be asked for";
        found.wrong(of, "/spec/requestDequeue/every", ViolationCode::Required, detail);
    }
    if let Some(every) = request.every {
        found.at_least(of, "/spec/requestDequeue/every", every, Duration::from_secs(10));
    }
    if let Some(schedule) = &request.schedule {
        routes::check_schedule(name, "/spec/requestDequeue/schedule", schedule, found);
    }
    if request.method == DequeueMethod::Etrn && request.domains.is_empty() {
        let detail = "ETRN asks for domains, and the list is empty";
        found.wrong(of, "/spec/requestDequeue/domains", ViolationCode::Required, detail);
    }
    if request.method == DequeueMethod::Atrn && request.authentication.mechanism == LoginMechanism::None {
        let detail = "ATRN is for clients that have logged in";
        found.wrong(of, "/spec/requestDequeue/authentication/mechanism", ViolationCode::Required, detail);
    }
    // how it gets there is judged as for any connector
    let mut own = Findings::default();
    access::check(objects, name, &request.as_connector(), &mut own);
    found.violations.extend(own.violations.into_iter().map(Violation::in_request_dequeue));
    found.warnings.extend(own.warnings);
}
