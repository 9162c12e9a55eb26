//! Accounts and identity providers: usernames that clash, issuers that cannot be asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AccountObject, Findings, Objects};
use crate::accounts::{Account, Accounts, IdentityProvider, KeysAt, RolesIn, Verifier};
use crate::config::snapshot::Snapshot;
use crate::config::violation::ViolationCode;
use crate::config::{Kept, Vault};
use crate::model::labels::LabelSelector;
use crate::model::name::Name;
use crate::model::secret::Secret;
use crate::model::spec::account::AccountPassword;
use crate::model::spec::identity_provider::ProviderUse;
use crate::model::spec::{AccountSpec, Collection};

/// The table of all accounts; the previous one when nothing changed.
pub(super) fn accounts(objects: &Objects, previous: &Snapshot, vault: &Vault, found: &mut Findings) -> Arc<Accounts> {
    let compiled = objects.accounts.iter().map(|(name, object)| {
        let kept = objects.secrets(Collection::Accounts, name);
        account(name, object, kept, &previous.accounts, vault)
    });
    match Accounts::build(compiled) {
        Ok(accounts) if accounts == *previous.accounts => previous.accounts.clone(),
        Ok(accounts) => Arc::new(accounts),
        Err(taken) => {
            for clash in taken {
                let of = (Collection::Accounts, &clash.second);
                found.wrong(of, "/spec/username", ViolationCode::Duplicate, clash.to_string());
            }
            Arc::default()
        }
    }
}

/// What an account logs in as.
pub(super) fn username<'a>(name: &'a Name, spec: &'a AccountSpec) -> &'a str {
    spec.username.as_ref().map_or(name.as_str(), |username| username.as_str())
}

fn account(
    name: &Name,
    object: &AccountObject,
    kept: Option<&Kept>,
    previous: &Accounts,
    vault: &Vault,
) -> Arc<Account> {
    let AccountObject { generation, labels, spec } = object;
    let username = username(name, spec);
    let known = previous.find(username, &LabelSelector::default());
    let known = known.filter(|known| known.name == *name && known.generation == *generation);
    // what the store keeps cannot have changed without a new generation
    if let (Some(known), Some(AccountPassword::Secret(Secret::Kept(_)))) = (known, &spec.password)
        && known.verifier.is_ok()
    {
        return known.clone();
    }
    let nothing = Kept::default();
    let password = match &spec.password {
        Some(AccountPassword::Secret(secret)) => vault.verifier(username, secret, kept.unwrap_or(&nothing)).map(Some),
        Some(AccountPassword::Hash(hash)) => Ok(Some(Arc::new(Verifier::from_hash(hash.clone())))),
        None => Ok(None),
    };
    if let Err(why) = &password
        && known.is_none_or(|known| known.verifier.as_ref() != Err(why))
    {
        tracing::error!(account = %name, why, "the password cannot be read; the account cannot log in with one");
    }
    let account = Account {
        name: name.clone(),
        generation: *generation,
        username: username.to_owned(),
        labels: labels.clone(),
        verifier: password,
        may_relay: spec.may_relay,
        send_as: spec.send_as.clone(),
        quotas: spec.quotas.clone(),
    };
    match known {
        Some(known) if **known == account => known.clone(),
        _ => Arc::new(account),
    }
}

/// All identity providers. One that did not change is the same `Arc` as before.
pub(super) fn identity_providers(
    objects: &Objects,
    previous: &Snapshot,
    found: &mut Findings,
) -> BTreeMap<Name, Arc<IdentityProvider>> {
    let mut providers = BTreeMap::new();
    for (name, (generation, spec)) in &objects.identity_providers {
        let at = spec.jwks_uri.clone().map(KeysAt::Uri).or_else(|| KeysAt::of_issuer(&spec.issuer));
        let Some(keys) = at else {
            let detail = "the issuer is no https URL, so it does not say where its keys are: jwksUri is needed";
            found.wrong((Collection::IdentityProviders, name), "/spec/jwksUri", ViolationCode::Required, detail);
            continue;
        };
        let of = (Collection::IdentityProviders, name);
        let for_api = spec.uses.contains(&ProviderUse::Api);
        if for_api && spec.role_claim.is_none() {
            let detail = "use has api, and no claim is named that says which role a token has";
            found.wrong(of, "/spec/roleClaim", ViolationCode::Required, detail);
        }
        for (field, given) in [("roleClaim", spec.role_claim.is_some()), ("roles", spec.roles.is_some())] {
            if given && !for_api {
                let detail = "roles are for the REST API, and use has no api";
                found.wrong(of, format!("/spec/{field}"), ViolationCode::Conflict, detail);
            }
        }
        let claim = spec.role_claim.clone().filter(|_| for_api);
        let provider = IdentityProvider {
            for_smtp: spec.uses.contains(&ProviderUse::Smtp),
            roles: claim.map(|claim| RolesIn { claim, values: spec.roles.clone() }),
            name: name.clone(),
            generation: *generation,
            issuer: spec.issuer.clone(),
            audience: spec.audience.clone(),
            keys,
            username_claim: spec.username_claim.clone(),
        };
        let known = previous.identity_providers.get(name).filter(|known| ***known == provider);
        providers.insert(name.clone(), known.cloned().unwrap_or_else(|| Arc::new(provider)));
    }
    providers
}
