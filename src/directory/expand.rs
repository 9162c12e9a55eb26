//! From a template and a recipient to a local part.
//!
//! What comes out can always stand in an address without quotes and without SMTPUTF8. In the value of a token, in this
//! order: `%rxy` replaces; what is not ASCII is transliterated (`ü` → `ue`, `é` → `e`, `Ж` → `Zh`, `李` → `Li`); what an
//! address cannot hold is dropped; `%<n>` cuts. A dot in a name (`Mark M. Clark`) separates nothing and is dropped too,
//! unless a `%r` speaks of it, which then decides: `%r._` replaces it and `%r..` keeps it, as Exchange documents both. The
//! alias keeps its dots. In the end an empty token collapses with the dots beside it.

use crate::model::name::Name;
use crate::model::spec::RecipientSpec;
use crate::model::template::{Part, Template, Token, may_stand};
use crate::smtp::address::{MAX_LOCAL_PART, Mailbox};

/// The address that the template makes for a recipient, with `number` behind its local part when there is one. `None`
/// when nothing is left of the local part, or the address would be too long.
pub fn expand(template: &Template, name: &Name, recipient: &RecipientSpec, number: Option<u32>) -> Option<Mailbox> {
    let suffix = number.map(|number| number.to_string()).unwrap_or_default();
    let mut local = collapse(&characters(template, name, recipient));
    // everything is ASCII here
    local.truncate(MAX_LOCAL_PART - suffix.len());
    let local = collapse(&local);
    if local.is_empty() {
        return None;
    }
    Mailbox::new(&format!("{local}{suffix}"), template.domain().clone()).ok()
}

fn characters(template: &Template, name: &Name, recipient: &RecipientSpec) -> String {
    let mut replacements: Vec<(char, char)> = Vec::new();
    let mut local = String::new();
    for part in template.parts() {
        match part {
            Part::Character(c) => local.push(*c),
            Part::Replace(from, to) => replacements.push((*from, *to)),
            Part::Token(token, length) => {
                let value = value(*token, name, recipient).unwrap_or_default();
                let value = allowed(*token, value, &replacements);
                local.extend(value.chars().take(length.map_or(usize::MAX, usize::from)));
            }
        }
    }
    local
}

/// The value of a token as an address can hold it.
fn allowed(token: Token, value: &str, replacements: &[(char, char)]) -> String {
    let mut text = String::with_capacity(value.len());
    let mut before = None;
    for c in value.chars() {
        match replacements.iter().rev().find(|(from, _)| *from == c) {
            Some(('.', '.')) => text.push('.'),
            Some((from, to)) if from == to => {}
            Some((_, to)) => text.push(*to),
            None if c == '.' && token != Token::Alias => {}
            None if c.is_ascii() => text.extend(Some(c).filter(|c| may_stand(*c))),
            // a German umlaut in two characters
            None if c == '\u{308}' && before.is_some_and(|before| "aouAOU".contains(before)) => text.push('e'),
            None => text.extend(transliterate(c).chars().filter(|c| may_stand(*c) && *c != '.')),
        }
        before = Some(c);
    }
    text
}

fn value<'a>(token: Token, name: &'a Name, recipient: &'a RecipientSpec) -> Option<&'a str> {
    match token {
        Token::GivenName => recipient.given_name.as_deref(),
        Token::Surname => recipient.surname.as_deref(),
        Token::Initials => recipient.initials.as_deref(),
        Token::DisplayName => recipient.display_name.as_deref(),
        Token::Alias => recipient.alias.as_deref().or(Some(name.as_str())),
    }
}

/// No dot at an edge, no two in a row.
fn collapse(local: &str) -> String {
    local.split('.').filter(|atom| !atom.is_empty()).collect::<Vec<_>>().join(".")
}

/// ASCII for a character; German as Germans write it.
fn transliterate(c: char) -> &'static str {
    match c {
        'ä' => "ae",
        'ö' => "oe",
        'ü' => "ue",
        'Ä' => "Ae",
        'Ö' => "Oe",
        'Ü' => "Ue",
        _ => any_ascii::any_ascii_char(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn person(given: &str, surname: &str) -> RecipientSpec {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        RecipientSpec { given_name: some(given), surname: some(surname), ..RecipientSpec::default() }
    }

    #[test]
    fn templates_expand_as_exchange_did() {
        let name: Name = "jsmith".parse().unwrap();
        for (template, given, surname, address) in [
            ("@example.com", "John", "Smith", "jsmith@example.com"),
            ("%g.%s@example.com", "John", "Smith", "John.Smith@example.com"),
            ("%g.%s@example.com", "", "Smith", "Smith@example.com"),
            ("%1g%s@example.com", "John", "Smith", "JSmith@example.com"),
            ("%rSZ%rh$%s.%m@example.com", "", "Smith", "Zmit$.jsmit$@example.com"),
            ("%r--%g.%s@example.com", "Jean-Luc", "Dü Pont", "JeanLuc.DuePont@example.com"),
            ("%m%%@example.com", "", "", "jsmith%@example.com"),
            ("%G.%S@example.com", "Ada", "Lovelace", "Ada.Lovelace@example.com"),
            ("%5g%5s@example.com", "Maximilian", "Smith", "MaximSmith@example.com"),
            ("%g.%r'_%s@example.com", "O'Neil", "O'Connell", "O'Neil.O_Connell@example.com"),
            ("%r''%r-_%g.%s@example.com", "Jean-Luc", "O'Connell", "Jean_Luc.OConnell@example.com"),
            ("%rxy%ryz%g@example.com", "xy", "", "yz@example.com"),
            ("%raa%raB%g@example.com", "abba", "", "BbbB@example.com"),
            ("%r._text.%g@example.com", "A.b", "", "text.A_b@example.com"),
        ] {
            let made = expand(&template.parse().unwrap(), &name, &person(given, surname), None);
            assert_eq!(made.unwrap().to_string(), address, "{template}");
        }
        assert_eq!(expand(&"%g@example.com".parse().unwrap(), &name, &person("()", ""), None), None);
    }

    /// KB 153270 (mailbox `markc`) and the help of Exchange 2000 (mailbox `daniels`).
    #[test]
    fn the_documented_examples_of_exchange() {
        let of = |display: &str, given: &str, initials: &str, surname: &str| RecipientSpec {
            display_name: Some(display.into()),
            initials: Some(initials.into()),
            ..person(given, surname)
        };
        let (mark, daniel) =
            (of("Mark M. Clark", "Mark", "M", "Clark"), of("Daniel B. Shelly", "Daniel", "B", "Shelly"));
        for (name, recipient, template, local) in [
            ("markc", &mark, "%d", "MarkMClark"),
            ("markc", &mark, "%r._%d", "MarkM_Clark"),
            ("markc", &mark, "%r..%d", "MarkM.Clark"),
            ("markc", &mark, "%g.%s", "Mark.Clark"),
            ("markc", &mark, "", "markc"),
            ("daniels", &daniel, "%s", "Shelly"),
            ("daniels", &daniel, "%g", "Daniel"),
            ("daniels", &daniel, "%g.%i.%s", "Daniel.B.Shelly"),
            ("daniels", &daniel, "%d", "DanielBShelly"),
            ("daniels", &daniel, "%m", "daniels"),
            ("daniels", &daniel, "%1s", "S"),
            ("daniels", &daniel, "%5g", "Danie"),
            ("daniels", &daniel, "%1g%s", "DShelly"),
            ("daniels", &daniel, "%rly%s", "Sheyyy"),
            ("daniels", &daniel, "%rll%s", "Shey"),
            ("daniels", &daniel, "%m%%", "daniels%"),
        ] {
            let made =
                expand(&format!("{template}@example.com").parse().unwrap(), &name.parse().unwrap(), recipient, None);
            assert_eq!(made.unwrap().to_string(), format!("{local}@example.com"), "{template}");
        }
    }

    #[test]
    fn whatever_the_script_it_becomes_ascii() {
        let name: Name = "x".parse().unwrap();
        for (given, surname, local) in [
            ("Jürgen", "Großmann", "Juergen.Grossmann"),
            ("Ju\u{308}rgen", "A\u{308}rmel", "Juergen.Aermel"),
            ("Çağla", "Şahin", "Cagla.Sahin"),
            ("Zoë", "Ångström", "Zoe.Angstroem"),
            ("Łukasz", "Żółć", "Lukasz.Zolc"),
            ("Γιώργος", "Παπαδόπουλος", "Giorgos.Papadopoylos"),
            ("Иван", "Щукин", "Ivan.Shchukin"),
            ("李", "小龙", "Li.XiaoLong"),
            ("さくら", "タナカ", "sakura.tanaka"),
            ("محمد", "", "mhmd"),
            ("Seán", "O’Brien", "Sean.O'Brien"),
            ("Mary Ann", "(Smith)", "MaryAnn.Smith"),
        ] {
            let made = expand(&"%g.%s@example.com".parse().unwrap(), &name, &person(given, surname), None);
            assert_eq!(made.unwrap().to_string(), format!("{local}@example.com"), "{given} {surname}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_out_is_an_address_without_quotes(
            local in "[a-z.]{0,8}(%[gsidm]|%[1-9][gsidm]|%r[^@][a-z.+!#]|%%|[a-z.+-]){0,8}",
            alias in proptest::option::of(".{0,80}"),
            given in proptest::option::of(".{0,80}"),
            surname in proptest::option::of("\\PC{0,80}"),
            number in proptest::option::of(0_u32..),
        ) {
            let name: Name = "some.one".parse().unwrap();
            let recipient = RecipientSpec { alias, given_name: given, surname, ..RecipientSpec::default() };
            let template: Template = format!("{local}@example.com").parse().unwrap();
            if let Some(address) = expand(&template, &name, &recipient, number) {
                let text = address.to_string();
                prop_assert!(!text.contains('"'), "{}", text);
                prop_assert_eq!(text.parse::<Mailbox>().unwrap(), address);
            }
        }
    }
}
