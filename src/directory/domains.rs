//! Which domains are local, as it follows from the recipient policies.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::model::host::domain_key;
use crate::model::name::Name;
use crate::model::spec::{DEFAULT, RecipientPolicySpec};
use crate::smtp::address::{Domain, Mailbox};

/// How far we are responsible for a local domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Authority {
    /// For all of it: unknown recipients do not exist.
    Authoritative,
    /// Another mail system has recipients in it too.
    Shared,
}

/// A local domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalDomain {
    /// As it was written.
    pub domain: Domain,
    /// How far we are responsible for it.
    pub authority: Authority,
    /// The policies that make it local, in order of their names.
    pub policies: Vec<Name>,
}

/// The local domains, the default domain, the default mailbox store and the postmaster: all that is needed to say who
/// somebody is, besides the recipients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Domains {
    local: BTreeMap<String, LocalDomain>,
    default_domain: Option<Domain>,
    default_store: Option<Name>,
    postmaster: Option<Mailbox>,
    abuse: Option<Mailbox>,
    plus_addressing: bool,
}

/// A domain is authoritative in one policy and shared in another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{domain} is authoritative in recipient policy {authoritative} and shared in {shared}")]
pub struct DomainsError {
    /// The domain.
    pub domain: Domain,
    /// A policy where it is authoritative.
    pub authoritative: Name,
    /// A policy where it is shared.
    pub shared: Name,
}

impl Domains {
    /// The table of these policies. The default domain is the domain of the primary address of the policy `default`.
    ///
    /// # Errors
    /// Every contradiction between the policies.
    pub fn build<'a>(
        policies: impl IntoIterator<Item = (&'a Name, &'a RecipientPolicySpec)>,
        default_store: Option<Name>,
        postmaster: Option<Mailbox>,
    ) -> Result<Self, Vec<DomainsError>> {
        let mut domains = Domains { default_store, postmaster, ..Domains::default() };
        let mut errors = Vec::new();
        for (name, policy) in policies {
            for address in &policy.addresses {
                let domain = address.template.domain();
                let authority = if address.authoritative { Authority::Authoritative } else { Authority::Shared };
                if name.as_str() == DEFAULT && address.primary && domains.default_domain.is_none() {
                    domains.default_domain = Some(domain.clone());
                }
                match domains.local.entry(domain_key(domain).into_owned()) {
                    Entry::Vacant(entry) => {
                        entry.insert(LocalDomain { domain: domain.clone(), authority, policies: vec![name.clone()] });
                    }
                    Entry::Occupied(mut entry) => {
                        let known = entry.get_mut();
                        if known.authority != authority {
                            let (authoritative, shared) = match authority {
                                Authority::Authoritative => (name.clone(), known.policies[0].clone()),
                                Authority::Shared => (known.policies[0].clone(), name.clone()),
                            };
                            errors.push(DomainsError { domain: domain.clone(), authoritative, shared });
                        }
                        if known.policies.last() != Some(name) {
                            known.policies.push(name.clone());
                        }
                    }
                }
            }
        }
        if errors.is_empty() { Ok(domains) } else { Err(errors) }
    }

    /// The same with who gets mail for `abuse`, and with `user+tag` as another spelling of `user` or not.
    #[must_use]
    pub fn with(self, abuse: Option<Mailbox>, plus_addressing: bool) -> Self {
        Domains { abuse, plus_addressing, ..self }
    }

    /// The local domain, if it is one. One look-up.
    pub fn find(&self, domain: &Domain) -> Option<&LocalDomain> {
        domain.name().and_then(|_| self.local.get(&*domain_key(domain)))
    }

    /// All local domains, in order.
    pub fn iter(&self) -> impl Iterator<Item = &LocalDomain> {
        self.local.values()
    }

    /// The domain that completes unqualified addresses, of `postmaster` and of the sender of DSNs. `None` only before the
    /// first start has made a policy.
    pub fn default_domain(&self) -> Option<&Domain> {
        self.default_domain.as_ref()
    }

    /// The store of recipients that name none. `None` only when there is no store.
    pub fn default_store(&self) -> Option<&Name> {
        self.default_store.as_ref()
    }

    /// Whom the settings name as postmaster.
    pub fn postmaster(&self) -> Option<&Mailbox> {
        self.postmaster.as_ref()
    }

    /// Whom the settings name for `abuse`.
    pub fn abuse(&self) -> Option<&Mailbox> {
        self.abuse.as_ref()
    }

    /// Whether `user+tag` is for `user`.
    pub fn has_plus_addressing(&self) -> bool {
        self.plus_addressing
    }
}
