//! What came of TLS with the hosts of a domain, in the words of its report (RFC 8460, 4.3).
//!
//! Only of hosts that DNS names for a domain, and only where TLS is wanted. A session counts once, with the policy that it was
//! held to; that there was none because a policy forbade it counts too. What failed for other reasons than TLS (no connection,
//! a banner of 421) is no matter of a report.

use std::net::IpAddr;

use super::hosts::NextHop;
use crate::config::VirtualServer;
use crate::model::failure::Failure;
use crate::model::host::domain_key;
use crate::model::queue_name::QueueName;
use crate::model::spec::connector::RouteSpec;
use crate::model::spec::connector::security::TlsLevel;
use crate::net::mta_sts::{Mode, NotHad};
use crate::net::tls::client::Agreed;
use crate::routing::Connector;
use crate::routing::asked::Tlsa;
use crate::routing::security::{self, Origin, Security};
use crate::smtp::client::{OpenError, Phase, TlsFault, TlsFaultKind};
use crate::tlsrpt::TlsReports;
use crate::tlsrpt::counts::{Failed, Policy, PolicyType, ResultType, Seen};

/// Words in a failure that say that DNSSEC does not vouch for an answer.
const DNSSEC: &str = "DNSSEC";
/// Why a host that the MTA-STS policy does not name fails.
const NOT_NAMED: &str = "the MTA-STS policy does not name the host";

/// A host that may be connected to, for a domain whose report it counts in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counted {
    domain: String,
    host: String,
    address: IpAddr,
    policy: Policy,
    /// What fails whatever the session comes to.
    fault: Option<(ResultType, Option<String>)>,
    /// What would be checked by a policy in testing, but for the certificate.
    doubt: Option<(ResultType, Option<String>)>,
    /// Why nothing is sent there, if nothing is.
    refusal: ResultType,
}

/// Whether the host's certificate is looked at though nothing follows from it: its domain tests a policy.
pub(super) fn is_in_testing(hop: &NextHop) -> bool {
    hop.asked.sts.is_some_and(|sts| sts.mode == Mode::Testing)
}

impl Counted {
    /// `None` for what is not counted.
    pub(super) fn of(
        connector: &Connector,
        server: &VirtualServer,
        queue: &QueueName,
        hop: &NextHop,
        security: &Security,
    ) -> Option<Self> {
        let domain = domain_of(connector, queue).filter(|_| security.tls != TlsLevel::None)?;
        let asked = &hop.asked;
        let (own, _) = security::level(&connector.spec, &server.spec.outbound);
        let honours = &connector.spec.security;
        let looked = own == TlsLevel::Opportunistic && honours.honour_dane && honours.honour_mta_sts;
        let counted = |policy, fault| Counted {
            domain: domain.clone(),
            host: hop.name.clone(),
            address: hop.address.ip(),
            policy,
            fault,
            doubt: None,
            refusal: ResultType::ValidationFailure,
        };
        let tlsa = || Policy::bare(PolicyType::Tlsa);
        let is_refused = security.refused.is_some();
        let wants_dane = security.tls == TlsLevel::Dane || own == TlsLevel::Opportunistic && honours.honour_dane;
        let dane = match &asked.dane {
            Tlsa::Usable(dane) if security.tls == TlsLevel::Dane => {
                let lines = dane.records();
                Some(counted(Policy { lines, ..tlsa() }, None))
            }
            Tlsa::TryLater(_) if is_refused && wants_dane => {
                Some(Counted { refusal: ResultType::DnssecInvalid, ..counted(tlsa(), None) })
            }
            Tlsa::Unusable if is_refused && security.tls == TlsLevel::Dane => {
                Some(Counted { refusal: ResultType::TlsaInvalid, ..counted(tlsa(), None) })
            }
            Tlsa::None if is_refused && security.tls == TlsLevel::Dane => {
                Some(Counted { refusal: ResultType::DaneRequired, ..counted(tlsa(), None) })
            }
            // encrypted all the same, but that is not what its owner meant
            Tlsa::Unusable if wants_dane && security.from != Origin::MtaSts => {
                Some(counted(tlsa(), Some((ResultType::TlsaInvalid, None))))
            }
            _ => None,
        };
        let sts = || {
            let held = asked.sts.filter(|sts| own == TlsLevel::Opportunistic && sts.mode != Mode::None)?;
            let policy = asked.sts_policy.as_ref()?;
            let (lines, hosts) = (policy.lines(), policy.hosts().to_vec());
            let doubt = (!held.names_host).then(|| (ResultType::ValidationFailure, Some(NOT_NAMED.to_owned())));
            Some(Counted { doubt, ..counted(Policy { kind: PolicyType::Sts, lines, hosts }, None) })
        };
        let no_sts = || {
            let fault = asked.sts_fault.as_ref()?;
            let result = match fault {
                NotHad::Fetch(_) => ResultType::StsPolicyFetchError,
                NotHad::Certificate(_) => ResultType::StsWebpkiInvalid,
                NotHad::Invalid(_) => ResultType::StsPolicyInvalid,
            };
            Some(counted(Policy::bare(PolicyType::Sts), Some((result, Some(fault.to_string())))))
        };
        let none = || {
            let kind = if looked { PolicyType::NoPolicyFound } else { PolicyType::Own };
            counted(Policy::bare(kind), None)
        };
        Some(dane.or_else(sts).or_else(no_sts).unwrap_or_else(none))
    }

    /// Nothing was sent, for the sake of the policy.
    pub(super) fn refused(&self, reports: &TlsReports, why: &str) {
        self.note(reports, Some((self.refusal, Some(why.to_owned()))), None);
    }

    /// A connection was made from this address, and this came of it.
    pub(super) fn session(&self, reports: &TlsReports, from: IpAddr, came: Result<Option<&Agreed>, &OpenError>) {
        let failed = match came {
            Ok(None) => Some((ResultType::StarttlsNotSupported, None)),
            Ok(Some(agreed)) => {
                let certificate = || agreed.doubt.as_ref().map(of_fault);
                self.fault.clone().or_else(|| self.doubt.clone()).or_else(certificate)
            }
            Err(OpenError::NoStartTls) => Some((ResultType::StarttlsNotSupported, None)),
            Err(OpenError::Refused { phase: Phase::StartTls, reply }) => {
                Some((ResultType::StarttlsNotSupported, Some(reply.to_string())))
            }
            Err(OpenError::Handshake(fault)) => Some(of_fault(fault)),
            Err(error @ OpenError::Broken { phase: Phase::StartTls, .. }) => {
                Some((ResultType::ValidationFailure, Some(error.to_string())))
            }
            // not about TLS
            Err(OpenError::Refused { .. } | OpenError::Broken { .. } | OpenError::Login { .. }) => return,
        };
        self.note(reports, failed, Some(from));
    }

    fn note(&self, reports: &TlsReports, failed: Option<(ResultType, Option<String>)>, sending: Option<IpAddr>) {
        let failed = failed.map(|(result, reason)| Failed {
            result,
            reason: reason.map(|words| printable(&words)),
            sending,
            host: self.host.clone(),
            receiving: Some(self.address),
        });
        reports.count(Seen { domain: self.domain.clone(), policy: self.policy.clone(), failed });
    }
}

/// There is no host to try, since DNSSEC does not vouch for what DNS says of them. Other failures are not counted.
pub(super) fn no_hosts(reports: &TlsReports, connector: &Connector, queue: &QueueName, failure: &Failure) {
    let Some(domain) = domain_of(connector, queue).filter(|_| failure.diagnostic.contains(DNSSEC)) else { return };
    let failed = Failed {
        result: ResultType::DnssecInvalid,
        reason: Some(printable(&failure.diagnostic)),
        sending: None,
        host: String::new(),
        receiving: None,
    };
    reports.count(Seen { domain, policy: Policy::bare(PolicyType::Tlsa), failed: Some(failed) });
}

/// The domain whose hosts DNS names; `None` for smart hosts and address literals.
fn domain_of(connector: &Connector, queue: &QueueName) -> Option<String> {
    match (&connector.spec.route, queue) {
        (RouteSpec::Dns(_), QueueName::Dns(_, domain)) if domain.name().is_some() => {
            Some(domain_key(domain).to_lowercase())
        }
        _ => None,
    }
}

fn of_fault(fault: &TlsFault) -> (ResultType, Option<String>) {
    let result = match fault.kind {
        TlsFaultKind::HostMismatch => ResultType::CertificateHostMismatch,
        TlsFaultKind::Expired => ResultType::CertificateExpired,
        TlsFaultKind::NotTrusted => ResultType::CertificateNotTrusted,
        TlsFaultKind::Other => ResultType::ValidationFailure,
    };
    (result, Some(fault.words.clone()))
}

/// What a peer says may hold anything.
fn printable(words: &str) -> String {
    words.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::ClientList;
    use crate::net::clock::ManualClock;
    use crate::routing::access::Access;
    use crate::routing::asked::{Asked, Sts};
    use crate::routing::security::Hop;
    use crate::smtp::client::{Cause, RemoteReply};
    use crate::tlsrpt::kept::Files;

    fn server() -> VirtualServer {
        VirtualServer {
            name: "default".parse().unwrap(),
            generation: 1,
            spec: serde_json::from_value(json!({})).unwrap(),
            fqdn: "mx.example".parse().unwrap(),
            relay: ClientList::new(&[], &[]),
            connection_control: ClientList::new(&[], &[]),
            tls: None,
            tls_fault: None,
        }
    }

    /// What is counted of `mx.d.example` for `d.example`.
    fn counted(route: Value, security: Value, asked: Asked) -> Option<Counted> {
        let connector = Connector {
            name: "out".parse().unwrap(),
            generation: 1,
            spec: serde_json::from_value(json!({"addressSpaces": [], "route": route, "security": security})).unwrap(),
            access: Access::default(),
        };
        let (server, queue) = (server(), "dns:out:d.example".parse().unwrap());
        let hop = NextHop { name: "mx.d.example".to_owned(), address: "192.0.2.2:25".parse().unwrap(), asked };
        let domain = "d.example".parse().unwrap();
        let to = Hop { host: &hop.name, port: 25, domain: Some(&domain), asked: &hop.asked };
        let held = security::in_force(&connector.spec, &server.spec.outbound, None, to);
        Counted::of(&connector, &server, &queue, &hop, &held)
    }

    fn testing() -> Asked {
        let text = "version: STSv1\nmode: testing\nmx: mx.d.example\nmax_age: 86400\n";
        let policy = Arc::new(crate::net::mta_sts::Policy::parse(text).unwrap());
        let sts = Some(Sts { mode: Mode::Testing, names_host: true });
        Asked { sts, sts_policy: Some(policy), ..Asked::default() }
    }

    #[test]
    fn whose_policy_it_was() {
        let (dns, later) = (json!({"dns": {}}), Tlsa::TryLater("SERVFAIL".to_owned()));
        let level = |tls: &str| json!({ "tls": tls });
        let with = |dane: &Tlsa| Asked { dane: dane.clone(), ..Asked::default() };
        let fault = Asked { sts_fault: Some(NotHad::Invalid("no")), ..Asked::default() };
        for (security, asked, expected) in [
            (json!({}), Asked::default(), Some((PolicyType::NoPolicyFound, None))),
            (json!({}), testing(), Some((PolicyType::Sts, None))),
            (json!({}), fault, Some((PolicyType::Sts, Some(ResultType::StsPolicyInvalid)))),
            (json!({}), with(&Tlsa::Unusable), Some((PolicyType::Tlsa, Some(ResultType::TlsaInvalid)))),
            (json!({}), with(&later), Some((PolicyType::Tlsa, Some(ResultType::DnssecInvalid)))),
            // what was not looked for is not said to be missing
            (json!({"honourDane": false}), Asked::default(), Some((PolicyType::Own, None))),
            (json!({"honourMtaSts": false}), Asked::default(), Some((PolicyType::Own, None))),
            (level("required"), Asked::default(), Some((PolicyType::Own, None))),
            (level("verified"), with(&Tlsa::Unusable), Some((PolicyType::Own, None))),
            (level("dane"), Asked::default(), Some((PolicyType::Tlsa, Some(ResultType::DaneRequired)))),
            (level("dane"), with(&Tlsa::Unusable), Some((PolicyType::Tlsa, Some(ResultType::TlsaInvalid)))),
            (level("none"), testing(), None),
        ] {
            let is = counted(dns.clone(), security.clone(), asked.clone());
            let fails = |is: &Counted| {
                let refused = (is.refusal != ResultType::ValidationFailure).then_some(is.refusal);
                is.fault.as_ref().map(|(result, _)| *result).or(refused)
            };
            assert_eq!(is.as_ref().map(|is| (is.policy.kind, fails(is))), expected, "{security} {asked:?}");
        }
        assert_eq!(counted(json!({"smartHosts": [{"host": "mx.d.example"}]}), json!({}), Asked::default()), None);
    }

    #[test]
    fn what_is_not_about_tls_is_not_counted() {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::below(directory.path()));
        let reports = TlsReports::new(Arc::new(ManualClock::new(0)), files);
        let it = counted(json!({"dns": {}}), json!({}), Asked::default()).unwrap();
        let reply = |code| RemoteReply { code, status: None, text: "no\u{202e}".to_owned() };
        let fault = |kind| OpenError::Handshake(TlsFault { kind, words: "words".to_owned() });
        let broken = |phase| OpenError::Broken { phase, cause: Cause::Cut };
        let count = |error: &OpenError| {
            it.session(&reports, "192.0.2.1".parse().unwrap(), Err(error));
            let listed = reports.list(None, None, None, 1).pop();
            let details = listed.map(|listed| listed.counted.policies[0].details.clone()).unwrap_or_default();
            details.into_iter().map(|(failed, _)| failed).collect::<Vec<_>>()
        };
        for error in [
            broken(Phase::Banner),
            broken(Phase::Hello),
            OpenError::Refused { phase: Phase::Banner, reply: reply(554) },
            OpenError::Refused { phase: Phase::Hello, reply: reply(421) },
        ] {
            assert!(count(&error).is_empty(), "{error}");
        }
        for (error, result) in [
            (OpenError::NoStartTls, ResultType::StarttlsNotSupported),
            (OpenError::Refused { phase: Phase::StartTls, reply: reply(454) }, ResultType::StarttlsNotSupported),
            (broken(Phase::StartTls), ResultType::ValidationFailure),
            (fault(TlsFaultKind::Other), ResultType::ValidationFailure),
            (fault(TlsFaultKind::HostMismatch), ResultType::CertificateHostMismatch),
            (fault(TlsFaultKind::Expired), ResultType::CertificateExpired),
            (fault(TlsFaultKind::NotTrusted), ResultType::CertificateNotTrusted),
        ] {
            let failed = count(&error).pop().unwrap();
            assert_eq!(failed.result, result, "{error}");
            assert!(failed.reason.is_none_or(|reason| reason.is_ascii()), "what a peer says is cleaned");
        }
    }
}
