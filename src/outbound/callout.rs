//! Asks a next hop whether it takes mail for a recipient: MAIL FROM:<>, RCPT TO, and no mail ([`Callout`]).
//!
//! The session is opened as for mail, with the first host that gives one. Answers are kept: an hour that the recipient exists,
//! five minutes that it does not, half a minute that nothing is clear, so that a dead host is not waited for at each RCPT. Who asks
//! the same meanwhile waits for the same answer. Only a permanent reply to RCPT that is about the address counts as *no*.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OnceCell;

use super::{Outbound, hosts, session, worker};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::net::client_driver::{ContentUnavailable, Work};
use crate::routing::callout::{Callout, Existence};
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::client::{Phase, RecipientResult, RemoteReply, Transaction, Treatment};
use crate::smtp::parameters::{MailParameters, RcptParameters};

/// Longest that an answer is waited for: a client waits meanwhile.
const LIMIT: Duration = Duration::from_secs(10);
/// Most sessions with the next hops of one connector that ask.
const MOST_SESSIONS: usize = 8;
/// Most answers that are kept.
const MOST_ANSWERS: usize = 50_000;

/// The answers that are known, or waited for.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<HashMap<(QueueName, String), Arc<Asked>>>);

#[derive(Debug, Default)]
struct Asked(OnceCell<(Existence, Instant)>);

impl Asked {
    fn holds(&self, now: Instant) -> bool {
        self.0.get().is_none_or(|(_, until)| now < *until)
    }
}

impl Answers {
    fn asked(&self, key: (QueueName, String), now: Instant) -> Arc<Asked> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = known.get(&key).filter(|asked| asked.holds(now)) {
            return asked.clone();
        }
        if known.len() >= MOST_ANSWERS {
            known.retain(|_, asked| asked.holds(now));
        }
        if known.len() >= MOST_ANSWERS {
            known.clear();
        }
        let asked = Arc::<Asked>::default();
        known.insert(key, asked.clone());
        asked
    }
}

fn keeps(existence: &Existence) -> Duration {
    Duration::from_secs(match existence {
        Existence::Exists => 3_600,
        Existence::Unknown(_) => 300,
        Existence::Unclear(_) => 30,
    })
}

#[async_trait]
impl Callout for Outbound {
    async fn exists(&self, queue: &QueueName, took: &Name, recipient: &Mailbox) -> Existence {
        let asked = self.callouts.asked((queue.clone(), mailbox_key(recipient)), self.clock.now());
        let answer = asked.0.get_or_init(|| async {
            let existence = tokio::time::timeout(LIMIT, ask(self, queue, took, recipient)).await;
            let existence = existence.unwrap_or_else(|_| Existence::Unclear("no answer in time".to_owned()));
            tracing::debug!(queue = %queue, recipient = %recipient, answer = ?existence, "the next hop was asked for a recipient");
            let until = self.clock.now() + keeps(&existence);
            (existence, until)
        });
        answer.await.0.clone()
    }
}

async fn ask(outbound: &Outbound, queue: &QueueName, took: &Name, recipient: &Mailbox) -> Existence {
    let snapshot = outbound.queue.snapshot();
    let unclear = |why: String| Existence::Unclear(why);
    let Some(connector) = queue.connector().and_then(|name| snapshot.routes.connector(name)).cloned() else {
        return unclear("no connector carries the queue".to_owned());
    };
    let Some(server) = worker::sender_for(&snapshot, &connector, took, 0) else {
        return unclear("there is no virtual server that could ask".to_owned());
    };
    let _slot = outbound.slots.take(&[(format!("callout {}", connector.name), MOST_SESSIONS)]).await;
    let found = hosts::find(outbound.look_up(), &snapshot, &server, &connector, queue, 0).await;
    let hops = match found {
        Ok(hops) => hops,
        Err(failure) => return unclear(failure.to_string()),
    };
    let mut login = match session::credentials(outbound, &connector).await {
        Ok(login) => login,
        Err(failure) => return unclear(failure.to_string()),
    };
    let mut why = "no host to ask".to_owned();
    for host in hops.chunk_by(|one, next| one.host() == next.host()) {
        match session::open(outbound, &server, &connector, queue, host, &mut login, session::Purpose::Callout).await {
            Ok((connection, _)) => {
                let mut question = Question { transaction: Some(transaction(recipient)), result: None };
                connection.run(&mut question, &*outbound.clock).await;
                return existence(question.result);
            }
            Err(failure) => why = failure.to_string(),
        }
    }
    unclear(why)
}

fn transaction(recipient: &Mailbox) -> Transaction {
    Transaction {
        reverse_path: ReversePath::Null,
        parameters: MailParameters { smtputf8: !recipient.is_ascii(), ..MailParameters::default() },
        recipients: vec![(ForwardPath::Mailbox(recipient.clone()), RcptParameters::default())],
        size: 0,
        treatment: Treatment::AsTaken,
    }
}

fn existence(result: Option<RecipientResult>) -> Existence {
    match result {
        Some(RecipientResult::Delivered(_)) => Existence::Exists,
        Some(RecipientResult::Refused { phase: Phase::Rcpt, reply }) if is_about_the_address(&reply) => {
            Existence::Unknown(reply.to_string())
        }
        Some(RecipientResult::Refused { reply, .. }) => Existence::Unclear(reply.to_string()),
        _ => Existence::Unclear("the session was cut".to_owned()),
    }
}

/// Other permanent replies are about us, or about a mailbox that is there: full, too large, by a policy.
fn is_about_the_address(reply: &RemoteReply) -> bool {
    match reply.status {
        Some(status) => reply.is_permanent() && status.subject == 1 && !matches!(status.detail, 7 | 8),
        None => matches!(reply.code, 550 | 551 | 553),
    }
}

/// One envelope, and nothing behind it.
struct Question {
    transaction: Option<Transaction>,
    result: Option<RecipientResult>,
}

impl Work for Question {
    async fn next(&mut self, _: bool) -> Option<Transaction> {
        self.transaction.take()
    }

    async fn content(&mut self) -> Result<Option<Bytes>, ContentUnavailable> {
        Err(ContentUnavailable)
    }

    async fn finished(&mut self, results: Vec<RecipientResult>) {
        self.result = results.into_iter().next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_address_is_a_no() {
        let refused = |code, status: &str| {
            let status = (!status.is_empty()).then(|| status.parse().unwrap());
            let reply = RemoteReply { code, status, text: "words".to_owned() };
            matches!(existence(Some(RecipientResult::Refused { phase: Phase::Rcpt, reply })), Existence::Unknown(_))
        };
        for (code, status, no) in [
            (550, "5.1.1", true),
            (550, "5.1.10", true),
            (550, "", true),
            (553, "", true),
            (550, "5.7.1", false),
            (552, "5.2.2", false),
            (550, "5.1.8", false),
            (554, "", false),
            (450, "4.1.1", false),
            (450, "", false),
        ] {
            assert_eq!(refused(code, status), no, "{code} {status}");
        }
        assert!(matches!(existence(None), Existence::Unclear(_)));
    }

    #[test]
    fn answers_are_kept_for_their_time_and_bounded() {
        let answers = Answers::default();
        let now = Instant::now();
        let key = |n: usize| (QueueName::Unrouted, format!("u{n}@dst.example"));
        let first = answers.asked(key(0), now);
        assert!(Arc::ptr_eq(&first, &answers.asked(key(0), now)), "who asks meanwhile waits for the same");
        first.0.set((Existence::Exists, now + Duration::from_secs(1))).unwrap();
        assert!(Arc::ptr_eq(&first, &answers.asked(key(0), now)));
        assert!(!Arc::ptr_eq(&first, &answers.asked(key(0), now + Duration::from_secs(1))), "asked anew");
        for n in 1..MOST_ANSWERS + 10 {
            answers.asked(key(n), now);
        }
        assert!(answers.0.lock().unwrap().len() <= MOST_ANSWERS);
    }
}
