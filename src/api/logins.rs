//! The condition `Authenticated` of connectors that log in with a token.

use super::server::State;
use super::shapes::{Condition, ConditionStatus, ConditionType};
use crate::config::Object;
use crate::model::time::Timestamp;
use crate::outbound::TokenStatus;
use crate::routing::Connector;
use crate::routing::access::Login;

/// Tells how connectors stand with the tokens that they log in with. Closures do.
pub trait Logins: Send + Sync {
    /// Of one; `None` while no session has needed a token, with the settings that it has. Never waits.
    fn status(&self, connector: &Connector) -> Option<TokenStatus>;
}

impl<F: Fn(&Connector) -> Option<TokenStatus> + Send + Sync> Logins for F {
    fn status(&self, connector: &Connector) -> Option<TokenStatus> {
        self(connector)
    }
}

/// Whether the connector can log in; `None` for one that does not, or not with a token.
pub(super) fn authenticated(object: &Object, state: &State) -> Option<Condition> {
    let current = state.handles.configuration.live().current();
    let connector = current.routes.connector(&object.name)?;
    let Some(Login::Token(_)) = &connector.access.login else { return None };
    let known = state.handles.logins.status(connector).unwrap_or_default();
    let (status, reason, message) = judge(&known, state.handles.configuration.now());
    Some(Condition {
        kind: ConditionType::Authenticated,
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: None,
        observed_generation: Some(object.generation),
    })
}

fn judge(known: &TokenStatus, now: Timestamp) -> (ConditionStatus, &'static str, String) {
    let TokenStatus { expires, fault, login } = known;
    let good = expires.is_some_and(|expires| now < expires);
    let (status, reason) = match (fault, login) {
        (Some((fault, _)), _) if !good => (ConditionStatus::False, fault.reason()),
        (_, Some(Err(_))) => (ConditionStatus::False, "loginRefused"),
        (_, Some(Ok(()))) if good => (ConditionStatus::True, "loggedIn"),
        (_, None) if good => (ConditionStatus::True, "tokenIssued"),
        (None, _) if expires.is_some() => (ConditionStatus::Unknown, "tokenExpired"),
        _ => (ConditionStatus::Unknown, "notAskedYet"),
    };
    let token = match expires {
        Some(expires) if good => Some(format!("the token is good until {expires}")),
        Some(expires) => Some(format!("the token expired at {expires}; the next session asks for another one")),
        None if fault.is_none() => Some("no session has needed a token yet".to_owned()),
        None => None,
    };
    let refusal = login.as_ref().and_then(|login| login.as_ref().err());
    let refusal = refusal.map(|words| format!("the smart host refused it: {words}"));
    let error = fault.as_ref().map(|(fault, at)| format!("last error, at {at}: {fault}"));
    let parts: Vec<String> = [token, refusal, error].into_iter().flatten().collect();
    (status, reason, parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::token_fault::TokenFault;

    #[test]
    fn what_is_known_of_tokens() {
        let at = Timestamp::from_millis;
        let refused = TokenFault::Refused("https://t.example".to_owned(), "invalid_grant".to_owned());
        let fault = Some((refused, at(5)));
        let said = Some(Err("535 no".to_owned()));
        use ConditionStatus::{False, True, Unknown};
        for (expires, fault, login, status, reason, words) in [
            (None, None, None, Unknown, "notAskedYet", "no session has needed"),
            (
                None,
                fault.clone(),
                None,
                False,
                "endpointRefused",
                "last error, at 1970-01-01T00:00:00.005Z: the token endpoint",
            ),
            (Some(20), None, None, True, "tokenIssued", "good until 1970-01-01T00:00:00.020Z"),
            (Some(20), None, Some(Ok(())), True, "loggedIn", "good until"),
            (Some(20), fault.clone(), Some(Ok(())), True, "loggedIn", "invalid_grant"),
            (Some(20), None, said.clone(), False, "loginRefused", "refused it: 535 no"),
            (Some(10), None, Some(Ok(())), Unknown, "tokenExpired", "expired at"),
            (Some(10), fault, Some(Ok(())), False, "endpointRefused", "invalid_grant"),
        ] {
            let known = TokenStatus { expires: expires.map(at), fault, login };
            let (is, why, message) = judge(&known, at(10));
            assert_eq!((is, why), (status, reason), "{known:?}");
            assert!(message.contains(words), "{message}");
        }
    }
}
