//! The kinds of things that `get`, `describe` and `delete` know: the collections of the API, by their names there, in the
//! singular, and in short.
//!
//! A kind that the appliance does not have is its 404, told as it is; this table adds nothing to what the API offers.

use serde_json::Value;

use super::output::{ago, cell, octets};

/// A kind of thing.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The collection's name in a path, and on the command line.
    pub path: &'static str,
    /// One of it.
    pub one: &'static str,
    /// In short.
    pub short: &'static str,
    /// Where its name stands.
    pub name: &'static str,
    /// Its columns behind the name.
    columns: &'static [Column],
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its head.
    pub head: &'static str,
    of: Of,
}

/// What a column shows.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// The value behind a JSON pointer.
    Value(&'static str),
    /// The values behind a pointer in each item of a list.
    Each(&'static str, &'static str),
    /// The time behind a pointer, as how long ago it was.
    Time(&'static str),
    /// Octets.
    Size(&'static str),
    /// Conditions that are not as they should be.
    Conditions,
    /// Where a connector leads.
    Route,
}

macro_rules! columns {
    ($($head:literal $of:expr),* $(,)?) => { &[$(Column { head: $head, of: $of }),*] };
}

use Of::{Conditions, Each, Route, Size, Time, Value as Show};

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind {
        path: "virtual-servers",
        one: "virtual-server",
        short: "vs",
        name: "/name",
        columns: columns!["STATE" Show("/status/state"), "BINDINGS" Each("/spec/bindings", "/port"), "OWNER" Show("/owner"), "GENERATION" Show("/generation"), "NOT AS IT SHOULD BE" Conditions],
    },
    Kind {
        path: "recipient-policies",
        one: "recipient-policy",
        short: "rp",
        name: "/name",
        columns: columns!["PRIORITY" Show("/spec/priority"), "ADDRESSES" Each("/spec/addresses", "/template"), "OWNER" Show("/owner"), "GENERATION" Show("/generation")],
    },
    Kind {
        path: "recipients",
        one: "recipient",
        short: "rcpt",
        name: "/name",
        columns: columns!["TYPE" Show("/spec/type"), "ADDRESSES" Each("/status/addresses", "/address"), "OWNER" Show("/owner"), "GENERATION" Show("/generation")],
    },
    Kind {
        path: "mailbox-stores",
        one: "mailbox-store",
        short: "ms",
        name: "/name",
        columns: columns!["TYPE" Show("/spec/type"), "DEFAULT" Show("/spec/default"), "OWNER" Show("/owner"), "GENERATION" Show("/generation")],
    },
    Kind {
        path: "connectors",
        one: "connector",
        short: "con",
        name: "/name",
        columns: columns!["SPACES" Each("/spec/addressSpaces", "/pattern"), "ROUTE" Route, "STATE" Show("/status/state"), "OWNER" Show("/owner"), "GENERATION" Show("/generation"), "NOT AS IT SHOULD BE" Conditions],
    },
    Kind {
        path: "remote-domains",
        one: "remote-domain",
        short: "rd",
        name: "/name",
        columns: columns!["PATTERN" Show("/spec/pattern"), "TLS" Show("/spec/tls"), "OWNER" Show("/owner")],
    },
    Kind {
        path: "certificates",
        one: "certificate",
        short: "cert",
        name: "/name",
        columns: columns!["NAMES" Show("/status/names"), "NOT AFTER" Show("/status/notAfter"), "OWNER" Show("/owner"), "NOT AS IT SHOULD BE" Conditions],
    },
    Kind {
        path: "accounts",
        one: "account",
        short: "acc",
        name: "/name",
        columns: columns!["USERNAME" Show("/spec/username"), "MAY RELAY" Show("/spec/mayRelay"), "OWNER" Show("/owner"), "GENERATION" Show("/generation")],
    },
    Kind {
        path: "identity-providers",
        one: "identity-provider",
        short: "idp",
        name: "/name",
        columns: columns!["ISSUER" Show("/spec/issuer"), "OWNER" Show("/owner"), "NOT AS IT SHOULD BE" Conditions],
    },
    Kind {
        path: "filters",
        one: "filter",
        short: "flt",
        name: "/name",
        columns: columns!["KIND" Show("/spec/kind"), "ACTION" Show("/spec/action"), "OWNER" Show("/owner")],
    },
    Kind {
        path: "event-sinks",
        one: "event-sink",
        short: "sink",
        name: "/name",
        columns: columns!["URL" Show("/spec/url"), "EVENTS" Show("/spec/events"), "OWNER" Show("/owner"), "NOT AS IT SHOULD BE" Conditions],
    },
    Kind {
        path: "api-keys",
        one: "api-key",
        short: "key",
        name: "/name",
        columns: columns!["ROLE" Show("/spec/role"), "SCOPES" Show("/spec/scopes"), "EXPIRES" Show("/spec/expiresAt"), "LAST USED" Time("/status/lastUsedAt"), "OWNER" Show("/owner")],
    },
    Kind {
        path: "domains",
        one: "domain",
        short: "dom",
        name: "/name",
        columns: columns!["TYPE" Show("/type"), "DEFAULT" Show("/default"), "DEFINED BY" Each("/definedBy", "/object")],
    },
    Kind {
        path: "queues",
        one: "queue",
        short: "q",
        name: "/id",
        columns: columns!["STATE" Show("/state"), "MESSAGES" Show("/messages"), "SIZE" Size("/bytes"), "OLDEST" Time("/oldest"), "NEXT RETRY" Time("/nextRetry"), "LAST ERROR" Show("/lastError")],
    },
    Kind {
        path: "messages",
        one: "message",
        short: "msg",
        name: "/id",
        columns: columns!["STATE" Show("/state"), "AGE" Time("/receivedAt"), "SIZE" Size("/size"), "SENDER" Show("/sender"), "RECIPIENTS" Each("/recipients", "/address"), "QUEUES" Each("/recipients", "/queue")],
    },
    Kind {
        path: "operations",
        one: "operation",
        short: "op",
        name: "/id",
        columns: columns!["ACTION" Show("/action"), "STATE" Show("/state"), "DONE" Show("/done"), "SKIPPED" Show("/skipped"), "FAILED" Show("/failed"), "TOTAL" Show("/total"), "STARTED" Time("/startedAt"), "BY" Show("/by")],
    },
    Kind {
        path: "holds",
        one: "hold",
        short: "hold",
        name: "/id",
        columns: columns!["SELECTOR" Show("/selector"), "REASON" Show("/reason"), "BY" Show("/by"), "SINCE" Time("/createdAt"), "EXPIRES" Time("/expiresAt")],
    },
    Kind {
        path: "suppressions",
        one: "suppression",
        short: "sup",
        name: "/address",
        columns: columns!["SOURCE" Show("/source"), "REASON" Show("/reason"), "SINCE" Time("/createdAt"), "EXPIRES" Time("/expiresAt")],
    },
    Kind {
        path: "quotas",
        one: "quota",
        short: "quota",
        name: "/holder",
        columns: columns!["LIMIT" Show("/limit"), "USED" Show("/used"), "WHAT" Show("/what")],
    },
    Kind {
        path: "sessions",
        one: "session",
        short: "ses",
        name: "/id",
        columns: columns!["STATE" Show("/state"), "VIRTUAL SERVER" Show("/virtualServer"), "CLIENT" Show("/client"), "HELO" Show("/helo"), "ACCOUNT" Show("/account"), "SINCE" Time("/since"), "MESSAGES" Show("/messages")],
    },
];

impl Kind {
    /// The kind that is called so.
    pub fn find(word: &str) -> Option<&'static Kind> {
        let word = word.to_ascii_lowercase();
        KINDS.iter().find(|kind| {
            [kind.path, kind.one, kind.short].contains(&word.as_str()) || kind.path.replace('-', "") == word
        })
    }

    /// Parses it for clap.
    ///
    /// # Errors
    /// When there is no such kind; names all.
    pub fn parse(word: &str) -> Result<&'static Kind, String> {
        Kind::find(word).ok_or_else(|| {
            let all: Vec<String> = KINDS.iter().map(|kind| format!("{} ({})", kind.path, kind.short)).collect();
            format!("there is no kind {word:?}; there are {}", all.join(", "))
        })
    }

    /// Its name in a URL.
    pub fn url(&self) -> String {
        format!("/api/v1/{}", self.path)
    }

    /// Whether its things are objects of the configuration, with labels and a spec.
    pub fn is_configuration(&self) -> bool {
        self.columns.iter().any(|column| column.head == "OWNER")
    }

    /// The heads of its table.
    pub fn heads(&self) -> Vec<&'static str> {
        let name = if self.name == "/id" { "ID" } else { "NAME" };
        std::iter::once(name).chain(self.columns.iter().map(|column| column.head)).collect()
    }

    /// A thing as a row of its table.
    pub fn row(&self, item: &Value) -> Vec<String> {
        std::iter::once(cell(item, self.name)).chain(self.columns.iter().map(|column| column.of.cell(item))).collect()
    }
}

impl Of {
    fn cell(self, item: &Value) -> String {
        match self {
            Of::Value(pointer) => cell(item, pointer),
            Of::Each(list, pointer) => {
                let items = item.pointer(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let mut words: Vec<String> = items.iter().map(|item| cell(item, pointer)).collect();
                words.retain(|word| !word.is_empty());
                words.dedup();
                let more = words.len().saturating_sub(3);
                words.truncate(3);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("{}{more}", words.join(","))
            }
            Of::Time(pointer) => item.pointer(pointer).and_then(Value::as_str).map(ago).unwrap_or_default(),
            Of::Size(pointer) => item.pointer(pointer).and_then(Value::as_u64).map(octets).unwrap_or_default(),
            Of::Conditions => {
                let all = item.pointer("/status/conditions").and_then(Value::as_array);
                let bad = all.map(Vec::as_slice).unwrap_or_default().iter().filter(|condition| is_bad(condition));
                bad.map(|condition| cell(condition, "/type")).collect::<Vec<_>>().join(",")
            }
            Of::Route => {
                let hosts = Of::Each("/spec/route/smartHosts", "/host").cell(item);
                if hosts.is_empty() { "dns".to_owned() } else { hosts }
            }
        }
    }
}

/// Whether a condition tells of something wrong: most are true when all is well.
pub fn is_bad(condition: &Value) -> bool {
    let bad_when_true = matches!(cell(condition, "/type").as_str(), "Overridden" | "OpenRelay");
    cell(condition, "/status") == if bad_when_true { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kind_is_found_however_it_is_called_and_no_two_share_a_name() {
        for word in ["connectors", "connector", "con", "Connectors"] {
            assert_eq!(Kind::find(word).unwrap().path, "connectors");
        }
        assert!(Kind::parse("conectors").unwrap_err().contains("connectors (con)"));
        let mut words: Vec<_> = KINDS.iter().flat_map(|kind| [kind.path, kind.one, kind.short]).collect();
        words.sort_unstable();
        words.dedup();
        // hold, quota: the short name is the singular
        assert_eq!(words.len(), KINDS.len() * 3 - 2);
    }

    #[test]
    fn a_row_says_what_is_wrong() {
        let item = json!({"name": "hub", "owner": "api", "generation": 2,
            "spec": {"addressSpaces": [{"pattern": "*"}], "route": {"smartHosts": [{"host": "a"}, {"host": "b"}]}},
            "status": {"conditions": [{"type": "Reachable", "status": "false"}, {"type": "ConfigAccepted", "status": "true"}, {"type": "Overridden", "status": "true"}]}});
        let row = Kind::find("connectors").unwrap().row(&item);
        assert_eq!(row, ["hub", "*", "a,b", "", "api", "2", "Reachable,Overridden"]);
    }
}
