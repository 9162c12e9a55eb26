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
