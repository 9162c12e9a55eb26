//! From and Sender in every form.

use super::*;

fn senders(header: &str) -> String {
    String::from_utf8(adapt(format!("{header}\r\nbody\r\n").as_bytes(), Some(Rules), None, &[])).unwrap()
}

#[test]
fn senders_change_in_every_form_that_clients_write() {
    for (before, after) in [
        (" a@local.example", " a@m.example"),
        (" <a@LOCAL.example>", " <a@m.example>"),
        ("a@local.example", "a@m.example"),
        (" Ada Lovelace <a@local.example>", " Ada Lovelace <a@m.example>"),
        (" \"Lovelace, Ada\" <a@local.example>", " \"Lovelace, Ada\" <a@m.example>"),
        (" \"a@local.example\" <a@local.example>", " \"a@local.example\" <a@m.example>"),
        // unquoted, against the rules
        (" a@local.example <a@local.example>", " a@local.example <a@m.example>"),
        (" J. R. Smith <a@local.example>", " J. R. Smith <a@m.example>"),
        (" =?UTF-8?Q?J=C3=BCrgen?= <a@local.example>", " =?UTF-8?Q?J=C3=BCrgen?= <a@m.example>"),
        (" J\u{fc}rgen <a@local.example>", " J\u{fc}rgen <a@m.example>"),
        (" a@local.example (Ada (x) \\) y@local.example)", " a@m.example (Ada (x) \\) y@local.example)"),
        (" (x) a@local.example", " (x) a@m.example"),
        ("\r\n Ada\r\n\t<a@local.example>", "\r\n Ada\r\n\t<a@m.example>"),
        (" \"a b\"@local.example", " \"a b\"@m.example"),
        (" \"a\\\"b\"@local.example", " \"a\\\"b\"@m.example"),
        (" <\"a@b\"@local.example>", " <\"a@b\"@m.example>"),
        (" a+tag.x@local.example", " a+tag.x@m.example"),
        (
            " A <a@local.example>, b@other.example, <c@local.example>",
            " A <a@m.example>, b@other.example, <c@m.example>",
        ),
        (
            " Team: A <a@local.example>, b@local.example; , c@local.example",
            " Team: A <a@m.example>, b@m.example; , c@m.example",
        ),
        // an element that is no address does not keep the others
        (" Lovelace, Ada <a@local.example>", " Lovelace, Ada <a@m.example>"),
        (" < a@local.example >", " < a@m.example >"),
        (" a@local.example,", " a@m.example,"),
        (" a . b@local.example", " a . b@m.example"),
    ] {
        assert_eq!(senders(&format!("From:{before}\r\n")), format!("From:{after}\r\n\r\nbody\r\n"), "{before}");
        assert_eq!(senders(&format!("SENDER :{before}\r\n")), format!("SENDER:{after}\r\n\r\nbody\r\n"), "{before}");
    }
}

#[test]
fn what_is_not_understood_is_left_alone() {
    for field in [
        " a@other.example",
        " a@sub.local.example",
        " a@local.example.org",
        " root",
        " <>",
        "",
        " undisclosed:;",
        " \"Ada <a@local.example>",
        " (Ada <a@local.example>",
        " Ada <a@local.example",
        " Ada a@local.example>",
        " <a@local.example> Ada",
        " <<a@local.example>>",
        " a@b@local.example",
        " @local.example",
        " <@x.example:a@local.example>",
        " a@local . example",
        " a b@local.example",
        " a@[local.example]",
        " a..b@local.example",
        " \"a\\",
    ] {
        let header = format!("From:{field}\r\n");
        assert_eq!(senders(&header), format!("{header}\r\nbody\r\n"), "{field}");
    }
    for header in [
        "Reply-To: a@local.example\r\n",
        "To: a@old.example\r\n",
        "X-From: a@local.example\r\n",
        "From a@local.example\r\n",
    ] {
        assert_eq!(senders(header), format!("{header}\r\nbody\r\n"));
    }
    // the local part fills what an address may have
    let long = format!("From: a@local.example, {}@local.example{}\r\n", "a".repeat(64), " (x)".repeat(240));
    assert_eq!(senders(&long), format!("{}\r\nbody\r\n", long.replace("local", "m")), "lines became no longer");
    // not valid UTF-8
    let octets = b"From: \xff@local.example\r\n\r\n";
    assert_eq!(adapt(octets, Some(Rules), None, &[]), octets);
    // only in the header of the message itself
    let inner =
        "Subject: x\r\nContent-Type: message/rfc822\r\n\r\nFrom: a@local.example\r\n\r\nFrom: a@local.example\r\n";
    assert_eq!(adapt(inner.as_bytes(), Some(Rules), None, &[]), inner.as_bytes());
}

#[test]
fn a_longer_line_than_lines_may_be_is_not_made() {
    struct Longer;
    impl Senders for Longer {
        fn change(&self, _: &Mailbox) -> Option<SenderChange> {
            Some(SenderChange::Domain("a-much-longer-domain.example".parse().unwrap()))
        }
    }
    let fits = format!("From: a@l.example{}\r\n\r\n", " ".repeat(900));
    let too_long = format!("From: a@l.example{}\r\n\r\n", " ".repeat(980));
    assert_ne!(adapt(fits.as_bytes(), Some(Longer), None, &[]), fits.as_bytes());
    assert_eq!(adapt(too_long.as_bytes(), Some(Longer), None, &[]), too_long.as_bytes());
}

#[test]
fn who_becomes_another_mailbox_still_gets_the_replies() {
    for (before, after) in [
        (
            "From: Ada <a@old.example>\r\nTo: b@c\r\n",
            "From: Ada <box@m365.example>\r\nTo: b@c\r\nReply-To: Ada <a@old.example>\r\n",
        ),
        (
            "From: Ada <a@old.example>\r\nReply-To: r@x.example\r\n",
            "From: Ada <box@m365.example>\r\nReply-To: r@x.example\r\n",
        ),
        ("reply-to:\r\nFrom: a@old.example\r\n", "reply-to:\r\nFrom: box@m365.example\r\n"),
        (
            "From: a@old.example,\r\n b@local.example\r\nX: y\r\n",
            "From: box@m365.example,\r\n b@m.example\r\nX: y\r\nReply-To: a@old.example,\r\n b@local.example\r\n",
        ),
        // nothing is lost by another domain: the mailbox is the same
        ("From: a@local.example\r\n", "From: a@m.example\r\n"),
        ("Sender: a@old.example\r\nFrom: a@x.example\r\n", "Sender: box@m365.example\r\nFrom: a@x.example\r\n"),
    ] {
        assert_eq!(senders(before), format!("{after}\r\nbody\r\n"));
    }
    // a header that just ends
    for header in ["From: a@old.example", "From: a@old.example\r\n"] {
        let out = adapt(header.as_bytes(), Some(Rules), None, &[]);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "From: box@m365.example\r\nReply-To: a@old.example\r\n");
    }
}
