//! The shape of the house: who may import whom.
//!
//! A module imports only from lower floors, never from a sibling on its own. tokio stays out of floors 0 and 1, actix out of
//! everything but `api` and `console`, sled out of everything but `store/embedded`. The check reads the sources, comments
//! and strings left out, and looks at every path that begins with `crate::` or with one of the guarded crates.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Floors, lowest first, as architecture.md draws them.
const FLOORS: [&[&str]; 10] = [
    &["smtp"],
    &["model", "observe", "mime"],
    &["net", "store"],
    &["directory", "routing", "dsn", "authenticity", "accounts"],
    &["config"],
    &["queue", "status"],
    &["intake", "tlsrpt"],
    &["inbound", "outbound", "local", "mailroot", "sinks", "alerts", "traces"],
    &["api", "console", "cli"],
    &["boot", "main", "lib"],
];

/// A crate that only some files may use.
struct Guarded {
    name: &'static str,
    may_use: fn(&Path) -> bool,
}

const GUARDED: [Guarded; 7] = [
    Guarded { name: "tokio", may_use: |file| !in_module(file, &["smtp", "model", "observe", "mime"]) },
    Guarded { name: "tokio_util", may_use: |file| !in_module(file, &["smtp", "model", "observe", "mime"]) },
    Guarded { name: "actix_web", may_use: |file| in_module(file, &["api", "console"]) },
    Guarded { name: "actix_http", may_use: |file| in_module(file, &["api", "console"]) },
    Guarded { name: "utoipa_actix_web", may_use: |file| in_module(file, &["api", "console"]) },
    // whoever makes requests of his own forgets what must not be asked
    Guarded {
        name: "reqwest",
        may_use: |file| {
            let others = ["local/webhook.rs", "accounts/tokens.rs", "sinks/post.rs", "traces/post.rs"];
            // the command line asks the appliance that its user names, and nobody else
            in_module(file, &["net", "cli"]) || others.iter().any(|other| file == Path::new(other))
        },
    },
    Guarded {
        name: "sled",
        may_use: |file| file.starts_with("store/embedded") || file == Path::new("store/embedded.rs"),
    },
];

#[test]
fn modules_import_only_from_lower_floors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = BTreeMap::new();
    collect(&root, &root, &mut sources);
    assert!(sources.len() > 20, "the sources were not found");
    let wrong = violations(&sources);
    assert!(wrong.is_empty(), "{} imports against the floors:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_check_can_fail() {
    let check = |file: &str, source: &str| violations(&BTreeMap::from([(PathBuf::from(file), source.to_owned())]));
    let refused = [
        ("smtp/server.rs", "use crate::model::mail::Message;", "a higher floor"),
        ("routing/mod.rs", "use crate::directory::resolve;", "a sibling"),
        ("queue/mod.rs", "fn f() { crate::inbound::listener::start() }", "a higher floor, without use"),
        ("store/mod.rs", "use crate::{model::mail::Message, config::Live};", "in a list"),
        ("store/mod.rs", "use crate::{\n    model::{mail::Message, name},\n    queue,\n};", "in a nested list"),
        ("directory/a/b.rs", "pub(crate) use crate::config::{Live};", "deep in a module"),
        ("model/mod.rs", "use tokio::sync::watch;", "tokio on floor 1"),
        ("smtp/client.rs", "async fn f() { tokio::task::yield_now().await }", "tokio on floor 0"),
        ("config/live.rs", "use actix_web::web;", "actix below the API"),
        ("store/mod.rs", "type Tree = sled::Tree;", "sled outside of store/embedded"),
        ("model/time.rs", "use super::super::store::PageKey;", "by way of the root"),
        ("garden.rs", "fn f() {}", "a module that has no floor"),
    ];
    for (file, source, why) in refused {
        assert_eq!(check(file, source).len(), 1, "{why}: {file}: {source}");
    }
    let allowed = [
        ("model/mail.rs", "use crate::smtp::address::Mailbox; use crate::model::name::Name;"),
        ("queue/mod.rs", "use crate::{config::Live, store::{Lease, QueueStore}};"),
        ("api/server.rs", "use actix_web::web; use tokio::task::JoinHandle; use crate::queue::operate::Operate;"),
        ("store/embedded/index.rs", "use sled::Tree;"),
        (
            "smtp/mod.rs",
            "//! See crate::inbound for the driver.\n/* tokio::spawn */ const TEXT: &str = \"use tokio::x\";",
        ),
        ("smtp/reply.rs", "const Q: char = '\"'; fn f<'a>(x: &'a str) {} // use tokio::io;"),
        ("smtp/raw.rs", "const T: &str = r#\"\"use tokio::io;\"#; macro_rules! m { () => { $crate::smtp::x() } }"),
        ("model/x.rs", "use super::name::Name; mod mytokio { } use self::mytokio::y; use super::super::smtp;"),
        ("main.rs", "use bridgehead::api::Api; use crate::boot;"),
    ];
    for (file, source) in allowed {
        assert_eq!(check(file, source), Vec::<String>::new(), "{file}: {source}");
    }
}

/// Everything that is against the floors, a line each.
fn violations(sources: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, source) in sources {
        let module = module_of(file);
        let Some(floor) = floor_of(&module) else {
            wrong.push(format!("{}: the module {module} has no floor", file.display()));
            continue;
        };
        let code = without_comments_and_strings(source);
        for (name, line) in roots(&code, file) {
            let at = format!("{}:{line}", file.display());
            match floor_of(&name) {
                _ if name == module || floor == FLOORS.len() - 1 => {}
                Some(other) if other < floor => {}
                Some(other) if other == floor => wrong.push(format!("{at}: {module} imports its sibling {name}")),
                Some(_) => wrong.push(format!("{at}: {module} imports {name} from a higher floor")),
                // A macro or an item of the root: not a floor.
                None => {}
            }
        }
        for Guarded { name, may_use } in GUARDED {
            if let Some(line) = uses_of(&code, name).first().filter(|_| !may_use(file)) {
                wrong.push(format!("{}:{line}: {module} must not use {name}", file.display()));
            }
        }
    }
    wrong
}

fn module_of(file: &Path) -> String {
    let first = file.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
    first.trim_end_matches(".rs").to_owned()
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn in_module(file: &Path, modules: &[&str]) -> bool {
    modules.contains(&module_of(file).as_str())
}

/// The first segments behind `crate::` (also inside of `crate::{…}`), and behind as many `super::` as lead to the root,
/// each with its line.
fn roots(code: &str, file: &Path) -> Vec<(String, usize)> {
    // `a/mod.rs` and `a.rs` are one step below the root, `a/b.rs` two. Inline modules only make it deeper.
    let depth = file.iter().count() - usize::from(file.ends_with("mod.rs"));
    let to_root = "super::".repeat(depth);
    let mut found = Vec::new();
    for prefix in ["crate::", to_root.as_str()] {
        for (start, _) in code.match_indices(prefix) {
            let before = code[..start].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                continue;
            }
            let line = code[..start].lines().count().max(1);
            let rest = code[start + prefix.len()..].trim_start();
            match rest.strip_prefix('{') {
                Some(list) => found.extend(names_of_list(list).into_iter().map(|name| (name, line))),
                None => found.push((identifier(rest), line)),
            }
        }
    }
    found
}

/// The first segments of the items of `{a::b, c::{d, e}, f}`, from behind the brace.
fn names_of_list(list: &str) -> Vec<String> {
    let (mut depth, mut begins, mut names) = (0, true, Vec::new());
    for (index, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && (c.is_alphanumeric() || c == '_') => {
                names.push(identifier(&list[index..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The lines where a crate is used: its name as a word, with `::` or `;` or ` as ` behind it.
fn uses_of(code: &str, name: &str) -> Vec<usize> {
    let word = |start: usize| {
        let before = code[..start].chars().next_back();
        let rest = &code[start + name.len()..];
        !before.is_some_and(|c| c.is_alphanumeric() || "_:.".contains(c) && !code[..start].ends_with(" ::"))
            && (rest.starts_with("::") || rest.starts_with(" as ") || rest.starts_with(';'))
    };
    let starts = code.match_indices(name).map(|(start, _)| start).filter(|start| word(*start));
    starts.map(|start| code[..start].lines().count().max(1)).collect()
}

/// The source with comments and the inside of string and character literals blanked, line ends kept.
fn without_comments_and_strings(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut code = String::with_capacity(source.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => (i..chars.len()).find(|&j| at(j) == '\n').unwrap_or(chars.len()),
            ('/', '*') => end_of_block(&chars, i),
            ('r', '"' | '#') if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => end_of_raw(&chars, i),
            ('"', _) => end_of_quoted(&chars, i, '"'),
            // A character literal, not a lifetime.
            ('\'', '\\') => end_of_quoted(&chars, i, '\''),
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => {
                code.push(at(i));
                i += 1;
                continue;
            }
        };
        code.extend(chars[i..end.min(chars.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        i = end;
    }
    code
}

fn end_of_block(chars: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) if depth == 1 => return i + 2,
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    i
}

fn end_of_quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn end_of_raw(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        // A raw identifier.
        return start + 1;
    }
    let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = start + 2 + hashes;
    let rest: String = chars[body..].iter().collect();
    body + rest.find(&end).map_or(rest.chars().count(), |at| rest[..at].chars().count() + end.len())
}

fn collect(root: &Path, directory: &Path, sources: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root").to_owned();
            sources.insert(name, fs::read_to_string(&path).expect("a source"));
        }
    }
}
