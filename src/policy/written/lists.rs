//! Rules, overrides and exemptions as they are written.

use std::collections::HashMap;

use serde_json::Value;

use super::super::layers::{Exemption, ExemptionEffect, ExemptionMatch, TraitMatch};
use super::super::{Policy, ResolvedPolicy, Source};
use super::table::Table;
use super::{Layer, Mistake, overlay, read};
use crate::model::UserId;

pub(super) fn rules(
    list: &Value,
    path: &str,
    base: &Policy,
    mistakes: &mut Vec<Mistake>,
) -> Vec<(TraitMatch, ResolvedPolicy)> {
    let mut rules = Vec::new();
    each(list, path, mistakes, |table| {
        table.allow_only(&["role", "custom_field", "equals"]);
        let policy = overlay(base, table, Layer::Above);
        let Some(who) = one_of(table, &["role", "custom_field"]) else { return };
        let Some(matches) = trait_match(table, who) else { return };
        let name = match &matches {
            TraitMatch::Role(role) => format!("role {role}"),
            TraitMatch::CustomField { name, equals } => format!("custom field {name} = {equals}"),
            TraitMatch::EmailDomain(domain) => format!("e-mail domain {domain}"),
        };
        rules.push((matches, ResolvedPolicy::new(&name, Source::Rule, policy)));
    });
    rules
}

pub(super) fn overrides(
    list: &Value,
    path: &str,
    base: &Policy,
    mistakes: &mut Vec<Mistake>,
) -> HashMap<UserId, ResolvedPolicy> {
    let mut overrides = HashMap::new();
    each(list, path, mistakes, |table| {
        table.allow_only(&["uid"]);
        let policy = overlay(base, table, Layer::Above);
        let Some(user) = table.required("uid", uid) else { return };
        let policy = ResolvedPolicy::new(user.as_str(), Source::Override, policy);
        if overrides.insert(user, policy).is_some() {
            table.mistake("uid", "has an override above already".to_owned());
        }
    });
    overrides
}

pub(super) fn exemptions(list: &Value, path: &str, mistakes: &mut Vec<Mistake>) -> Vec<(ExemptionMatch, Exemption)> {
    const WHO: [&str; 4] = ["uid", "role", "email_domain", "custom_field"];
    let mut exemptions = Vec::new();
    each(list, path, mistakes, |table| {
        let others = ["equals", "effect", "reason", "owner", "expires"];
        table.allow_nothing_but(&[&WHO[..], &others[..]].concat());
        let effect = |value: &Value| read::word(value, &ExemptionEffect::ALL, ExemptionEffect::as_str);
        let mut exemption_effect = ExemptionEffect::Ignored;
        table.set("effect", &mut exemption_effect, effect);
        let reason = table.required("reason", read::text);
        let owner = table.required("owner", read::text);
        let expires = table.required("expires", read::expiry);
        let who = one_of(table, &WHO).and_then(|who| match who {
            "uid" => table.read(who, uid).map(ExemptionMatch::User),
            _ => trait_match(table, who).map(ExemptionMatch::Traits),
        });
        if let (Some(who), Some(reason), Some(owner), Some(expires)) = (who, reason, owner, expires) {
            let (reason, owner) = (reason.into(), owner.into());
            exemptions.push((who, Exemption { effect: exemption_effect, reason, owner, expires }));
        }
    });
    exemptions
}

fn each(list: &Value, path: &str, mistakes: &mut Vec<Mistake>, mut read_item: impl FnMut(&mut Table<'_>)) {
    match list {
        Value::Null => {}
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let path = format!("{path}[{n}]");
                let mut table = Table::open(item, &path, mistakes);
                if item.is_object() {
                    read_item(&mut table);
                }
            }
        }
        _ => mistakes.push(Mistake {
            path: path.to_owned(),
            problem: format!("must be a list of tables, not {}", read::shown(list)),
        }),
    }
}

/// The one of these keys that the table names.
fn one_of<'k>(table: &mut Table<'_>, keys: &[&'k str]) -> Option<&'k str> {
    let mut named = keys.iter().copied().filter(|key| table.names(key));
    let (first, second) = (named.next(), named.next());
    if first.is_none() || second.is_some() {
        table.mistake_here(format!("must name exactly one of {}", keys.join(", ")));
        return None;
    }
    first
}

fn trait_match(table: &mut Table<'_>, key: &str) -> Option<TraitMatch> {
    let text = table.read(key, read::text);
    if key == "custom_field" {
        let equals = table.required("equals", read::text);
        return Some(TraitMatch::CustomField { name: text?, equals: equals? });
    }
    if table.names("equals") {
        table.mistake("equals", "goes with custom_field only".to_owned());
    }
    match key {
        "role" => text.map(TraitMatch::Role),
        _ => text.map(|domain| TraitMatch::EmailDomain(domain.trim_start_matches('@').to_lowercase())),
    }
}

fn uid(value: &Value) -> Result<UserId, String> {
    UserId::parse(value.as_str().unwrap_or_default()).map_err(|bad| format!("{bad}, not {}", read::shown(value)))
}
