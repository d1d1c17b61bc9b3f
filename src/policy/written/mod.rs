//! Policies as people write them: in `[policy]`, in a tenant, a rule or an override, and for `soloist decide`.
//!
//! Every mistake is reported, not only the first. A layer starts from the layer below and replaces the keys it names;
//! rules and overrides start from the tenant's policy.

mod lists;
mod nearest;
mod read;
mod table;

use serde_json::{Map, Value};

use super::{Count, Limit, Mode, Policy, ResolvedPolicy, Source, Strategy, TenantPolicies};
use crate::model::TenantId;
use table::Table;

/// Every option of a policy with its default, in TOML.
pub const KEYS: [(&str, &str); 10] = [
    ("mode", "\"enforce\""),
    ("limit", "1"),
    ("strategy", "\"evict_oldest\""),
    ("count", "\"session\""),
    ("device_fields", "[\"device_type\", \"os\", \"browser\"]"),
    ("per_device", "1"),
    ("buckets", "\"none\""),
    ("session_lifetime", "\"30d\""),
    ("pins_max", "0"),
    ("canary_percent", "100"),
];

/// What `[policy]` and a tenant's policy may hold besides: lists of tables.
pub const LISTS: [&str; 3] = ["rules", "overrides", "exemptions"];

/// One thing that is wrong in what was written, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct Mistake {
    /// Where it is, such as `policy.limit` or `policy.rules[0].role`.
    pub path: String,
    /// A fragment that fits behind the path.
    pub problem: String,
}

/// One policy alone, without rules, overrides and exemptions.
pub fn policy(value: &Value, path: &str) -> Result<ResolvedPolicy, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut table = Table::open(value, path, &mut mistakes);
    table.allow_only(&[]);
    let policy = overlay(&Policy::default(), &mut table, Layer::Bottom);
    if mistakes.is_empty() { Ok(ResolvedPolicy::new("default", Source::Default, policy)) } else { Err(mistakes) }
}

/// Everything that is written for one tenant. `default` is the `[policy]` table, and `tenant` the tenant's own, where
/// it has one; each comes with the path that mistakes are to name. A tenant that names `rules`, `overrides` or
/// `exemptions` has its own list instead of the default's.
pub fn tenant_policies(
    default: &Value,
    default_path: &str,
    tenant: Option<(&TenantId, &Value, &str)>,
) -> Result<TenantPolicies, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut table = Table::open(default, default_path, &mut mistakes);
    table.allow_only(&LISTS);
    let base = overlay(&Policy::default(), &mut table, Layer::Bottom);
    let mut base = ResolvedPolicy::new("default", Source::Default, base);
    if let Some((name, value, path)) = tenant {
        let mut table = Table::open(value, path, &mut mistakes);
        table.allow_only(&LISTS);
        let names_a_key = KEYS.iter().any(|(key, _)| table.names(key));
        let policy = overlay(&base.policy, &mut table, Layer::Above);
        if names_a_key {
            base = ResolvedPolicy::new(name.as_str(), Source::Tenant, policy);
        }
    }
    let lists = LISTS.map(|list| {
        let own = tenant.filter(|(_, value, _)| value.get(list).is_some());
        let (value, path) = own.map_or((default, default_path), |(_, value, path)| (value, path));
        (value.get(list).unwrap_or(&Value::Null), format!("{path}.{list}"))
    });
    let [rules, overrides, exemptions] = &lists;
    let policies = TenantPolicies {
        rules: lists::rules(rules.0, &rules.1, &base.policy, &mut mistakes),
        overrides: lists::overrides(overrides.0, &overrides.1, &base.policy, &mut mistakes),
        exemptions: lists::exemptions(exemptions.0, &exemptions.1, &mut mistakes),
        base,
    };
    if mistakes.is_empty() { Ok(policies) } else { Err(mistakes) }
}

/// The written form of a policy, with every key. Read again, it gives the same policy.
pub fn json(policy: &Policy) -> Value {
    let limit = |limit: Limit| match limit {
        Limit::AtMost(count) => Value::from(count.get()),
        Limit::Unlimited => Value::from("unlimited"),
    };
    let buckets = policy.buckets.as_ref().map_or(Value::from("none"), |buckets| {
        let limits: Map<String, Value> = buckets.limits.iter().map(|(name, at)| (name.clone(), limit(*at))).collect();
        sorted([("by", buckets.by.as_str().into()), ("limits", limits.into())])
    });
    let fields: Vec<&str> = policy.device_fields.iter().map(|field| field.as_str()).collect();
    sorted([
        ("buckets", buckets),
        ("canary_percent", read::percent_json(policy.canary)),
        ("count", policy.count.as_str().into()),
        ("device_fields", fields.into()),
        ("limit", limit(policy.limit)),
        ("mode", policy.mode.as_str().into()),
        ("per_device", limit(policy.per_device)),
        ("pins_max", policy.pins_max.into()),
        ("session_lifetime", read::duration_text(policy.session_lifetime).into()),
        ("strategy", policy.strategy.as_str().into()),
    ])
}

/// An object whose keys are given in order, so that its text is canonical whichever map serde_json is built with.
fn sorted<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Bottom,
    Above,
}

/// The policy below with the keys of this table in their places.
fn overlay(below: &Policy, table: &mut Table<'_>, layer: Layer) -> Policy {
    let mut policy = below.clone();
    table.set("mode", &mut policy.mode, |value| read::word(value, &Mode::ALL, Mode::as_str));
    table.set("limit", &mut policy.limit, read::limit);
    table.set("strategy", &mut policy.strategy, |value| read::word(value, &Strategy::ALL, Strategy::as_str));
    table.set("count", &mut policy.count, |value| read::word(value, &Count::ALL, Count::as_str));
    table.set("device_fields", &mut policy.device_fields, read::device_fields);
    table.set("per_device", &mut policy.per_device, read::limit);
    table.set("session_lifetime", &mut policy.session_lifetime, read::duration);
    table.set("pins_max", &mut policy.pins_max, |value| read::whole_number(value, 0, Limit::MAX));
    table.set("canary_percent", &mut policy.canary, read::percent);
    table.set_buckets(&mut policy.buckets);
    let concerned = ["count", "device_fields", "buckets"].iter().any(|key| table.names(key));
    if (layer == Layer::Bottom || concerned)
        && policy.count == Count::Device
        && let Some(buckets) = policy.buckets.as_ref().filter(|buckets| !policy.device_fields.contains(&buckets.by))
    {
        let by = buckets.by.as_str();
        table.mistake(
            "buckets.by",
            format!(
                "\"{by}\" must be one of device_fields where count is \"device\": sessions of one device in two \
                 buckets would make one more login save an older one"
            ),
        );
    }
    policy
}

#[cfg(test)]
mod tests;
