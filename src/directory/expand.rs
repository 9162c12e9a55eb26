//! From a template and a recipient to a local part.
//!
//! What a local part cannot hold without quotes is transliterated where that is common (`ü` → `ue`, `é` → `e`) and
//! dropped otherwise; `%rxy` comes before that. An empty token collapses with its dots.

use crate::model::name::Name;
use crate::model::spec::RecipientSpec;
use crate::model::template::{Part, Template, Token};
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
                let replaced =
                    value.chars().filter_map(|c| match replacements.iter().rev().find(|(from, _)| *from == c) {
                        Some((from, to)) if from == to => None,
                        Some((_, to)) => Some(*to),
                        None => Some(c),
                    });
                let allowed: String = replaced.flat_map(|c| transliterate(c).chars().collect::<Vec<_>>()).collect();
                local.extend(allowed.chars().take(length.map_or(usize::MAX, usize::from)));
            }
        }
    }
    local
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

fn transliterate(c: char) -> &'static str {
    const ASCII: &str = "!#$%&'*+-./0123456789=?ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz{|}~";
    if let Some(at) = ASCII.find(c) {
        return &ASCII[at..at + 1];
    }
    match c {
        'ä' | 'æ' => "ae",
        'ö' | 'œ' => "oe",
        'ü' => "ue",
        'Ä' | 'Æ' => "Ae",
        'Ö' | 'Œ' => "Oe",
        'Ü' => "Ue",
        'ß' => "ss",
        'þ' => "th",
        'Þ' => "Th",
        'à' | 'á' | 'â' | 'ã' | 'å' | 'ā' | 'ă' | 'ą' => "a",
        'À' | 'Á' | 'Â' | 'Ã' | 'Å' | 'Ā' | 'Ă' | 'Ą' => "A",
        'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => "c",
        'Ç' | 'Ć' | 'Ĉ' | 'Ċ' | 'Č' => "C",
        'ð' | 'ď' | 'đ' => "d",
        'Ð' | 'Ď' | 'Đ' => "D",
        'è' | 'é' | 'ê' | 'ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => "e",
        'È' | 'É' | 'Ê' | 'Ë' | 'Ē' | 'Ĕ' | 'Ė' | 'Ę' | 'Ě' => "E",
        'ĝ' | 'ğ' | 'ġ' | 'ģ' => "g",
        'Ĝ' | 'Ğ' | 'Ġ' | 'Ģ' => "G",
        'ĥ' | 'ħ' => "h",
        'Ĥ' | 'Ħ' => "H",
        'ì' | 'í' | 'î' | 'ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' | 'ı' => "i",
        'Ì' | 'Í' | 'Î' | 'Ï' | 'Ĩ' | 'Ī' | 'Ĭ' | 'Į' | 'İ' => "I",
        'ĵ' => "j",
        'Ĵ' => "J",
        'ķ' => "k",
        'Ķ' => "K",
        'ĺ' | 'ļ' | 'ľ' | 'ł' => "l",
        'Ĺ' | 'Ļ' | 'Ľ' | 'Ł' => "L",
        'ñ' | 'ń' | 'ņ' | 'ň' => "n",
        'Ñ' | 'Ń' | 'Ņ' | 'Ň' => "N",
        'ò' | 'ó' | 'ô' | 'õ' | 'ø' | 'ō' | 'ŏ' | 'ő' => "o",
        'Ò' | 'Ó' | 'Ô' | 'Õ' | 'Ø' | 'Ō' | 'Ŏ' | 'Ő' => "O",
        'ŕ' | 'ŗ' | 'ř' => "r",
        'Ŕ' | 'Ŗ' | 'Ř' => "R",
        'ś' | 'ŝ' | 'ş' | 'š' | 'ș' => "s",
        'Ś' | 'Ŝ' | 'Ş' | 'Š' | 'Ș' => "S",
        'ţ' | 'ť' | 'ŧ' | 'ț' => "t",
        'Ţ' | 'Ť' | 'Ŧ' | 'Ț' => "T",
        'ù' | 'ú' | 'û' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' => "u",
        'Ù' | 'Ú' | 'Û' | 'Ũ' | 'Ū' | 'Ŭ' | 'Ů' | 'Ű' | 'Ų' => "U",
        'ŵ' => "w",
        'Ŵ' => "W",
        'ý' | 'ÿ' | 'ŷ' => "y",
        'Ý' | 'Ÿ' | 'Ŷ' => "Y",
        'ź' | 'ż' | 'ž' => "z",
        'Ź' | 'Ż' | 'Ž' => "Z",
        _ => "",
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
        ] {
            let made = expand(&template.parse().unwrap(), &name, &person(given, surname), None);
            assert_eq!(made.unwrap().to_string(), address, "{template}");
        }
        assert_eq!(expand(&"%g@example.com".parse().unwrap(), &name, &person("李", ""), None), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_out_is_an_address_without_quotes(
            local in "[a-z.]{0,8}(%[gsidm]|%[1-9][gsidm]|%r..|%%|[a-z.+-]){0,8}",
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
