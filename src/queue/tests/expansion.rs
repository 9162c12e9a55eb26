//! Groups, contacts and forwards in the queue: who gets what, under which reverse-path, and who is told.

use super::*;
use crate::smtp::parameters::{OriginalRecipient, Ret};

const SUCCESS: Notify = Notify::On { success: true, failure: true, delay: false };

impl Fixture {
    /// `shared.example` is shared; `name@<default domain>` are these recipients, put in this order.
    async fn with(next_hop: NextHop, recipients: &[(&str, Value)]) -> Self {
        let f = Fixture::new(next_hop).await;
        let addresses = json!({"addresses": [
            {"template": format!("@{}", f.default_domain()), "primary": true},
            {"template": "@shared.example", "authoritative": false}
        ]});
        f.put(Collection::RecipientPolicies, "default", addresses).await;
        for (name, spec) in recipients {
            f.put(Collection::Recipients, name, spec.clone()).await;
        }
        f
    }

    fn at(&self, name: &str) -> String {
        format!("{name}@{}", self.default_domain())
    }

    /// A message with the parameters of RFC 3461 for several recipients.
    pub(super) async fn send_to(&self, from: &str, to: &[String], notify: Option<Notify>) -> MessageId {
        let mut draft = self.store.begin().unwrap();
        draft.append(Bytes::from_static(b"Subject: hello\r\n\r\nbody\r\n")).await.unwrap();
        let snapshot = self.configuration.live().current();
        let directory = StoredRecipients(Arc::new(self.store.clone()));
        let (sender, server): (ReversePath, Name) = (from.parse().unwrap(), "default".parse().unwrap());
        let now = self.queue.now();
        let recipient = |to: &String| {
            let path: ForwardPath = to.parse().unwrap();
            let down = self.queue.down();
            let sending =
                Sending { sender: &sender, size: 10, priority: 0, virtual_server: &server, spread: 1, down: &down };
            let Assignment::Queue(queue, directory_name) = assign(&snapshot, &directory, &path, sending) else {
                panic!("no queue for {to}");
            };
            Recipient {
                forward_path: path,
                parameters: RcptParameters {
                    notify,
                    orcpt: Some(OriginalRecipient {
                        address_type: "rfc822".into(),
                        address: "first@src.example".into(),
                    }),
                },
                directory_name,
                status: RecipientStatus::Pending,
                waits: Some(Waits { queue, due: now }),
                attempts: 0,
                delay_notified: false,
                last_failure: None,
            }
        };
        let message = Message {
            id: draft.id(),
            received_at: now,
            origin: Origin {
                protocol: Protocol::Esmtp,
                virtual_server: server.clone(),
                client: None,
                helo: None,
                account: None,
                api_key: None,
            },
            reverse_path: sender.clone(),
            parameters: MailParameters {
                envid: Some("envid".into()),
                ret: Some(Ret::Hdrs),
                ..MailParameters::default()
            },
            size: draft.size(),
            message_id_header: None,
            subject: None,
            frozen: false,
            connector: None,
            idempotency: None,
            recipients: to.iter().map(recipient).collect(),
        };
        let leased = draft.commit(message).await.unwrap();
        let id = leased.message.id;
        self.queue.enqueue(leased);
        id
    }

    /// All that waits, as `reverse-path → forward-path, …`, in order.
    fn waiting(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .store
            .messages()
            .iter()
            .map(|message| {
                let waits = message.recipients.iter().filter(|recipient| recipient.waits.is_some());
                let mut to: Vec<String> = waits.map(|recipient| recipient.forward_path.to_string()).collect();
                to.sort();
                format!("{} → {}", message.reverse_path, to.join(", "))
            })
            .collect();
        all.sort();
        all
    }

    fn reports_to(&self, who: &str) -> usize {
        self.attempts_of(who).len()
    }
}

fn contact(to: &str) -> Value {
    json!({"type": "contact", "forwardTo": [to]})
}

fn group(members: &[&str]) -> Value {
    json!({"type": "group", "members": members})
}

#[tokio::test(start_paused = true)]
async fn a_group_reaches_mailboxes_and_outside_each_once() {
    let f = Fixture::with(
        NextHop::Takes,
        &[
            ("pal", contact("pal@out.example")),
            ("inner", group(&["anna", "pal", "x@out.example"])),
            ("all", group(&["inner", "anna", "pal@out.example"])),
        ],
    )
    .await;
    let to = [f.at("all"), f.at("inner"), f.anna(), "x@out.example".to_owned()];
    let id = f.send_to("s@src.example", &to, None).await;
    f.pass(Duration::from_secs(5)).await;
    assert!(f.store.messages().is_empty(), "{:?}", f.queued());
    for to in [f.anna(), "pal@out.example".into(), "x@out.example".into()] {
        assert_eq!(f.attempts_of(&to).len(), 1, "{to}");
    }
    let events = f.queue.events(id, None, 1_000).await.unwrap().items;
    let expanded: Vec<_> = events.iter().filter(|event| event["event"] == "expanded").collect();
    assert_eq!(expanded.len(), 2);
    let further = expanded[0]["related"].as_str().unwrap().parse().unwrap();
    let first = &f.queue.events(further, None, 1_000).await.unwrap().items[0];
    assert_eq!((&first["event"], &first["related"]), (&json!("received"), &json!(id.to_string())));
}

#[tokio::test(start_paused = true)]
async fn the_content_goes_on_as_it_came() {
    let f = Fixture::with(NextHop::Dead, &[("pal", contact("pal@out.example"))]).await;
    f.send_to("s@src.example", &[f.at("pal")], None).await;
    f.pass(Duration::from_secs(5)).await;
    let message = f.store.messages().pop().unwrap();
    assert_eq!(f.store.content_of(message.id), Bytes::from_static(b"Subject: hello\r\n\r\nbody\r\n"));
    assert_eq!(f.queued(), [("dns:default:out.example".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_alias_passes_on_what_the_sender_asked_for() {
    let f = Fixture::with(NextHop::Dead, &[("pal", contact("pal@out.example"))]).await;
    f.send_to(&f.anna(), &[f.at("pal")], Some(SUCCESS)).await;
    f.pass(Duration::from_secs(5)).await;
    let message = f.store.messages().pop().unwrap();
    let recipient = &message.recipients[0];
    assert_eq!(message.reverse_path.to_string(), f.anna());
    assert_eq!((recipient.parameters.notify, message.parameters.envid.as_deref()), (Some(SUCCESS), Some("envid")));
    assert_eq!(recipient.parameters.orcpt.as_ref().unwrap().address, "first@src.example");
    assert_eq!(f.reports_to(&f.anna()), 0, "it was not delivered yet, nor expanded");
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(HOUR).await;
    assert_eq!(f.reports_to(&f.anna()), 1, "relayed");
}

#[tokio::test(start_paused = true)]
async fn a_group_without_owner_is_told_as_expanded_and_its_members_are_not_told_again() {
    let f = Fixture::with(NextHop::Dead, &[("both", group(&["x@out.example", "y@out.example"]))]).await;
    f.send_to(&f.anna(), &[f.at("both")], Some(SUCCESS)).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.waiting(), [format!("{} → x@out.example, y@out.example", f.anna())]);
    let message = f.store.messages().pop().unwrap();
    for recipient in &message.recipients {
        let failure_only = Notify::On { success: false, failure: true, delay: false };
        assert_eq!(recipient.parameters.notify, Some(failure_only));
        assert!(recipient.parameters.orcpt.is_some());
    }
    assert_eq!(f.reports_to(&f.anna()), 1, "expanded");
    *f.next_hop.lock().unwrap() = NextHop::Refuses;
    f.pass(HOUR).await;
    assert_eq!(f.reports_to(&f.anna()), 2, "and one about both that failed");
}

#[tokio::test(start_paused = true)]
async fn success_alone_becomes_never_behind_an_expansion() {
    let f = Fixture::with(NextHop::Dead, &[("both", group(&["x@out.example", "y@out.example"]))]).await;
    let only = Notify::On { success: true, failure: false, delay: false };
    f.send_to(&f.anna(), &[f.at("both")], Some(only)).await;
    f.pass(Duration::from_secs(5)).await;
    let message = f.store.messages().pop().unwrap();
    assert!(message.recipients.iter().all(|recipient| recipient.parameters.notify == Some(Notify::Never)));
}

#[tokio::test(start_paused = true)]
async fn the_owner_of_a_list_hears_of_failures_and_the_sender_that_it_reached_the_list() {
    let list = json!({"type": "group", "members": ["x@out.example", "anna"], "owner": "boss"});
    let f = Fixture::with(NextHop::Dead, &[("boss", json!({})), ("tom", json!({})), ("list", list)]).await;
    f.send_to(&f.at("tom"), &[f.at("list")], Some(SUCCESS)).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.waiting(), [format!("{} → x@out.example", f.at("boss"))]);
    let message = f.store.messages().pop().unwrap();
    assert_eq!((message.parameters.envid.clone(), message.parameters.ret), (None, None));
    assert_eq!(message.recipients[0].parameters, RcptParameters::default());
    assert_eq!(f.reports_to(&f.at("tom")), 1, "delivered, to the list");
    *f.next_hop.lock().unwrap() = NextHop::Refuses;
    f.pass(HOUR).await;
    assert_eq!((f.reports_to(&f.at("boss")), f.reports_to(&f.at("tom"))), (1, 1));
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_notification_to_a_list_keeps_the_null_reverse_path() {
    let list = json!({"type": "group", "members": ["x@out.example"], "owner": "boss"});
    let f = Fixture::with(NextHop::Refuses, &[("boss", json!({})), ("list", list)]).await;
    f.send_to("<>", &[f.at("list")], None).await;
    f.pass(HOUR).await;
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)]);
    assert_eq!(f.store.messages()[0].reverse_path, ReversePath::Null);
    assert_eq!(f.reports_to(&f.at("boss")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_refuses_the_sender_gets_no_copy_and_the_sender_of_a_group_hears_it() {
    let shy = json!({"rejectFrom": ["tom"]});
    let both = group(&["shy", "anna", "x@out.example"]);
    let f = Fixture::with(NextHop::Takes, &[("tom", json!({})), ("shy", shy), ("both", both)]).await;
    let (tom, shy) = (f.at("tom"), f.at("shy"));
    for (notify, reports) in [
        (None, 1),
        (Some(SUCCESS), 3),
        (Some(Notify::Never), 3),
        (Some(Notify::On { success: true, failure: false, delay: false }), 4),
    ] {
        f.send_to(&tom, &[f.at("both")], notify).await;
        f.pass(Duration::from_secs(5)).await;
        assert_eq!(f.reports_to(&tom), reports, "{notify:?}");
    }
    assert_eq!(
        (f.attempts_of(&shy).len(), f.attempts_of(&f.anna()).len(), f.attempts_of("x@out.example").len()),
        (0, 4, 4)
    );
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 2)], "what nobody was told of stays to be seen");
    f.send_to(&f.anna(), &[f.at("both")], None).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.attempts_of(&shy).len(), 1, "it takes mail from others");
}

#[tokio::test(start_paused = true)]
async fn the_owner_of_a_list_hears_of_members_that_refuse_and_the_sender_does_not() {
    let list = json!({"type": "group", "members": ["small", "closed", "anna"], "owner": "boss"});
    let closed = json!({"type": "group", "members": ["x@out.example"], "acceptFrom": ["boss"]});
    let people = [("boss", json!({})), ("tom", json!({})), ("small", json!({"maxReceiveSize": 5})), ("closed", closed)];
    let f = Fixture::with(NextHop::Takes, &people).await;
    f.put(Collection::Recipients, "list", list).await;
    let id = f.send_to(&f.at("tom"), &[f.at("list")], None).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!((f.reports_to(&f.at("boss")), f.reports_to(&f.at("tom"))), (1, 0));
    assert_eq!((f.attempts_of(&f.at("small")).len(), f.attempts_of("x@out.example").len()), (0, 0));
    let events = f.queue.events(id, None, 1_000).await.unwrap().items;
    let further = events.iter().find(|event| event["event"] == "expanded").unwrap()["related"].as_str().unwrap();
    let events = f.queue.events(further.parse().unwrap(), None, 1_000).await.unwrap().items;
    let failed = events.iter().filter(|event| event["event"] == "failed");
    let mut why: Vec<_> = failed.map(|event| event["failure"]["status"].as_str().unwrap().to_owned()).collect();
    why.sort();
    assert_eq!(why, ["5.2.3", "5.7.1"]);
    // nobody is told of a notification: it stays to be seen
    f.send_to("<>", &[f.at("list")], None).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)]);
    assert_eq!((f.reports_to(&f.at("boss")), f.reports_to(&f.at("tom"))), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_forwards_with_a_copy_or_without() {
    let f = Fixture::with(
        NextHop::Takes,
        &[
            ("gone", json!({"forwardTo": ["gone@out.example"]})),
            ("here", json!({"forwardTo": ["here@out.example"], "deliverAndForward": true})),
        ],
    )
    .await;
    f.send_to("s@src.example", &[f.at("gone"), f.at("here")], None).await;
    f.pass(Duration::from_secs(5)).await;
    assert!(f.store.messages().is_empty(), "{:?}", f.queued());
    let times = |to: &str| f.attempts_of(to).len();
    assert_eq!((times("gone@out.example"), times("here@out.example")), (1, 1));
    assert_eq!((times(&f.at("gone")), times(&f.at("here"))), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_circle_of_forwards_fails_with_a_report() {
    let f = Fixture::with(NextHop::Takes, &[("a", json!({})), ("b", json!({"forwardTo": ["a"]}))]).await;
    f.put(Collection::Recipients, "a", json!({"forwardTo": ["b"]})).await;
    let id = f.send_to(&f.anna(), &[f.at("a")], None).await;
    f.pass(Duration::from_secs(5)).await;
    assert!(f.store.messages().is_empty());
    assert_eq!(f.events(id).await, ["failed", "dsn"]);
    let events = f.queue.events(id, None, 1_000).await.unwrap().items;
    assert_eq!(events[0]["failure"]["status"], "5.4.6");
    assert_eq!(f.reports_to(&f.anna()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_group_goes_in_messages_of_a_thousand() {
    let members: Vec<String> = (0..2_500).map(|n| format!("u{n}@out.example")).collect();
    let f = Fixture::with(NextHop::Dead, &[("many", json!({"type": "group", "members": members}))]).await;
    f.send_to("s@src.example", &[f.at("many")], None).await;
    f.pass(Duration::from_secs(5)).await;
    let mut sizes: Vec<usize> = f.store.messages().iter().map(|message| message.recipients.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [500, 1_000, 1_000]);
}

#[tokio::test(start_paused = true)]
async fn a_shared_domain_with_nobody_to_ask_is_told_why() {
    let f = Fixture::with(NextHop::Takes, &[]).await;
    let elsewhere = json!({"addressSpaces": [{"pattern": "*.example"}], "route": {"dns": {}}, "enabled": false});
    f.put(Collection::Connectors, "default", elsewhere).await;
    let id = f.send_to(&f.anna(), &["nobody@shared.example".to_owned()], None).await;
    f.pass(Duration::from_secs(5)).await;
    let failure = f.queue.events(id, None, 1_000).await.unwrap().items[0]["failure"].clone();
    assert_eq!(failure["status"], "5.4.4");
    assert!(failure["diagnostic"].as_str().unwrap().contains("not in the directory"), "{failure}");
    assert_eq!(f.reports_to(&f.anna()), 1);
}

#[tokio::test(start_paused = true)]
async fn whom_nobody_knows_in_a_shared_domain_is_forwarded() {
    let f = Fixture::with(NextHop::Dead, &[]).await;
    let actor = Actor { key: "test".into(), ..Actor::default() };
    let body = json!({"spec": {"messages": {"forwardUnresolvedTo": "old.example.net:2525"}}});
    let (configuration, any) = (&f.configuration, Precondition::default());
    configuration.patch(Collection::VirtualServers, "default", &body, &any, &actor, false).await.unwrap();
    f.send_to("s@src.example", &["nobody@shared.example".to_owned(), "x@out.example".to_owned()], None).await;
    f.pass(Duration::from_secs(5)).await;
    let mut queued = f.queued();
    queued.sort();
    assert_eq!(queued, [("dns:default:out.example".to_owned(), 1), ("smarthost:unresolved.default".to_owned(), 1)]);
    let hop = f.queue.queue(&"smarthost:unresolved.default".parse().unwrap()).await.unwrap().next_hop;
    assert_eq!(hop.as_deref(), Some("old.example.net:2525"));
}

#[tokio::test(start_paused = true)]
async fn staging_holds_behind_a_group_too() {
    let f = Fixture::with(
        NextHop::Takes,
        &[
            ("all", group(&["anna", "x@out.example", "y@out.example", "ok@out.example"])),
            ("real", group(&["x@out.example"])),
        ],
    )
    .await;
    let actor = Actor { key: "test".into(), ..Actor::default() };
    let any = Precondition::default();
    let staging = |staging: Value| json!({"spec": {"staging": staging}});
    let body = staging(json!({"redirectTo": "qa@test.example", "allow": ["ok@out.example"]}));
    let set = async |body: Value| {
        let patched = f.configuration.patch(Collection::VirtualServers, "default", &body, &any, &actor, false).await;
        patched.unwrap()
    };
    set(body).await;
    f.send_to("s@src.example", &[f.at("all"), f.at("real")], None).await;
    f.pass(Duration::from_secs(5)).await;
    let times = |to: &str| f.attempts_of(to).len();
    assert_eq!((times("qa@test.example"), times("ok@out.example")), (1, 1));
    assert_eq!((times("x@out.example"), times("y@out.example"), times(&f.anna())), (0, 0, 0));
    set(staging(json!({"redirectTo": null, "allow": ["ok@out.example"]}))).await;
    let id = f.send_to("s@src.example", &[f.at("real")], None).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.queue.events(id, None, 1_000).await.unwrap().items[0]["failure"]["status"], "5.7.1");
    assert_eq!(times("x@out.example"), 0);
}
